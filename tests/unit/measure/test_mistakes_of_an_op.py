"""What of an op first runs in the worker: a mistake there is told as the op's, what one config meets is its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from fusetune.core.config import NamedConfig
from fusetune.errors import OpError
from fusetune.measure.protocol import Checked, Failure
from fusetune.measure.session import GpuSession
from fusetune.ops.spec import Call, KernelSpec, Operand

BASELINE, OTHER = NamedConfig(FACTOR=2), NamedConfig(FACTOR=2, num_warps=8)
Member = Callable[..., Any]


def double(x: torch.Tensor, y: torch.Tensor, factor: int) -> None:
    y.copy_(x * factor)


class Double(KernelSpec):
    """y = 2 x on the CPU, with members that a test puts in the place of its own."""

    name = "double"

    def __init__(self, **members: Member) -> None:
        self.members = members

    def baseline(self, problem: Any) -> NamedConfig:
        return BASELINE

    def operands(self, problem: Any) -> tuple[Operand, ...]:
        return Operand("x", (5,), "float32"), Operand("y", (5,), "float32", "output")

    def launches(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> Sequence[Call]:
        if "launches" in self.members:
            self.members["launches"](config)
        return [Call(double, {"x": tensors["x"], "y": tensors["y"], "factor": config.FACTOR})]

    def constants(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.members["constants"](config) if "constants" in self.members else {}

    def reference(self, problem: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        right = {"y": inputs["x"].double() * 2}
        return self.members["reference"](right) if "reference" in self.members else right


class Session(GpuSession):
    """The tensors on the CPU, and nothing timed."""

    def __init__(self, **members: Member) -> None:
        self._torch, self._device = torch, torch.device("cpu")
        self._spec, self._problem, self._baseline = Double(**members), None, BASELINE  # type: ignore[assignment]
        self._sets = [self._draw(torch.Generator().manual_seed(0))]
        self._references, self._states, self._launchers = None, {}, {}

    def _rough_us(self, config: Any, tensors: dict[str, Any]) -> float:
        return 1.0


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def failing(error: Exception, of: NamedConfig | None = None) -> Member:
    def member(given: Any) -> Any:
        if of is None or given == of:
            raise error
        return {}

    return member


def test_a_sound_op_is_right() -> None:
    assert Session().check(BASELINE) == Checked(error=0.0, rough_us=1.0)


@pytest.mark.parametrize("member", ["reference", "constants", "launches"])
def test_a_mistake_at_baseline_names_the_op_the_member_and_the_line(member: str) -> None:
    session = Session(**{member: failing(NameError("name 'torhc' is not defined"))})
    with pytest.raises(OpError) as caught:
        session.check(BASELINE)
    told = f"op double: its {member}() fails: NameError: name 'torhc' is not defined (test_mistakes_of_an_op.py:"
    assert str(caught.value).startswith(told)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("member", ["constants", "launches"])
def test_a_mistake_that_only_one_config_meets_is_that_config_s_outcome(member: str) -> None:
    session = Session(**{member: failing(KeyError("z"), OTHER)})
    assert isinstance(session.check(BASELINE), Checked)
    outcome = session.check(OTHER)
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.fatal) == ("launch_error", False)
    assert outcome.detail.startswith(f"op double: its {member}() fails: KeyError: 'z'")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OSError(28, "No space left on device"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("member", ["reference", "constants", "launches"])
def test_trouble_of_the_machine_stays_what_it_is(member: str, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Session(**{member: failing(error)}).check(BASELINE)
    assert caught.value is error


def test_a_reference_of_another_shape_is_not_broadcast() -> None:
    session = Session(reference=lambda right: {"y": right["y"][:, None]})
    with pytest.raises(OpError, match=r"its reference\(\) gives y the shape \(5, 1\), and its operands\(\) \(5,\)"):
        session.check(BASELINE)


def test_an_output_that_the_reference_leaves_out_is_not_taken_for_right() -> None:
    with pytest.raises(OpError, match=r"its reference\(\) gives no y, so that it could not be checked"):
        Session(reference=lambda right: {}).check(BASELINE)
