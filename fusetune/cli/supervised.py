"""Run a user's program beside a command of ours: its streams, its signals and its end are its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Final

from fusetune.capture.answers import not_started

_FORWARDED: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
_BY_TERMINAL: Final = {signal.SIGINT, getattr(signal, "SIGQUIT", signal.SIGINT)}
"""A terminal sends them to all processes in its foreground."""


def run_supervised(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command with this process's streams until it ends: its exit code, or 128 and the number of its signal.

    Signals that reach this process are the program's. Raises MachineError where it cannot be started.
    """
    with _handlers() as forward:
        try:
            process = subprocess.Popen(command, env=environment)
        except OSError as error:
            raise not_started(error) from error
        forward(process)
        code = process.wait()
    return 128 - code if code < 0 else code


class _Forward:
    """Hands signals on to a process, those too that came before there was one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: list[int] = []

    def __call__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        for number in self._waiting:
            process.send_signal(number)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """A handler of Python's `signal`."""
        if number in _BY_TERMINAL and _in_foreground():
            return
        if self._process is None:
            self._waiting.append(number)
        else:
            self._process.send_signal(number)


@contextlib.contextmanager
def _handlers() -> Iterator[_Forward]:
    forward = _Forward()
    before = {}
    for number in _FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, for the program, too
            before[number] = signal.signal(number, forward.handle)
    try:
        yield forward
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether a terminal sends its signals to this process, and so to its children."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
