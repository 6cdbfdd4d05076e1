"""One sweep a GPU: others wait, and never for the dead."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.errors import MachineError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.lock import hold_gpu, hold_gpu_of
from fusetune.measure.protocol import GpuFacts

UUID, OTHER_UUID = "GPU-1111-aaaa", "GPU-2222-bbbb"
SOON_S = 30.0
"""Long enough for any machine; nothing here waits that long unless it fails."""
STILL_S = 0.4
"""What has not happened by then was not about to: the lock is asked for twenty times a second."""

SPAWN = multiprocessing.get_context("spawn")


def hold(uuid: str, folder: Path, told: Any, let_go: Any) -> None:
    """In another process: hold the GPU, telling `told` what happens, until `let_go` is set."""
    with hold_gpu(uuid, lambda: told.put("waits"), folder):
        told.put("holds")
        let_go.wait()
    told.put("let go")


class Other:
    """Another process that holds the GPU, or waits for it."""

    def __init__(self, folder: Path, uuid: str = UUID) -> None:
        self._told, self._let_go = SPAWN.Queue(), SPAWN.Event()
        self.process: BaseProcess = SPAWN.Process(target=hold, args=(uuid, folder, self._told, self._let_go))
        self.process.start()

    def says(self) -> str:
        return str(self._told.get(timeout=SOON_S))

    def is_silent(self) -> bool:
        try:
            self._told.get(timeout=STILL_S)
        except queue.Empty:
            return True
        return False

    def let_go(self) -> None:
        self._let_go.set()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(SOON_S)
        assert self.process.exitcode == -9


Start = Callable[..., Other]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Other] = []

    def begin(uuid: str = UUID) -> Other:
        begun.append(Other(tmp_path, uuid))
        return begun[-1]

    yield begin
    for other in begun:
        other.process.kill()
        other.process.join(SOON_S)


class Calls:
    """Counts how often the user was told to wait."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_a_free_gpu_is_held_at_once(tmp_path: Path) -> None:
    waits = Calls()
    for _ in range(2):
        with hold_gpu(UUID, waits, tmp_path):
            pass
    assert waits.count == 0


def test_a_second_process_waits_for_the_first_and_says_so_once(tmp_path: Path, start: Start) -> None:
    with hold_gpu(UUID, Calls(), tmp_path):
        other = start()
        assert other.says() == "waits"
        assert other.is_silent()
    assert other.says() == "holds"
    other.let_go()
    assert other.says() == "let go"
    other.process.join(SOON_S)
    assert other.process.exitcode == 0


@pytest.mark.parametrize(("limit_s", "waits"), [(0.0, 0), (0.2, 1)])
def test_a_wait_may_have_a_limit(tmp_path: Path, start: Start, limit_s: float, waits: int) -> None:
    other, asked = start(), Calls()
    assert other.says() == "holds"
    with (
        pytest.raises(MachineError, match="another fusetune measures on this GPU"),
        hold_gpu(UUID, asked, tmp_path, limit_s=limit_s),
    ):
        pass
    assert asked.count == waits


def test_a_holder_that_is_killed_lets_go(tmp_path: Path, start: Start) -> None:
    other = start()
    assert other.says() == "holds"
    other.kill()
    waits = Calls()
    with hold_gpu(UUID, waits, tmp_path):
        pass
    assert waits.count == 0


def test_who_waits_for_a_holder_gets_the_gpu_when_that_is_killed(tmp_path: Path, start: Start) -> None:
    other = start()
    assert other.says() == "holds"
    waits, got = Calls(), threading.Event()

    def wait() -> None:
        with hold_gpu(UUID, waits, tmp_path):
            got.set()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert not got.wait(STILL_S)
    other.kill()
    assert got.wait(SOON_S)
    waiting.join(SOON_S)
    assert waits.count == 1


def test_different_gpus_do_not_wait_for_each_other(tmp_path: Path, start: Start) -> None:
    other = start(OTHER_UUID)
    assert other.says() == "holds"
    waits = Calls()
    with hold_gpu(UUID, waits, tmp_path):
        assert waits.count == 0
        other.let_go()
        assert other.says() == "let go"


def test_an_error_within_lets_go(tmp_path: Path) -> None:
    def fail() -> None:
        with hold_gpu(UUID, Calls(), tmp_path):
            raise RuntimeError("planted")

    waits = Calls()
    with pytest.raises(RuntimeError, match="planted"):
        fail()
    with hold_gpu(UUID, waits, tmp_path):
        assert waits.count == 0


def test_every_user_of_the_machine_may_wait_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with hold_gpu(UUID, Calls()):
        (path,) = tmp_path.iterdir()
    assert UUID in path.name
    assert path.stat().st_mode & 0o777 == 0o666


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def facts(uuid: str | None) -> GpuFacts:
    return msgspec.structs.replace(FakeMeasurer(find_target("rtx4090"), lambda _: 1.0).facts(), uuid=uuid)


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[None]:
    """Held in this process by another hand; let go a little later."""
    hold_on, held = threading.Event(), threading.Event()

    def work() -> None:
        with hold_gpu(UUID, Calls(), folder):
            held.set()
            hold_on.wait(SOON_S)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert held.wait(SOON_S)
    timer = threading.Timer(STILL_S, hold_on.set)
    timer.start()
    yield
    thread.join(SOON_S)


def test_the_user_is_told_that_another_sweep_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    heard = Heard()
    with held_elsewhere(tmp_path):
        began = time.monotonic()
        with hold_gpu_of(facts(UUID), heard):
            assert time.monotonic() - began > STILL_S / 2
    assert heard.said == ["Another fusetune measures on this GPU; waiting for it to end"]


def test_a_gpu_without_a_name_is_shared_with_nobody_and_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with hold_gpu_of(facts(None), Heard()), hold_gpu_of(facts(None), Heard()):
        assert list(tmp_path.iterdir()) == []
