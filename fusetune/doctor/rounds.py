"""From problem to problem until all are done or the time is up: compiled some at once, measured one after another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from fusetune.compiler.pool import Compiled, CompileRun, Job, compile_jobs
from fusetune.compiler.pool import Outcome as CompilerOutcome
from fusetune.compiler.processes import CompileProcesses
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.progress import Phase, Progress
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.doctor.items import Item
from fusetune.doctor.trial import examine
from fusetune.errors import FusetuneError
from fusetune.measure.protocol import Measurer
from fusetune.ops.spec import KernelSpec
from fusetune.store.doctor_file import Examined

MeasurerFactory = Callable[[KernelSpec, Problem], Measurer]

AT_ONCE = 16
"""So many problems are compiled, and then measured: nothing compiles while something is timed, and a run that is cut
off has measured most of what it has compiled."""
_FIRST_GUESS_S = 4.0
"""What a problem takes, before one has been measured."""


class Deadline:
    """Until when work may be begun: what is likely to take longer than what is left is not.

    Without `limit_s` there is no end. `clock` tells seconds.
    """

    def __init__(self, limit_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._limit_s = limit_s
        self._longest_s = _FIRST_GUESS_S
        self._any = False

    @property
    def seconds(self) -> float:
        """Since the begin."""
        return self._clock() - self._began

    @property
    def over(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._limit_s is not None and self.seconds + self._longest_s > self._limit_s

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """Around a problem: the longest so far is what the next one may take."""
        began = self._clock()
        yield
        took = self._clock() - began
        self._longest_s = max(self._longest_s, took) if self._any else took
        self._any = True


def examine_all(
    items: Sequence[Item],
    measurer_for: MeasurerFactory,
    target: Target,
    seed: int,
    deadline: Deadline,
    progress: Progress,
    on_examined: Callable[[Examined], None],
    processes: CompileProcesses | None = None,
) -> None:
    """Each problem's outcome goes to `on_examined` as soon as it is there; those that there is no time for do not.

    Raises NoUsableGpuError where there is no GPU any more.
    """
    with progress.phase("Measuring the installed ops", len(items)) as phase:
        for begin in range(0, len(items), AT_ONCE):
            some = items[begin : begin + AT_ONCE]
            made = _compiled(some, target, deadline, processes, phase)
            if deadline.over:
                return
            _measure(some, made, measurer_for, target, seed, deadline, phase, on_examined)


def _compiled(
    items: Sequence[Item], target: Target, deadline: Deadline, processes: CompileProcesses | None, phase: Phase
) -> list[dict[Config, CompilerOutcome]]:
    """What the compiler makes of each item's configs, as far as there is time."""
    made: list[dict[Config, CompilerOutcome]] = [{} for _ in items]
    for spec in dict.fromkeys(item.spec for item in items):
        places = {item.problem: place for place, item in enumerate(items) if item.spec is spec}
        jobs = [Job(problem, config) for problem, place in places.items() for config in items[place].configs]
        phase.update(detail=f"compiling {len(jobs)} configs of {spec.name}")
        try:
            running = compile_jobs(spec, jobs, target, processes=processes)
            _collect(running, places, made, deadline)
        except FusetuneError as error:
            for place in places.values():
                made[place] = dict.fromkeys(items[place].configs, Trouble(str(error)))
    return made


def _collect(
    running: Iterable[Compiled],
    places: dict[Problem, int],
    made: list[dict[Config, CompilerOutcome]],
    deadline: Deadline,
) -> None:
    try:
        for (problem, config), result in running:
            made[places[problem]][config] = result
            if deadline.over:
                return
    finally:
        if isinstance(running, CompileRun):
            running.close()


def _measure(
    items: Sequence[Item],
    made: Sequence[dict[Config, CompilerOutcome]],
    measurer_for: MeasurerFactory,
    target: Target,
    seed: int,
    deadline: Deadline,
    phase: Phase,
    on_examined: Callable[[Examined], None],
) -> None:
    """One after another, each in a process of its own; the next one's gets ready while this one's is checked."""
    ahead: Measurer | None = None
    try:
        for item, compiled, follows in zip(items, made, (*items[1:], None), strict=True):
            if deadline.over:
                return
            phase.update(detail=f"{item.spec.name} {item.problem.describe()}")
            measurer = ahead or measurer_for(item.spec, item.problem)
            ahead = None
            with deadline.timing(), contextlib.closing(measurer):
                ahead = measurer_for(follows.spec, follows.problem) if follows else None
                on_examined(examine(item, measurer, compiled, target, seed, settle=_settling(ahead)))
            phase.advance()
    finally:
        if ahead is not None:
            ahead.close()


def _settling(ahead: Measurer | None) -> Callable[[], None]:
    """Returns when the next problem's process has loaded and rests, so that it disturbs nothing that is timed."""

    def settle() -> None:
        if ahead is not None:
            with contextlib.suppress(FusetuneError):  # Whoever needs it meets that again.
                ahead.facts()

    return settle
