"""What holds for every process that a command starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

DEBUG_VARIABLE = "FUSETUNE_DEBUG"
"""Set by `--debug` for the processes that a command starts: they may print what they like."""


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile never hear of Ctrl-C, and neither do those that they start.

    It reaches the whole group of the terminal, and it is the first process of it that decides what ends. A handler that
    a child sets up comes too late for one in the first moments. An interrupt of this process waits until the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
