"""Progress for people at a terminal and for the logs of CI; both write to stderr, so that stdout holds results only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from fusetune.cli.volume import is_quiet
from fusetune.core.progress import Phase, Progress, SilentProgress
from fusetune.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_INTERVAL_S: Final = 10.0
"""A phase says at most once in this time how far it is, so that a log of CI stays short."""

_DUMB_TERMINALS: Final = ("dumb", "unknown")


def make_progress(stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> Progress:
    """Bars where somebody looks at a terminal that can draw them, plain lines in CI, in a pipe and on TERM=dumb.

    `stream` is stderr unless given. NO_COLOR takes the colours away, not the bars; of a command that was given -q,
    warnings alone are told.
    """
    stream = sys.stderr if stream is None else stream
    environ = os.environ if environ is None else environ
    if is_quiet():
        return QuietProgress(stream)
    in_ci = environ.get("CI", "").lower() not in ("", "0", "false")
    if in_ci or environ.get("TERM", "").lower() in _DUMB_TERMINALS or not stream.isatty():
        return PlainProgress(stream)
    return RichProgress(stream)


class QuietProgress(SilentProgress):
    """Says nothing but warnings."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def warn(self, text: str) -> None:
        """One line, marked as a warning."""
        self._stream.write(f"{printable(f'warning: {text}')}\n")
        self._stream.flush()


class PlainProgress:
    """One line when a phase begins, one at most every ten seconds, and one when it ends."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock

    @contextmanager
    def phase(self, title: str, total: int | None = None) -> Iterator[Phase]:
        """A phase whose lines begin with its title."""
        phase = _PlainPhase(self.say, self._clock, title, total)
        try:
            yield phase
        except BaseException:
            phase.end("stopped")
            raise
        phase.end("done")

    def say(self, text: str) -> None:
        """One line."""
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()

    def warn(self, text: str) -> None:
        """One line that begins with `warning:`."""
        self.say(f"warning: {text}")


class _PlainPhase:
    def __init__(self, say: Callable[[str], None], clock: Callable[[], float], title: str, total: int | None) -> None:
        self._say = say
        self._clock = clock
        self._title = title
        self._total = total
        self._done = 0
        self._detail = ""
        self._began = self._said = clock()
        say(f"{title}: 0/{total}" if total is not None else f"{title}: started")

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self._say_if_due()

    def update(self, *, total: int | None = None, detail: str | None = None) -> None:
        self._total = self._total if total is None else total
        self._detail = self._detail if detail is None else detail
        self._say_if_due()

    def end(self, how: str) -> None:
        self._say(f"{self._title}: {how} after {self._clock() - self._began:.1f} s{self._steps(', ')}")

    def _say_if_due(self) -> None:
        now = self._clock()
        if now - self._said < PLAIN_INTERVAL_S:
            return
        self._said = now
        detail = f", {self._detail}" if self._detail else ""
        self._say(f"{self._title}: {now - self._began:.0f} s{self._steps(', ')}{detail}")

    def _steps(self, before: str) -> str:
        if self._total is not None:
            return f"{before}{self._done}/{self._total}"
        return f"{before}{self._done}" if self._done else ""


class RichProgress:
    """A bar for each phase, lines above the bars for what is said; finished bars stay on the screen."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._console = Console(file=sys.stderr if stream is None else stream)
        self._bars: Bars | None = None

    @contextmanager
    def phase(self, title: str, total: int | None = None) -> Iterator[Phase]:
        """A bar; inside another phase it stands below that one's."""
        if self._bars is not None:
            with _bar(self._bars, title, total) as phase:
                yield phase
            return
        self._bars = _make_bars(self._console)
        try:
            with self._bars, _bar(self._bars, title, total) as phase:
                yield phase
        finally:
            self._bars = None

    def say(self, text: str) -> None:
        """One line above the bars."""
        self._console.print(printable(text), markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """One line above the bars, in yellow."""
        self._console.print(printable(f"warning: {text}"), style="yellow", markup=False, highlight=False)


class _RichPhase:
    def __init__(self, bars: Bars, title: str, total: int | None) -> None:
        self._bars = bars
        self._task: TaskID = bars.add_task(printable(title), total=total, detail="")

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)

    def update(self, *, total: int | None = None, detail: str | None = None) -> None:
        if total is not None:
            self._bars.update(self._task, total=total)
        if detail is not None:
            self._bars.update(self._task, detail=printable(detail))

    def end(self) -> None:
        # Else the clock of a phase that ended early would run on until the bars are taken away.
        self._bars.stop_task(self._task)


@contextmanager
def _bar(bars: Bars, title: str, total: int | None) -> Iterator[_RichPhase]:
    phase = _RichPhase(bars, title, total)
    try:
        yield phase
    finally:
        phase.end()


def _make_bars(console: Console) -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # Titles and details are data: square brackets in them are no markup.
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False, style="dim"),
        console=console,
        redirect_stdout=False,  # else results printed meanwhile would go to stderr
    )
