"""What a command that is told to end, or killed, leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusetune.cli.scratch import scratch_folder

ROOT = Path(__file__).parents[3]
_HOLDS = """
import sys, time
from pathlib import Path
from fusetune.cli.scratch import scratch_folder
from fusetune.cli.signals import Signals
Signals().install()
with scratch_folder("against", Path(sys.argv[1])) as folder:
    (folder / "tree").mkdir()
    print("ready", flush=True)
    time.sleep(60)
"""


def _ended_by(number: int, folder: Path) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        return process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_removes_its_folder_first(number: int, tmp_path: Path) -> None:
    assert _ended_by(number, tmp_path) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_command_left_the_next_one_removes_and_a_living_one_s_it_does_not(tmp_path: Path) -> None:
    assert _ended_by(signal.SIGKILL, tmp_path) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    long_ago = time.time() - 3600
    with scratch_folder("against", tmp_path) as held:
        assert left.exists(), "it is so young that it may be about to be locked"
        for folder in tmp_path.iterdir():
            os.utime(folder / ".lock", (long_ago, long_ago))
        with scratch_folder("against", tmp_path) as other:
            assert not left.exists()
            assert held.is_dir()
            assert other.is_dir()
    assert list(tmp_path.iterdir()) == []
