"""The program again with its changed source, before that is given out: only what is right and faster is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import structs

from fusetune.capture.again import FreshProcesses, Ran
from fusetune.capture.applying import Launched
from fusetune.capture.cases import Case
from fusetune.capture.programs import Program
from fusetune.core.progress import Progress
from fusetune.tune.again import ProgramRuns
from fusetune.tune.last_word import LastWord, last_word
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


def ask_source(
    before: Source,
    count: int,
    source_with: Callable[[Collection[int]], Source],
    progress: Progress,
    *,
    tolerance: float = 0.0,
    least_gain: float | None = None,
    results_alone: bool = False,
    limit_s: float | None = None,
) -> LastWord:
    """What a program says of its changed source, whose `count` changes can be left out one by one.

    `before` is the program as it is, and `source_with` gives that with the changes of some numbers. See `last_word` for
    the rest. Raises MachineError where no process could be started.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fusetune-result-") as folder,
        progress.phase("Running the program with the changed source, and as it is"),
        FreshProcesses(ahead=True) as processes,
    ):
        runner = _SourceRunner(ProgramRuns(processes, Path(folder, "before.pt"), limit_s), before, count, source_with)
        return last_word(count, runner, tolerance, least_gain=least_gain, results_alone=results_alone)


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
        tempfile.TemporaryDirectory(prefix="fusetune-result-") as folder,
        progress.phase("Running the program with other values in its source"),
        FreshProcesses(ahead=True) as processes,
    ):
        runs = ProgramRuns(processes, Path(folder, "before.pt"), limit_s, least_s=TRIAL_LIMIT_S)

        def run(tried: Values) -> Ran:
            source = source_with(tried)
            return runs.run(source.program, held=source.held, texts=source.texts)

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
        self, runs: ProgramRuns, before: Source, count: int, source_with: Callable[[Collection[int]], Source]
    ) -> None:
        self._runs, self._before, self._count, self._source_with = runs, before, count, source_with

    def before(self) -> Ran:
        """See Runner."""
        return self._run(self._before, self._count)

    def after(self, changes: Collection[int]) -> Ran:
        """See Runner."""
        return self._run(self._source_with(changes), len(changes))

    def _run(self, source: Source, count: int) -> Ran:
        ran = self._runs.run(source.program, held=source.held, texts=source.texts)
        return structs.replace(ran, launched=(Launched(),) * count)
