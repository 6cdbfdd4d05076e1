"""Lanes of this machine that do not end, or cannot be begun again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fusetune.fleet import lanes, local
from fusetune.fleet.gpus import GpuHere
from fusetune.fleet.lane import Begin
from fusetune.fleet.local import LocalExecutor
from fusetune.fleet.words import Joined, Left

GPU = GpuHere(0, f"GPU-lane-{os.getpid()}", "NVIDIA H200", "9.0")
STUCK = """
import os, time
def main(descriptor):
    open(os.environ["FUSETUNE_TEST_BEGUN"], "w").close()
    time.sleep(600)
"""


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lane that loads for ever; the file is there as soon as it does."""
    (tmp_path / "stuck_lane.py").write_text(STUCK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lanes, "MODULE", "stuck_lane")
    begun = tmp_path / "begun"
    monkeypatch.setenv("FUSETUNE_TEST_BEGUN", str(begun))
    return begun


def wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.timeout(40)
def test_a_lane_that_loads_for_ever_does_not_keep_the_command_from_its_end(
    stuck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PART_LIMIT_S", 0.2)
    executor = LocalExecutor([GPU], Begin(""))
    wait_for(stuck)
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 10


@pytest.mark.timeout(40)
def test_a_gpu_whose_lane_cannot_be_begun_again_has_left_and_the_command_goes_on(
    stuck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LocalExecutor([GPU], Begin(""))
    try:
        assert isinstance(executor.event(10.0), Joined)

        def no_memory(*_: Any) -> Any:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(local, "Lane", no_memory)
        executor.end("GPU 0")
        left = executor.event(20.0)
        assert isinstance(left, Left)
        assert not left.returns
        assert "Cannot allocate memory" in left.why
    finally:
        executor.close()


@pytest.mark.timeout(60)
def test_a_lane_whose_parent_was_killed_leaves_nothing_of_what_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MODULE", "tests.support.simulated_lane")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    lane = lanes.Lane(GPU.uuid, Begin(""))
    folder = Path(lane._folder.name)
    (folder / "capture").touch()
    lane._channel.close()  # As where the parent is gone.
    try:
        lane._process.wait(40)
        assert not folder.exists()
    finally:
        lane.close()
