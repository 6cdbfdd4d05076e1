"""Which cases of a program are tuned, and what an error of one comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.cases import Case, KernelSeen
from fusetune.cli.tuned import sentences_on, to_builtins
from fusetune.core.config import NamedConfig
from fusetune.errors import (
    CaptureError,
    CompileError,
    ConfigFileError,
    FusetuneError,
    MeasurementError,
    NoCandidateError,
    NoisyMachineError,
    NotCheckableError,
    NothingTunedError,
    NoUsableGpuError,
    UnsupportedProblemError,
    WrongResultError,
)
from fusetune.tune import program as module
from fusetune.tune.program import LATER_BUDGET_S, budget_of, tune_case, winners_of, worth_tuning
from tests.support.kept_verdicts import kept


def case(kernel: str = "k", us: float | None = 1.0, launches: int = 1, kept: str | None = "/kept") -> Case:
    return Case(
        kernel=KernelSeen(kernel, "m", "m.py", 1),
        grid=(1,),
        grid_kind="tuple",
        tensors={},
        values={"launches": launches},
        constants={},
        options={},
        before={},
        us=us,
        launches=launches,
        kept=kept,
        findings=() if kept else ("it cannot be launched again: x holds pointers",),
    )


def test_of_each_kernel_those_cases_that_make_up_its_time() -> None:
    long, short, other = case(us=99.0), case(us=1.0, launches=2), case("other", us=3.0)
    assert worth_tuning([short, long, other], 0.95) == [long, other]
    assert worth_tuning([short, long, other], 1.0) == [long, short, other]


def test_no_more_than_a_few_and_without_times_those_of_most_launches() -> None:
    many = [case(us=None, launches=number) for number in range(1, 30)]
    assert [one.launches for one in worth_tuning(many, 0.95, most=3)] == [29, 28, 27]


def test_a_kernel_s_later_cases_begin_with_what_won_for_the_first_and_take_less_time(tmp_path: Path) -> None:
    first, other = case("k", us=9.0), case("other")
    won = NamedConfig(BLOCK=64, num_warps=8, num_stages=2)
    tuned = [kept(first, NamedConfig(BLOCK=32), won, tmp_path)]
    assert winners_of(tuned, first.kernel) == (won,)
    assert winners_of(tuned, other.kernel) == ()
    assert budget_of(tuned, first.kernel, 30.0) == LATER_BUDGET_S < 30.0
    assert budget_of(tuned, first.kernel, 1.0) == 1.0
    assert budget_of(tuned, other.kernel, 30.0) == budget_of([], first.kernel, 30.0) == 30.0
    reverted = [structs.replace(tuned[0], end="revert")]
    assert winners_of(reverted, first.kernel) == ()


class Spec:
    name = "op"

    def __init__(self, folder: Any) -> None:
        self.folder = folder


@pytest.mark.parametrize(
    ("error", "end", "word"),
    [
        (CaptureError("no"), "skipped", "not_launchable"),
        (UnsupportedProblemError("no"), "skipped", "not_launchable"),
        (NotCheckableError("not checkable: no"), "skipped", "not_checkable"),
        (NoCandidateError("no"), "revert", "no_candidate"),
        (NoisyMachineError("no"), "inconclusive", "noisy_machine"),
        (NothingTunedError("no"), "failed", "machine"),
        (MeasurementError("no"), "failed", "machine"),
        (WrongResultError("no"), "failed", "wrong_result"),
        (CompileError("no"), "failed", "not_compiled"),
        (ConfigFileError("no"), "failed", "usage"),
    ],
)
def test_an_error_ends_one_case_with_its_reason_and_a_word_for_it(
    monkeypatch: pytest.MonkeyPatch, error: FusetuneError, end: str, word: str
) -> None:
    monkeypatch.setattr(module, "CapturedSpec", Spec)

    def fails(spec: Any) -> Any:
        raise error

    found = tune_case(case(), fails, lambda request: pytest.fail("nothing is run"))
    assert (found.end, found.why, found.reason) == (end, str(error), word)
    (kernel,) = to_builtins("p.py", None, 1.0, [found])["kernels"]
    (told,) = kernel["cases"]
    assert (told["verdict"], told["why"], told["reason"]) == (end, str(error), word)
    assert told["chosen"] == told["before"], "what runs stays"


def test_what_was_wrong_is_counted_where_nothing_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CapturedSpec", Spec)

    def fails(spec: Any) -> Any:
        raise NoCandidateError("nothing is left", tried=5, failures={"wrong_result": 4, "registers": 1})

    found = tune_case(case(), fails, lambda request: pytest.fail("nothing is run"))
    assert "k: of 5 candidates 4 wrong_result" in sentences_on([found])
    ((told,),) = (kernel["cases"] for kernel in to_builtins("p.py", None, 1.0, [found])["kernels"])
    assert (told["tried"], told["failures"]) == (5, {"wrong_result": 4, "registers": 1})


def test_what_was_not_captured_says_why_and_no_gpu_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tune_case(
        case(kept=None), lambda spec: pytest.fail("not asked for"), lambda request: pytest.fail("nor run")
    )
    assert (found.end, found.reason, found.why) == (
        "skipped",
        "not_captured",
        "it cannot be launched again: x holds pointers",
    )
    monkeypatch.setattr(module, "CapturedSpec", Spec)

    def none(spec: Any) -> Any:
        raise NoUsableGpuError("none")

    with pytest.raises(NoUsableGpuError):
        tune_case(case(), none, lambda request: pytest.fail("nothing is run"))
