"""Jobs that leave what they make on disk, done by copies of this process side by side.

For compilations that a process has begun to prepare: half of each is Python, so threads of one process would wait for
each other. A copy inherits what is loaded and everything prepared, and touches no GPU.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

STALLED_S: Final = 180.0
"""With no job done for so long, the copies are ended: a lock that another thread held is never given back in a copy.

Longer than the compiler was seen to take for one config.
"""
_NUMBER: Final = struct.Struct("i")


def done_by_copies(jobs: Sequence[Callable[[], object]], copies: int) -> None:
    """Do each job in one of so many copies of this process; nothing of their results or errors comes back.

    A copy that ends early, by a job that crashes or by want of memory, leaves the rest to the others. Where there is no
    fork, or none is to be had, nothing is done.
    """
    if not hasattr(os, "fork"):
        return
    numbers = heard = tell = -1
    children: list[int] = []
    ended = False
    try:
        with contextlib.suppress(OSError):  # With fewer copies than asked for each does more.
            numbers = _numbers(len(jobs))
            heard, tell = os.pipe()
            children.extend(_copy(jobs, numbers, heard, tell) for _ in range(min(copies, len(jobs))))
        if children:
            os.close(tell)
            tell = -1
            ended = _hear_out(heard)
    finally:
        for end in {numbers, heard, tell} - {-1}:
            os.close(end)
        for child in children:
            _end(child, by_force=not ended)


def _numbers(count: int) -> int:
    """Where copies read the numbers of jobs from, as the pipe hands out one read after the other."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):  # What a full pipe does not take is left to who asked.
        for number in range(count):
            os.write(write, _NUMBER.pack(number))
    os.close(write)
    return read


def _copy(jobs: Sequence[Callable[[], object]], numbers: int, heard: int, tell: int) -> int:
    """A copy of this process that takes jobs until there are none; its number here."""
    own = os.getpid()
    try:  # Around the fork, too: what interrupts a copy is not for the program, which would go on twice.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Others' locks stay held, which STALLED_S is for.
            child = os.fork()
        if not child:
            _take_jobs(jobs, numbers, heard, tell)
        return child
    finally:
        if os.getpid() != own:
            os._exit(0)  # Nothing that the program has left for its end is done here.


def _take_jobs(jobs: Sequence[Callable[[], object]], numbers: int, heard: int, tell: int) -> None:
    gc.freeze()  # What is garbage by now is the program's to end: its files, its folders and what lies on the GPU.
    os.close(heard)
    signal.set_wakeup_fd(-1)  # It is the program's, which no signal of a copy has to wake up.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    while len(number := os.read(numbers, _NUMBER.size)) == _NUMBER.size:
        with contextlib.suppress(Exception):
            jobs[_NUMBER.unpack(number)[0]]()
        os.write(tell, b".")


def _hear_out(heard: int) -> bool:
    """Wait for the end of all copies; False where no job has been done for too long."""
    events = select.poll()  # select() knows no file beyond the 1,024th.
    events.register(heard, select.POLLIN)
    while events.poll(1000 * STALLED_S):
        if not os.read(heard, 4096):
            return True
    return False


def _end(child: int, *, by_force: bool) -> None:
    """Wait for a copy that ends, or end one with what it has started, as an assembler that takes minutes."""
    if by_force:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)  # It starts nothing more.
        for one in (*_started_by(child), child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # The program itself waits for whatever ends.
        os.waitpid(child, 0)


def _started_by(process: int) -> list[int]:
    """The processes that one has started and not waited for; none where the system does not tell."""
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (OSError, ValueError):
        return []
