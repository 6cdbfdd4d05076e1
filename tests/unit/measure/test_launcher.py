"""One launch, described for the first set of tensors and repeated for the others past the JIT."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fusetune.errors import MeasurementError
from fusetune.measure.launcher import Launcher
from fusetune.ops.spec import Call, Launch, TileDescriptor


class FakeKernel:
    """Stands in for a @triton.jit function and for what it compiles to, which takes every argument by position."""

    arg_names = ("x_ptr", "y_ptr", "partial_ptr", "n", "BLOCK")

    def __init__(self) -> None:
        self.jit_calls: list[tuple[tuple[int, ...], dict[str, Any]]] = []
        self.direct_calls: list[tuple[tuple[int, ...], tuple[Any, ...]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda **named: self._compiled(grid, named)

    def _compiled(self, grid: tuple[int, ...], named: dict[str, Any]) -> Any:
        self.jit_calls.append((grid, named))
        outer = self

        class Compiled:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                return lambda *arguments: outer.direct_calls.append((grid, arguments))

        return Compiled()


def _sets(count: int = 3) -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.full((16, 16), float(i)), "y": torch.empty(16, 16)} for i in range(count)]


def test_a_launch_goes_through_the_jit_once_and_then_straight_to_the_kernel_with_each_set_s_own_tensors() -> None:
    kernel, sets, partial = FakeKernel(), _sets(), torch.empty(4)
    arguments = {"x_ptr": sets[0]["x"], "y_ptr": sets[0]["y"], "partial_ptr": partial, "n": 16}
    launcher = Launcher(Launch(kernel, (7,), arguments, {"BLOCK": 64}, {"num_warps": 8}), sets, {"partial": partial})
    for index in (2, 0, 1):
        launcher.launch(index)
    assert kernel.jit_calls == [((7,), {**arguments, "BLOCK": 64, "num_warps": 8})]
    for index, (grid, given) in zip((2, 0, 1), kernel.direct_calls, strict=True):
        assert grid == (7, 1, 1)
        assert given[0] is sets[index]["x"]
        assert given[1] is sets[index]["y"]
        assert given[2] is partial
        assert given[3:] == (16, 64)


def test_a_descriptor_is_made_anew_for_each_set_s_own_tensor() -> None:
    kernel, sets = FakeKernel(), _sets(2)
    arguments = {"x_ptr": TileDescriptor(sets[0]["x"], (16, 16)), "y_ptr": sets[0]["y"], "partial_ptr": None, "n": 1}
    launcher = Launcher(Launch(kernel, (1,), arguments, {"BLOCK": 16}), sets)
    launcher.launch(0)
    launcher.launch(1)
    assert kernel.jit_calls[0][1]["x_ptr"].base is sets[0]["x"]
    descriptors = [given[0] for _, given in kernel.direct_calls]
    assert [found.base is own["x"] for found, own in zip(descriptors, sets, strict=True)] == [True, True]
    assert [list(found.block_shape) for found in descriptors] == [[16, 16], [16, 16]]


def test_a_call_is_made_with_each_set_s_own_tensors_and_not_before() -> None:
    sets, seen = _sets(2), []
    call = Call(lambda **named: seen.append(named), {"x": sets[0]["x"], "out": sets[0]["y"], "tf32": True})
    launcher = Launcher(call, sets)
    assert seen == []
    launcher.launch(1)
    (named,) = seen
    assert named["x"] is sets[1]["x"]
    assert named["out"] is sets[1]["y"]
    assert named["tf32"] is True


def test_a_tensor_that_belongs_to_no_set_and_no_workspace_is_refused_by_its_argument_s_name() -> None:
    kernel, sets = FakeKernel(), _sets()
    stray = {"x_ptr": sets[0]["x"], "y_ptr": sets[0]["y"], "partial_ptr": torch.empty(4), "n": 16}
    with pytest.raises(MeasurementError, match="argument partial_ptr of a launch is a tensor"):
        Launcher(Launch(kernel, (1,), stray, {"BLOCK": 64}), sets)
    with pytest.raises(MeasurementError, match="argument out of a launch is a tensor"):
        Launcher(Call(print, {"out": torch.empty(4)}), sets)
    hidden = {**stray, "partial_ptr": TileDescriptor(torch.empty(16, 16), (16, 16))}
    with pytest.raises(MeasurementError, match="argument partial_ptr of a launch is a tensor"):
        Launcher(Launch(kernel, (1,), hidden, {"BLOCK": 64}), sets)
