"""The standard streams of a command: closed, full, broken or unable to spell a letter, and never a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Final, TextIO

_NAMES: Final = {1: "stdout", 2: "stderr"}


class _Named(io.TextIOWrapper):
    """A standard stream whose errors say which it was; letters that its encoding lacks are spelled out."""

    def __init__(self, stream: io.TextIOWrapper, name: str) -> None:
        # An unbuffered one loses what a single system call did not take, without a word.
        buffer = io.BufferedWriter(stream.buffer) if isinstance(stream.buffer, io.RawIOBase) else stream.buffer
        super().__init__(
            buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._name = name

    def write(self, text: str, /) -> int:
        try:
            count = super().write(text)
        except OSError as error:
            raise self._with_name(error) from error
        if self.write_through:
            self.flush()
        return count

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._with_name(error) from error

    def _with_name(self, error: OSError) -> OSError:
        return type(error)(error.errno, error.strerror, self._name)


def take_over() -> None:
    """Make the standard streams fit for a command, however the process was started.

    Where it was started without one, it gets one that leads nowhere: else the next file that is opened would be number
    1 or 2, and whatever a child prints would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: this one.
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)))
    sys.stdout = _fit(sys.stdout, 1)
    sys.stderr = _fit(sys.stderr, 2)


def flush() -> OSError | None:
    """Write out what is held back. The error where that fails; then nothing is tried again when the process ends."""
    failed: OSError | None = None
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            failed = failed or error
            _lead_nowhere(number, stream)
        except ValueError:  # Somebody closed it.
            continue
    return failed


def nobody_reads(error: OSError) -> bool:
    """Whether the error is that the reader of stdout or stderr is gone: `fusetune report | head -1`."""
    return error.errno == errno.EPIPE and error.filename in _NAMES.values()


def say(line: str) -> None:
    """A line on stderr, if that can be had."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _fit(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return _Named(stream, _NAMES[number]) if type(stream) is io.TextIOWrapper else stream


def _lead_nowhere(number: int, stream: TextIO) -> None:
    """Else the interpreter would flush the stream again when it ends, and complain."""
    with contextlib.suppress(OSError, ValueError):
        if stream.fileno() == number:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
