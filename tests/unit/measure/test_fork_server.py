"""The process that others are forked from: what they find loaded, how they end, and what is told of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusetune.measure import fork_server
from fusetune.measure.fork_server import LOST, Forked, ForkServer

LIMIT_S = 60.0


def load() -> None:
    import wave  # noqa: F401 - something that nobody has loaded yet

    fork_server.loaded_by = os.getpid()  # type: ignore[attr-defined]


def fail_to_load() -> None:
    raise ImportError("no such library")


def load_slowly() -> None:
    time.sleep(600)


def tell(descriptor: int) -> None:
    """What a forked process finds."""
    loaded_by = getattr(fork_server, "loaded_by", None)
    text = f"{os.getpid()} {os.getppid()} {loaded_by} {'wave' in sys.modules}"
    socket.socket(fileno=descriptor).send(text.encode())


def rest(descriptor: int) -> None:
    socket.socket(fileno=descriptor).recv(1)


def leave(descriptor: int) -> None:
    os._exit(7)


def raise_something(descriptor: int) -> None:
    raise ValueError("what the forked process does wrong")


@contextmanager
def serving(load_what: object = load) -> Iterator[ForkServer]:
    server = ForkServer(load_what)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


@contextmanager
def forked(server: ForkServer, serve: object) -> Iterator[tuple[Forked, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = server.fork(serve, theirs.fileno())  # type: ignore[arg-type]
        yield process, ours


def gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_forked_processes_find_loaded_what_the_server_loaded_once() -> None:
    told = []
    with serving() as server:
        for _ in range(2):
            with forked(server, tell) as (process, ours):
                told.append(ours.recv(100).decode().split())
                assert process.wait(LIMIT_S) == 0
                assert process.pid == int(told[-1][0])
    (first, parent, loaded_by, has), (second, *rest_of_it) = told
    assert first != second
    assert rest_of_it == [parent, loaded_by, has] == [loaded_by, loaded_by, "True"]


def test_what_cannot_be_loaded_is_left_to_those_who_need_it() -> None:
    with serving(fail_to_load) as server, forked(server, tell) as (_, ours):
        assert ours.recv(100).decode().endswith("None False")


@pytest.mark.parametrize(("serve", "code"), [(leave, 7), (raise_something, 1)])
def test_the_exit_code_of_a_forked_process_is_told(serve: object, code: int) -> None:
    with serving() as server, forked(server, serve) as (process, _):
        assert process.wait(LIMIT_S) == code
        assert process.wait(LIMIT_S) == code


def test_a_killed_one_is_told_by_its_signal_and_its_siblings_live_on() -> None:
    with serving() as server, forked(server, rest) as (first, _), forked(server, rest) as (second, ours):
        assert second.pid != first.pid
        first.kill()
        assert first.wait(LIMIT_S) == -signal.SIGKILL
        assert second.wait(0.0) is None
        first.kill()  # Again does no harm.
        ours.send(b"x")
        assert second.wait(LIMIT_S) == 0


def test_all_end_with_the_server_which_need_not_have_loaded() -> None:
    with serving(load_slowly) as server, forked(server, rest) as (process, _):
        assert not process.has_begun
        began = time.monotonic()
        server.close()
        assert (process.pid, process.wait(LIMIT_S)) == (-1, LOST)
        assert time.monotonic() - began < 5
    with serving() as server, forked(server, rest) as (process, _):
        pid = process.pid
        server.close()
        assert process.wait(LIMIT_S) == LOST
        assert gone(pid)


def test_what_is_asked_of_a_server_that_is_gone_is_no_error() -> None:
    with serving() as server:
        server.close()
        with forked(server, rest) as (process, _):
            process.kill()
            assert process.wait(LIMIT_S) == LOST
