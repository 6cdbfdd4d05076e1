"""One view over all workers: a line for each of a few, and one for all where there are many."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Final

from fusetune.core.progress import Phase, Progress

MOST_LINES: Final = 8


class View:
    """Shows where each worker is, below the phase of the whole run or beside it."""

    def __init__(self, progress: Progress, whole: Phase) -> None:
        self._progress, self._whole = progress, whole
        self._stack = ExitStack()
        self._lines: dict[str, Phase] = {}

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def show(self, at: Mapping[str, tuple[str, str]]) -> None:
        """Each busy worker with its problem, and where it is with it."""
        for worker in sorted(at.keys() - self._lines.keys()):
            if len(self._lines) < MOST_LINES:
                self._lines[worker] = self._stack.enter_context(self._progress.phase(worker))
        for worker, line in self._lines.items():
            line.update(detail=", ".join(at[worker]) if worker in at else "nothing to do")
        others = [f"{worker}: {where}" for worker, (_, where) in at.items() if worker not in self._lines]
        if others:
            self._whole.update(detail="; ".join(others))
