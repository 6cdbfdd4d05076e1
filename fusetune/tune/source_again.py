"""The program again with its changed source, before that is given out: only what is right and faster is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from fusetune.capture.again import FreshProcesses, Ran
from fusetune.capture.applying import Launched
from fusetune.capture.cases import Case
from fusetune.capture.programs import Program
from fusetune.core.progress import Progress
from fusetune.tune.again import ProgramRuns
from fusetune.tune.last_word import LastWord, last_word


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
        return last_word(count, runner, tolerance, least_gain=least_gain)


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
