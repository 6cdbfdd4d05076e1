"""Tune what a program launches: one case after the other, each to a verdict, or to the reason why there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import structs

from fusetune.capture.cases import Case, KernelSeen
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import Config
from fusetune.core.diagnosis import Diagnosis
from fusetune.core.problem import Problem
from fusetune.errors import (
    CaptureError,
    CompileError,
    FusetuneError,
    NoCandidateError,
    NoisyMachineError,
    NotCheckableError,
    NoUsableGpuError,
    UnsupportedProblemError,
    UsageError,
    WrongResultError,
)
from fusetune.tune.explained import Explanation
from fusetune.tune.findings import findings_of
from fusetune.tune.request import SweepRequest, SweepResult

CASES_OF_A_KERNEL: Final = 8
"""So many are tuned of a kernel at most; those of the most time come first."""
LATER_BUDGET_S: Final = 4.0
"""For the candidates of a case whose kernel was tuned before: what won there is tried, and little around it."""
End = Literal["keep", "revert", "inconclusive", "unverified", "skipped", "failed"]
EndedBy = Literal[
    "not_captured",
    "not_launchable",
    "not_checkable",
    "no_candidate",
    "noisy_machine",
    "wrong_result",
    "not_compiled",
    "usage",
    "machine",
]
"""Why a case came to no verdict of its own, in a word that stays the same from one version to the next.

`not_captured`: it was not kept. `not_launchable`: what was kept cannot be launched again. `not_checkable`: it gives
another result each time. `no_candidate`: nothing beside Before and BASELINE compiled and was right. `noisy_machine`:
Before timed against itself did not come out equal. `wrong_result`: Before itself is wrong. `not_compiled`: Before
itself does not compile. `usage`: a file or an option cannot be used. `machine`: disk, memory, a GPU that was lost.
"""


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one case.

    `end` is the verdict, or `skipped` where nothing of it could be compared or launched again, or `failed` where the
    machine or the kernel let it come to none. `why` says what happened where an error ended it, and `ended_by` says so
    in a word. `arguments` has, by each config that may be written back, its constants by the kernel's own names, and
    what follows them in the program. `tried` counts its candidates, `failures` those of them that were wrong or could
    not run, by reason. `findings` are sentences on the program's own configs. `result` is that of a sweep,
    `explanation` what a prediction goes by, and `profile` what a profile says limits it.
    """

    case: Case
    op: str
    problem: Problem | None
    before: Config | None
    baseline: Config | None
    end: End
    why: str | None = None
    ended_by: EndedBy | None = None
    arguments: Mapping[Config, Mapping[str, Any]] = {}
    tried: int = 0
    failures: Mapping[str, int] = {}
    findings: tuple[str, ...] = ()
    result: SweepResult | None = None
    explanation: Explanation | None = None
    profile: Diagnosis | None = None
    seconds: float = 0.0

    @property
    def reason(self) -> str | None:
        """The word for its end: of a verdict its Reason, else what ended it."""
        return self.result.entry.reason if self.result is not None else self.ended_by


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


def winners_of(tuned: Sequence[Tuned], kernel: KernelSeen) -> tuple[Config, ...]:
    """What was kept for other cases of a kernel, the last first."""
    return tuple(
        one.result.entry.config
        for one in reversed(tuned)
        if one.end == "keep" and one.result is not None and _is_of(one, kernel)
    )


def budget_of(tuned: Sequence[Tuned], kernel: KernelSeen, asked_s: float) -> float:
    """The seconds for a case's candidates: as asked for a kernel's first, few for its others."""
    return min(asked_s, LATER_BUDGET_S) if any(one.result and _is_of(one, kernel) for one in tuned) else asked_s


def _is_of(tuned: Tuned, kernel: KernelSeen) -> bool:
    return (tuned.case.kernel.file, tuned.case.kernel.name) == (kernel.file, kernel.name)


def tune_case(
    case: Case, make_request: Callable[[CapturedSpec], SweepRequest], run: Callable[[SweepRequest], SweepResult]
) -> Tuned:
    """Tune one case of a program; only what ends everything is raised: NoUsableGpuError, and faults of our own."""
    began = time.monotonic()
    found = _Case(case)

    def ended(end: End, why: str | None = None, by: EndedBy | None = None, result: SweepResult | None = None) -> Tuned:
        return found.ended(end, why, by, result, time.monotonic() - began)

    if case.kept is None:
        return ended("skipped", "; ".join(case.findings) or "it was not captured", "not_captured")
    try:
        request = found.request(case.kept, make_request)
        result = run(request)
        findings = findings_of(request, result)
    except NoUsableGpuError:
        raise
    except FusetuneError as error:
        end, by = next((end, by) for kind, end, by in _ENDS if isinstance(error, kind))
        told = ended(end, str(error), by)
        if isinstance(error, NoCandidateError):
            return structs.replace(told, tried=error.tried, failures=error.failures)
        return told
    told = ended(result.entry.verdict, result=result)
    return structs.replace(told, tried=result.tried, failures=result.failures, findings=findings)


_ENDS: Final[tuple[tuple[type[FusetuneError], End, EndedBy], ...]] = (
    (CaptureError, "skipped", "not_launchable"),
    (UnsupportedProblemError, "skipped", "not_launchable"),
    (NotCheckableError, "skipped", "not_checkable"),
    (NoCandidateError, "revert", "no_candidate"),
    (NoisyMachineError, "inconclusive", "noisy_machine"),
    (WrongResultError, "failed", "wrong_result"),
    (CompileError, "failed", "not_compiled"),
    (UsageError, "failed", "usage"),
    (FusetuneError, "failed", "machine"),
)
"""What an error comes to; the first that fits counts."""


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

    def ended(self, end: End, why: str | None, by: EndedBy | None, result: SweepResult | None, seconds: float) -> Tuned:
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
            ended_by=by,
            arguments={config: spec.arguments(config) for config in _written(result)} if spec is not None else {},
            result=result,
            seconds=round(seconds, 2),
        )


def _written(result: SweepResult | None) -> Sequence[Config]:
    """The configs of a result that may be written back."""
    if result is None:
        return ()
    return tuple(dict.fromkeys((result.entry.config, *(one.config for one in (*result.best, *result.screened)))))
