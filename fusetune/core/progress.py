"""How long work tells where it is, without knowing whether anybody looks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Phase(Protocol):
    """One phase of the work, under way."""

    def advance(self, steps: int = 1) -> None:
        """`steps` more of the phase's total are done."""

    def update(self, *, total: int | None = None, detail: str | None = None) -> None:
        """The total turned out otherwise, or there is something to say beside the bar."""


class Progress(Protocol):
    """What the caller of long work gives it."""

    def phase(self, title: str, total: int | None = None) -> AbstractContextManager[Phase]:
        """Begin a phase of `total` steps; leaving the context ends it."""

    def say(self, text: str) -> None:
        """One line for the user, not tied to a bar."""

    def warn(self, text: str) -> None:
        """One line that the user should not miss."""


class _SilentPhase:
    def advance(self, steps: int = 1) -> None:
        """Nobody looks."""

    def update(self, *, total: int | None = None, detail: str | None = None) -> None:
        """Nobody looks."""


class SilentProgress:
    """Says nothing; for tests and for library use."""

    def phase(self, title: str, total: int | None = None) -> AbstractContextManager[Phase]:
        """A phase that nobody watches."""
        return nullcontext(_SilentPhase())

    def say(self, text: str) -> None:
        """Nobody listens."""

    def warn(self, text: str) -> None:
        """Nobody listens."""
