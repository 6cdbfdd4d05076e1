"""The standard streams of a command: closed, full, broken or unable to spell a letter, and never a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Final, TextIO

_NAMES: Final = {1: "stdout", 2: "stderr"}


def open_closed_ones() -> None:
    """Give a process that was started without standard streams ones that lead nowhere.

    Else the next file that is opened would be number 1 or 2, and whatever a child prints would be written into it.
    Letters that the streams' encoding lacks are spelled out from here on.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: this one.
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False))
    if sys.stdout is None:
        sys.stdout = _writer(1)
    if sys.stderr is None:
        sys.stderr = _writer(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> OSError | None:
    """Write out what is held back. The error where that fails; then nothing is tried again when the process ends."""
    failed: OSError | None = None
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            failed = failed or type(error)(error.errno, error.strerror, _NAMES[number])
            _lead_nowhere(number, stream)
        except ValueError:  # Somebody closed it.
            continue
    return failed


def nobody_reads(error: OSError) -> bool:
    """Whether the error is that the reader of stdout or stderr is gone: `fusetune report | head -1`."""
    return error.errno == errno.EPIPE and (error.filename in _NAMES.values() or any(map(_is_broken, _NAMES)))


def say(line: str) -> None:
    """A line on stderr, if that can be had."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _writer(number: int) -> TextIO:
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True)


def _is_broken(number: int) -> bool:
    watched = select.poll()
    watched.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))


def _lead_nowhere(number: int, stream: TextIO) -> None:
    """Else the interpreter would flush the stream again when it ends, and complain."""
    with contextlib.suppress(OSError, ValueError):
        if stream.fileno() == number:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
