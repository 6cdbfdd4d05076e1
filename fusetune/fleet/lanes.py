"""A lane from outside: begin the process that tunes on one GPU, give it problems, hear of it, end it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Final

from msgspec import structs

from fusetune.core.processes import deaf_to_interrupts
from fusetune.core.trouble import trouble_of_exit
from fusetune.fleet.gpus import VISIBLE
from fusetune.fleet.lane import Begin
from fusetune.fleet.words import Answer, Work

MODULE = "fusetune.fleet.lane"
"""What the process runs: `main(descriptor)` of it."""
_PROGRAM: Final = """
import sys
sys.path[:] = sys.argv[3:]  # First of all: the caller's modules, and none that happen to lie in this folder.
from importlib import import_module
import_module(sys.argv[2]).main(int(sys.argv[1]))
"""
SILENT_ENDS: Final = 5
"""A lane that is lost so often, one after another, before it says a word is not begun again."""
_END_LIMIT_S: Final = 10.0


class LostError(Exception):
    """The process is gone before it answered."""


class Lane:
    """The process for the GPU with this UUID, which is all that it sees. It begins at once to load what it needs."""

    def __init__(self, uuid: str, begin: Begin) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fusetune-worker-")
        self._channel, theirs = Pipe()
        self._lock = threading.Lock()
        self._given = 0
        environment = {**os.environ, VISIBLE: uuid}
        with theirs:
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), MODULE, *map(str, sys.path)]
            with deaf_to_interrupts():
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()]
                )
        with suppress(OSError):  # One that ended at once is told where it is asked for something.
            self._channel.send(structs.replace(begin, folder=self._folder.name))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def is_busy(self) -> bool:
        """Whether it owes an answer."""
        return self._given > 0

    def give(self, work: Work) -> None:
        """Have it begin with a problem. What comes of it is for whoever listens."""
        self._given += 1
        with self._lock, suppress(OSError):  # Whoever listens meets its end.
            self._channel.send(work)

    def listen(self, say: Callable[[str, bool], None]) -> Answer:
        """The next answer; `say` gets what is said until then. Raises LostError with how the process ended."""
        channel: Connection = self._channel
        try:
            while not isinstance(message := channel.recv(), Answer):
                say(*message)
        except (EOFError, OSError):
            raise LostError(self._ended()) from None
        self._given -= 1
        return message

    def kill(self) -> None:
        """End it now, without waiting; whoever listens hears of it."""
        self._process.kill()

    def part(self) -> None:
        """Have it end as soon as it is idle; whoever listens hears of it."""
        with self._lock, suppress(OSError):
            self._channel.send(None)

    def close(self) -> None:
        """End it, where it has not ended; nobody listens any more."""
        self.kill()
        self._process.wait()
        self._channel.close()
        self._folder.cleanup()

    def _ended(self) -> str:
        try:
            code = self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "its process closed its end, and was killed"
        trouble = trouble_of_exit(code)
        return f"its process {trouble.detail}" if trouble is not None else f"its process died with exit code {code}"
