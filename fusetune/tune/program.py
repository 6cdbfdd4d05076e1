"""Tune what a program launches: one case after the other, each to a verdict, or to the reason why there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusetune.capture.cases import Case
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import Config
from fusetune.core.diagnosis import Diagnosis
from fusetune.core.problem import Problem
from fusetune.errors import (
    CaptureError,
    FusetuneError,
    NoCandidateError,
    NoisyMachineError,
    NotCheckableError,
    NoUsableGpuError,
    UnsupportedProblemError,
)
from fusetune.tune.explained import Explanation
from fusetune.tune.request import SweepRequest, SweepResult

CASES_OF_A_KERNEL: Final = 8
"""So many are tuned of a kernel at most; those of the most time come first."""
End = Literal["keep", "revert", "inconclusive", "unverified", "skipped", "failed"]


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one case.

    `end` is the verdict, or `skipped` where nothing of it could be compared or launched again, or `failed` where the
    machine or the kernel let it come to none; `why` says of these two what happened. `result` is that of a sweep,
    `explanation` what a prediction goes by, and `profile` what a profile says limits it.
    """

    case: Case
    op: str
    problem: Problem | None
    before: Config | None
    baseline: Config | None
    end: End
    why: str | None = None
    result: SweepResult | None = None
    explanation: Explanation | None = None
    profile: Diagnosis | None = None
    seconds: float = 0.0


def worth_tuning(cases: Sequence[Case], share: float, most: int = CASES_OF_A_KERNEL) -> list[Case]:
    """Of each kernel's cases those that make up a share of its time, the longest first, `most` at the most."""
    chosen: list[Case] = []
    kernels = dict.fromkeys((case.kernel.file, case.kernel.name) for case in cases)
    for kernel in kernels:
        own = [case for case in cases if (case.kernel.file, case.kernel.name) == kernel]
        own.sort(key=lambda case: (-(case.us or 0.0), -case.launches))
        total = sum(case.us or 0.0 for case in own)
        spent = 0.0
        for number, case in enumerate(own):
            if number >= most or (total > 0 and number > 0 and spent >= share * total):
                break
            chosen.append(case)
            spent += case.us or 0.0
    return chosen


def tune_case(
    case: Case, make_request: Callable[[CapturedSpec], SweepRequest], run: Callable[[SweepRequest], SweepResult]
) -> Tuned:
    """Tune one case of a program; only what ends everything is raised: NoUsableGpuError, and faults of our own."""
    began = time.monotonic()
    found = _Case(case)

    def ended(end: End, why: str | None = None, result: SweepResult | None = None) -> Tuned:
        return found.ended(end, why, result, time.monotonic() - began)

    if case.kept is None:
        return ended("skipped", "; ".join(case.findings) or "it was not captured")
    try:
        request = found.request(case.kept, make_request)
        result = run(request)
    except NoUsableGpuError:
        raise
    except FusetuneError as error:
        end: End = next((end for kind, end in _ENDS if isinstance(error, kind)), "failed")
        return ended(end, str(error))
    return ended(result.entry.verdict, None, result)


_ENDS: Final[tuple[tuple[type[FusetuneError], End], ...]] = (
    (CaptureError, "skipped"),
    (UnsupportedProblemError, "skipped"),
    (NotCheckableError, "skipped"),
    (NoCandidateError, "revert"),
    (NoisyMachineError, "inconclusive"),
)
"""What an error comes to; every other one, of the machine or of Before itself, is a failure."""


class _Case:
    """A case on its way, with what is known of it so far."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._spec: CapturedSpec | None = None
        self._problem: Problem | None = None

    def request(self, folder: str, make_request: Callable[[CapturedSpec], SweepRequest]) -> SweepRequest:
        spec = CapturedSpec(Path(folder))
        request = make_request(spec)
        self._spec, self._problem = spec, request.problem
        request.spec.check(request.problem)
        return request

    def ended(self, end: End, why: str | None, result: SweepResult | None, seconds: float) -> Tuned:
        spec, problem = self._spec, self._problem
        baseline = spec.baseline(problem) if spec is not None and problem is not None else None
        before = spec.before(problem) if spec is not None and problem is not None else None
        return Tuned(
            case=self._case,
            op=spec.name if spec is not None else self._case.kernel.name,
            problem=problem,
            before=before or baseline,
            baseline=baseline,
            end=end,
            why=why,
            result=result,
            seconds=round(seconds, 2),
        )


def failures_of(tuned: Tuned) -> Mapping[str, int]:
    """Of its candidates, how many were wrong or could not run, by reason."""
    return tuned.result.failures if tuned.result is not None else {}
