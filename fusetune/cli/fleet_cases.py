"""The cases of a program on a fleet: the heaviest of each kernel first, its others when it is known what won there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from fusetune.cli.fleet import remarks
from fusetune.cli.shown import echo
from fusetune.core.text import printable, slugify
from fusetune.errors import FusetuneError, NothingTunedError, NoUsableGpuError

if TYPE_CHECKING:
    from fusetune.capture.cases import Case
    from fusetune.capture.spec import CapturedSpec
    from fusetune.cli.explaining import Explainer
    from fusetune.core.target import Target
    from fusetune.fleet.run import Fleet, Outcome, Task
    from fusetune.fleet.words import Seen
    from fusetune.tune.program import Tuned
    from fusetune.tune.request import SweepRequest, SweepResult

MakeRequest = Callable[["CapturedSpec"], "SweepRequest"]


def tune_on_fleet(
    fleet: Fleet,
    cases: Sequence[Case],
    tuned: list[Tuned],
    make_request: MakeRequest,
    explainer: Explainer,
    gpu: str | None,
) -> None:
    """Tune cases on the GPUs of the model that the program ran on, `gpu`; fills `tuned`, in the order of the cases.

    `make_request` is asked as a GPU becomes free for a case, and finds in `tuned` what was kept so far. Raises
    NoUsableGpuError where the fleet has no such GPU.
    """
    run = _Run(cases, make_request, explainer)
    tasks = run.tasks()

    def told(outcome: Outcome) -> None:
        one = run.tuned(outcome)
        tuned.append(one)
        fleet.say(f"[{len(tuned)}/{len(cases)}] {one.case.kernel.name}  {_end(one, outcome)}")

    outcomes = fleet.run(tasks, told, gpu) if tasks else []
    fleet.close()  # What comes next, the program with what was kept, has the machine for itself.
    for line in remarks(fleet, outcomes, tasks):
        echo(printable(f"note: {line}"), err=True)
    ended = {id(one.case): one for one in [*tuned, *run.not_captured()]}
    tuned[:] = [ended[id(case)] for case in cases]


class _Run:
    def __init__(self, cases: Sequence[Case], make_request: MakeRequest, explainer: Explainer) -> None:
        self._cases, self._make_request, self._explainer = cases, make_request, explainer
        self._numbers = [number for number, case in enumerate(cases, start=1) if case.kept is not None]
        self._requests: dict[int, SweepRequest] = {}

    def tasks(self) -> list[Task]:
        """One for each case that was kept."""
        from fusetune.fleet.run import Task

        made = []
        for number in self._numbers:
            case = self._cases[number - 1]
            group = f"{case.kernel.file}:{case.kernel.name}"
            made.append(Task(f"{case.kernel.name} {case.config_text()}", self._asking(number, case), group))
        return made

    def tuned(self, outcome: Outcome) -> Tuned:
        """What became of the case of an outcome, as a program's cases are told."""
        from fusetune.tune.program import tune_case

        number = self._numbers[outcome.task]

        def request(spec: CapturedSpec) -> SweepRequest:
            if number not in self._requests:
                raise _of_a_case(outcome.error)
            return self._requests[number]

        def result(request: SweepRequest) -> SweepResult:
            if outcome.result is None:
                raise _of_a_case(outcome.error)
            return outcome.result

        told = tune_case(self._cases[number - 1], request, result)
        return self._explainer.told(number, structs.replace(told, seconds=outcome.seconds))

    def not_captured(self) -> list[Tuned]:
        """What is told of the others at once."""
        from fusetune.tune.program import tune_case

        others = [number for number in range(1, len(self._cases) + 1) if number not in self._numbers]
        return [tune_case(self._cases[number - 1], self._make_request, _never) for number in others]

    def _asking(self, number: int, case: Case) -> Callable[[Seen], SweepRequest]:
        def asked(seen: Seen) -> SweepRequest:
            from fusetune.capture.spec import CapturedSpec

            if number not in self._requests:
                assert case.kept is not None, "only cases that were kept are tasks"
                request = self._make_request(CapturedSpec(Path(case.kept)))
                request.spec.check(request.problem)
                self._explainer.limit(number, request, _target_of(seen))
                self._requests[number] = request
            return self._requests[number]

        return asked


def _never(request: SweepRequest) -> SweepResult:
    raise AssertionError("what was not captured has no request")


def _of_a_case(error: FusetuneError | None) -> FusetuneError:
    """An error that ends a case and not the command, as one GPU of several that cannot be used."""
    if error is None or isinstance(error, NoUsableGpuError):
        return NothingTunedError(str(error or "no GPU gave an answer"))
    return error


def _target_of(seen: Seen) -> Target | None:
    from fusetune.core.target import known_targets

    found = slugify(seen.gpu), seen.capability
    fit = [one for one in known_targets() if (slugify(one.name), one.capability) == found]
    return fit[0] if len(fit) == 1 else None


def _end(tuned: Tuned, outcome: Outcome) -> str:
    kept = f" {outcome.result.entry.config.label()}" if outcome.result is not None else f": {tuned.why}"
    return f"{tuned.end}{kept} ({outcome.worker or outcome.model}, {outcome.seconds:.1f} s)"
