"""The program again with its changed source, before that is given out: only what is right and faster is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final, NamedTuple

from msgspec import structs

from fusetune.capture.again import FreshProcesses, Ran, request_of
from fusetune.capture.applying import Launched
from fusetune.capture.cases import Case
from fusetune.capture.programs import Program
from fusetune.core.progress import Progress
from fusetune.tune.again import AsItIs, ProgramRuns, as_it_is
from fusetune.tune.last_word import LastWord, last_word, unlike_before
from fusetune.tune.source_trials import Searched, Values, search

TRIAL_LIMIT_S: Final = 15.0
"""A trial may take so long beside LONGER times what the program as it is does: one that hangs costs all of it."""


class Source(NamedTuple):
    """A program with its changed source: what is run, and the texts of files by their paths, there or not.

    Autotuners above the cases of `held` take what ran when these were captured: those of kernels that are as before.
    """

    program: Program
    texts: Mapping[str, bytes] = {}
    held: Sequence[Case] = ()


class SourceQuestions:
    """Asks a program about its changed source, one form of it after the other.

    Runs of it as it is serve all that is asked later, for the result, and the last of them for the time as well: each
    costs seconds. So do those that were made before any source was asked about.
    """

    def __init__(self, runs: ProgramRuns, before: Source, progress: Progress, tolerance: float) -> None:
        self._runs, self._before, self._progress, self._tolerance = runs, before, progress, tolerance

    def word(
        self, count: int, source_with: Callable[[Collection[int]], Source], least_gain: float | None = None
    ) -> LastWord:
        """What it says of `count` changes that can be left out one by one; see `last_word`.

        `source_with` gives the program with the changes of some numbers. Raises MachineError where no process could be
        started.
        """
        runner = _SourceRunner(self._run_before, self._run, count, source_with)
        befores = [_launching(ran, count) for ran in self._runs.befores]
        with self._progress.phase("Running the program with the changed source, and as it is"):
            return last_word(count, runner, self._tolerance, least_gain=least_gain, befores=befores)

    def unlike(self, source: Source) -> str | None:
        """What is wrong with a source that is to change no launch; None where nothing is. Raises as `word` does."""
        runner = _SourceRunner(self._run_before, self._run, 0, lambda _: source)
        with self._progress.phase("Running the program as it would be written, with no launch changed"):
            return unlike_before(runner, self._tolerance, self._runs.befores)

    def _run_before(self) -> Ran:
        source = self._before
        return self._runs.as_it_is(source.program, held=source.held, texts=source.texts)

    def _run(self, source: Source) -> Ran:
        return self._runs.changed(source.program, held=source.held, texts=source.texts)


@contextmanager
def source_questions(
    before: Source,
    progress: Progress,
    *,
    tolerance: float = 0.0,
    limit_s: float | None = None,
    runs: AsItIs | None = None,
) -> Iterator[SourceQuestions]:
    """What a program is asked with of its changed source; `before` is the program as it is.

    `tolerance` is what results may differ by, as in `last_word`; `runs` are those that there are of it as it is.
    Nothing is run before something is asked.
    """
    with as_it_is() if runs is None else nullcontext(runs) as own, FreshProcesses(ahead=True) as processes:
        yield SourceQuestions(ProgramRuns(processes, own, limit_s), before, progress, tolerance)


def why_it_fails(source: Source, target: str, limit_s: float) -> str | None:
    """How a program with its changed source fails where its launches are only compiled; None where it ends well.

    Raises MachineError where no process could be started, or the machine ended it.
    """
    with FreshProcesses() as processes:
        asked = request_of(source.program, (), apply=False, target=target, texts=source.texts)
        return processes.run(asked, limit_s).failed


def search_source(
    values: Sequence[int],
    source_with: Callable[[Values], Source],
    progress: Progress,
    *,
    budget_s: float,
    min_gain: float,
    tolerance: float = 0.0,
    ends_tell: bool = False,
    proposed: Sequence[Sequence[int]] = (),
    limit_s: float | None = None,
) -> Searched:
    """What trials of other values in a program's source come to; `source_with` gives it with some of them.

    See `search` for the rest. Raises MachineError where no process could be started.
    """
    with (
        as_it_is() as own,
        progress.phase("Running the program with other values in its source"),
        FreshProcesses(ahead=True) as processes,
    ):
        runs = ProgramRuns(processes, own, limit_s, least_s=TRIAL_LIMIT_S)

        def run(tried: Values) -> Ran:
            source = source_with(tried)
            make = runs.changed if own.runs else runs.as_it_is  # The first one is asked with what the source has.
            return make(source.program, held=source.held, texts=source.texts)

        return search(
            values,
            run,
            budget_s=budget_s,
            min_gain=min_gain,
            tolerance=tolerance,
            ends_tell=ends_tell,
            proposed=proposed,
        )


class _SourceRunner:
    """Runs a program as it is, or with changed source. Its launches are not told apart: a change may be anything."""

    def __init__(
        self,
        before: Callable[[], Ran],
        run: Callable[[Source], Ran],
        count: int,
        source_with: Callable[[Collection[int]], Source],
    ) -> None:
        self._before, self._run, self._count, self._source_with = before, run, count, source_with

    def before(self) -> Ran:
        """See Runner."""
        return _launching(self._before(), self._count)

    def after(self, changes: Collection[int]) -> Ran:
        """See Runner."""
        return _launching(self._run(self._source_with(changes)), len(changes))


def _launching(ran: Ran, count: int) -> Ran:
    return structs.replace(ran, launched=(Launched(),) * count)
