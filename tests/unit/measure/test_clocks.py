"""A locked clock is let go of on every way out, once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fusetune.errors import MachineError, UsageError
from fusetune.measure.clocks import locked_clocks
from tests.support.fake_nvml import FakeNvml

LOCK, RESET = "nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks"
REFUSED = FakeNvml.NVMLError("Insufficient Permissions")


def driver(**answers: Any) -> FakeNvml:
    """One that lets clocks be locked, unless a test says otherwise."""
    return FakeNvml(**{"nvmlDeviceGetHandleByUUID": lambda uuid: f"gpu {uuid}", LOCK: None, RESET: None, **answers})


def changes(nvml: FakeNvml) -> list[tuple[Any, ...]]:
    """What it was asked to change."""
    return [asked for asked in nvml.asked if asked[0] in {LOCK, RESET}]


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]


def test_the_clock_is_locked_within_and_reset_after() -> None:
    nvml, before = driver(), handlers()
    with locked_clocks(1980, "GPU-3", nvml):
        assert nvml.names() == ["nvmlInit", "nvmlDeviceGetHandleByUUID", LOCK]
        assert changes(nvml) == [(LOCK, "gpu GPU-3", 1980, 1980)]
    assert changes(nvml)[1:] == [(RESET, "gpu GPU-3")]
    assert handlers() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_clock_is_reset_on_an_exception_which_passes_on(error: type[BaseException]) -> None:
    nvml, before = driver(), handlers()

    def fail() -> None:
        with locked_clocks(1980, "0", nvml):
            raise error("planted")

    with pytest.raises(error, match="planted"):
        fail()
    assert changes(nvml) == [(LOCK, "gpu GPU-0", 1980, 1980), (RESET, "gpu GPU-0")]
    assert handlers() == before


def test_where_the_driver_refuses_the_message_names_the_option_and_nothing_is_reset() -> None:
    nvml, before = driver(**{LOCK: REFUSED, RESET: REFUSED}), handlers()

    def ask() -> None:
        with locked_clocks(1980, "0", nvml):
            raise AssertionError("nothing was locked")

    with pytest.raises(UsageError, match=r"1980 MHz \(Insufficient Permissions\); leave --lock-clocks out") as caught:
        ask()
    assert caught.value.exit_code == 2
    assert changes(nvml) == [(LOCK, "gpu GPU-0", 1980, 1980)]
    assert handlers() == before


def test_a_thread_that_could_not_be_told_of_signals_locks_nothing() -> None:
    nvml = driver()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with locked_clocks(1980, "0", nvml):
                pass
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert changes(nvml) == []


# --- ways out of the process

SCRIPT = """
import os, pathlib, signal, sys, time
from fusetune.measure.clocks import locked_clocks

out, way = pathlib.Path(sys.argv[1]), sys.argv[2]

class Nvml:
    signalled = False
    NVMLError = RuntimeError
    def nvmlInit(self): pass
    def nvmlDeviceGetHandleByUUID(self, uuid): return uuid
    def nvmlDeviceSetGpuLockedClocks(self, handle, low, high):
        out.write_text("locked\\n")
        if way == "while locking":
            os.kill(os.getpid(), signal.SIGTERM)
    def nvmlDeviceResetGpuLockedClocks(self, handle):
        if way == "while resetting" and not self.signalled:
            self.signalled = True
            os.kill(os.getpid(), signal.SIGTERM)
        with out.open("a") as file:
            file.write("reset\\n")

context = locked_clocks(1980, "0", Nvml())
context.__enter__()
if way in {"SIGTERM", "SIGHUP"}:
    print("ready", flush=True)
    time.sleep(60)
elif way == "end of the program":
    pass
elif way == "sys.exit":
    sys.exit(7)
elif way == "error":
    raise OSError("planted")
else:
    context.__exit__(None, None, None)
"""

WAYS = {
    "SIGTERM": 128 + signal.SIGTERM,
    "SIGHUP": 128 + signal.SIGHUP,
    "while locking": 128 + signal.SIGTERM,
    "while resetting": 128 + signal.SIGTERM,
    "end of the program": 0,
    "sys.exit": 7,
    "error": 1,
    "normal": 0,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_clock_is_reset_once_on_every_way_out_of_the_process(tmp_path: Path, way: str) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(out), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if way in {"SIGTERM", "SIGHUP"}:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.Signals[way])
        _, errors = process.communicate(timeout=60)
    assert process.returncode == WAYS[way], errors
    assert out.read_text() == "locked\nreset\n"


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_where_the_driver_cannot_be_asked_it_is_one_sentence(question: str) -> None:
    nvml = driver(**{question: FakeNvml.NVMLError("Library Not Found")})
    with pytest.raises(UsageError, match="leave --lock-clocks out"), locked_clocks(1980, "0", nvml):
        pytest.fail("nothing is measured")


def test_a_clock_that_stays_locked_is_told_with_what_resets_it() -> None:
    nvml = driver()
    with (
        pytest.raises(MachineError, match=r"stays locked at 1980 MHz.*nvidia-smi -rgc"),
        locked_clocks(1980, "0", nvml),
    ):
        nvml.answers[RESET] = REFUSED
    nvml.answers[RESET] = None  # It is tried again at the interpreter's exit, this one's.
