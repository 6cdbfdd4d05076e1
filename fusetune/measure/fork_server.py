"""A process that loads libraries once, and from which others are forked that find them loaded.

Loading torch takes seconds, and a sweep needs two or more processes for the GPU: one that measures, one that confirms,
and another for each that a candidate breaks. What is loaded before a fork must not touch CUDA, which does not survive
one. multiprocessing's own fork server is one a program, and busy with compiling; its children import the program's
main module, and with it the command line.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from fusetune.core.processes import deaf_to_interrupts

_PROGRAM: Final = """
import sys
sys.path[:] = sys.argv[2:]  # First of all: the caller's modules, and none that happen to lie in this folder.
from fusetune.measure.fork_server import serve_forks
serve_forks(int(sys.argv[1]))
"""
_MESSAGE_BYTES: Final = 1 << 16
_NUMBER: Final = struct.Struct("q")
_PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h
LOST: Final = -signal.SIGKILL
"""The exit code of a process whose server is gone too, and with it whoever could tell."""


class Forked:
    """A process that a ForkServer forked, or will fork as soon as it has loaded."""

    def __init__(self, server: ForkServer, number: int, status: int) -> None:
        self._server, self._number, self._status = server, number, status
        self._pid: int | None = None
        self._exit_code: int | None = None
        weakref.finalize(self, os.close, status)

    @property
    def pid(self) -> int:
        """The process's number, once there is one; -1 where the server ended before."""
        if self._pid is None:
            read = self._number_read()
            self._pid = -1 if read is None else read
        return self._pid

    @property
    def has_begun(self) -> bool:
        """Whether the server has come to it, so that `pid` and the end of a killed one are not long in coming."""
        return self._pid is not None or bool(select.select([self._status], [], [], 0)[0])

    def kill(self) -> None:
        """End the process without waiting for its end."""
        self._server.kill(self._number)

    def wait(self, limit_s: float) -> int | None:
        """Its exit code, negative for a signal, as soon as it is gone and reaped; None where it does not end."""
        if self._exit_code is None and self.pid >= 0:
            if not select.select([self._status], [], [], limit_s)[0]:
                return None
            read = self._number_read()
            self._exit_code = LOST if read is None else read
        return LOST if self._exit_code is None else self._exit_code

    def _number_read(self) -> int | None:
        """The next number that the server tells of the process; None where the server is gone and the process too."""
        told = os.read(self._status, _NUMBER.size)
        return _NUMBER.unpack(told)[0] if told else None


class ForkServer:
    """Begins at once to run `load` in a process of its own, and forks others from it.

    It finds the caller's modules, ignores Ctrl-C, and ends with the caller, and what it forked with it.
    """

    def __init__(self, load: Callable[[], object] | None = None) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A new interpreter: a forked process cannot initialise CUDA if its parent ever did.
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *map(str, sys.path)]
            with deaf_to_interrupts():
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        # The end of the control socket tells a resting server that the caller is gone; this ends one that loads.
        weakref.finalize(self, self._process.kill)
        self._control.send(pickle.dumps(load))
        self._forks = 0

    def fork(self, serve: Callable[[int], object], descriptor: int) -> Forked:
        """A process that runs `serve` on its copy of an open file, and then ends."""
        told, tell = os.pipe()
        try:
            with suppress(OSError):  # A server that is gone is told by the end of the pipe.
                socket.send_fds(self._control, [pickle.dumps(serve)], [descriptor, tell])
        finally:
            os.close(tell)
        self._forks += 1
        return Forked(self, self._forks, told)

    def kill(self, number: int) -> None:
        """End the forked process of this number; nothing happens where it has ended."""
        with suppress(OSError):
            self._control.send(_NUMBER.pack(number))

    def close(self) -> None:
        """End the server and all that it forked."""
        self._control.close()
        self._process.kill()
        self._process.wait()


# What follows runs inside the server.


class _Child:
    """A forked process: `alive` reads end-of-file when it ends, `tell` is where its caller hears of it."""

    def __init__(self, pid: int, alive: int, tell: int) -> None:
        self.pid, self.alive, self.tell = pid, alive, tell


def serve_forks(descriptor: int) -> None:
    """The server: forks and kills as the socket of this number says, until its other end is closed."""
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    load = pickle.loads(control.recv(_MESSAGE_BYTES))
    if load is not None:
        with suppress(Exception):  # What cannot be loaded is told by whoever needs it.
            load()
    children: dict[int, _Child] = {}
    forks = 0
    while True:
        watched: list[socket.socket | int] = [control, *(child.alive for child in children.values())]
        ready = select.select(watched, [], [])[0]
        for number, child in list(children.items()):
            if child.alive in ready:
                _reap(children.pop(number))
        if control not in ready:
            continue
        message, descriptors = socket.recv_fds(control, _MESSAGE_BYTES, 2)[:2]
        if not message:
            return  # Its children end with it, by the signal that they asked for.
        if descriptors:
            forks += 1
            children[forks] = _forked(message, descriptors, control, children)
        elif (child_named := children.get(_NUMBER.unpack(message)[0])) is not None:
            os.kill(child_named.pid, signal.SIGKILL)


def _forked(message: bytes, descriptors: list[int], control: socket.socket, children: dict[int, _Child]) -> _Child:
    served, tell = descriptors
    alive, alive_in_child = os.pipe()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _end_with_parent(server)
            control.close()
            for other in children.values():  # They would not be seen to end as long as this one holds their ends.
                os.close(other.alive)
                os.close(other.tell)
            os.close(alive)
            pickle.loads(message)(served)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(alive_in_child)
    os.close(served)
    _tell(tell, pid)
    return _Child(pid, alive, tell)


def _reap(child: _Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    _tell(child.tell, os.waitstatus_to_exitcode(status))
    os.close(child.alive)
    os.close(child.tell)


def _tell(pipe: int, number: int) -> None:
    with suppress(BrokenPipeError):  # Nobody waits for it any more.
        os.write(pipe, _NUMBER.pack(number))


def _end_with_parent(parent: int) -> None:
    with suppress(OSError, AttributeError):  # Linux alone has it; elsewhere a resting child sees its pipe's end.
        prctl: Any = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
