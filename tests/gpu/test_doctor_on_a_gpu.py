"""`fusetune doctor` on a GPU: its facts, its noise, every variant of the installed ops, and a file in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fusetune
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK
from fusetune.ops.device import gpu_identity
from fusetune.ops.loading import installed_ops, spec_named
from fusetune.store.doctor_file import DoctorFile, read_doctor_file

LIMIT_S = 120
ALLOWED = {EXIT_OK, EXIT_INCONCLUSIVE}
"""A machine with company is noisy, which is no fault of what is tested."""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(fusetune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-m", "fusetune", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> tuple[DoctorFile, float, Path]:
    """One visit with its file, and how long it took."""
    folder = tmp_path_factory.mktemp("doctor")
    began = time.monotonic()
    done = command(folder, "doctor", "--kernels", "--limit", str(LIMIT_S), "-o", "here.json")
    took = time.monotonic() - began
    assert done.returncode in ALLOWED, done.stdout + done.stderr
    return read_doctor_file(folder / "here.json"), took, folder / "here.json"


def test_the_gpu_is_this_one_and_its_figures_are_there(visited: tuple[DoctorFile, float, Path]) -> None:
    file, _, _ = visited
    assert file.gpu == gpu_identity(0)
    assert file.figures is not None
    assert file.figures.memory_bytes is not None
    assert file.figures.memory_bytes >= torch.cuda.get_device_properties(0).total_memory
    assert file.versions.driver
    assert file.versions.torch == str(torch.__version__)


def test_a_short_and_a_long_launch_were_held_against_themselves(visited: tuple[DoctorFile, float, Path]) -> None:
    file, _, _ = visited
    short, long = file.noise
    assert (short.what, short.timer) == ("short", "graph")
    assert long.what == "long"
    assert 0 < short.baseline_us < 100 < long.baseline_us
    assert 0 < short.tick_us < 10
    assert short.gain.blocks >= 25


def test_every_variant_is_right_and_each_op_was_reached(visited: tuple[DoctorFile, float, Path]) -> None:
    file, _, _ = visited
    launched = [one for examined in file.kernels for one in examined.launched]
    assert launched
    assert not [one for one in launched if one.outcome == "failed"]
    assert not [examined.trouble for examined in file.kernels if examined.trouble]
    for op in installed_ops():
        reached = [one.described for one in file.kernels if one.op == op]
        left = [one.described for one in file.not_reached if one.op == op]
        assert set(reached + left) >= {problem.describe() for problem in spec_named(op).examples()}
    assert {examined.op for examined in file.kernels}


def test_times_lie_beside_baseline_and_predictions(visited: tuple[DoctorFile, float, Path]) -> None:
    file, _, _ = visited
    timed = [one for examined in file.kernels for one in examined.launched if one.us is not None]
    assert timed
    for one in timed:
        assert one.us is not None
        assert one.baseline_us is not None
        assert one.gain is not None
        assert one.gain.median == pytest.approx(1 - one.us / one.baseline_us, abs=0.05)


def test_it_ends_in_the_time_that_it_is_given(visited: tuple[DoctorFile, float, Path]) -> None:
    file, took, _ = visited
    assert took < LIMIT_S + 30
    assert file.complete == (not file.not_reached)


def test_report_shows_the_file_and_nothing_of_this_user_is_in_it(visited: tuple[DoctorFile, float, Path]) -> None:
    file, _, path = visited
    assert file.gpu is not None
    shown = command(path.parent, "report", "--doctor", str(path))
    assert shown.returncode == 0, shown.stderr
    assert file.gpu.name in shown.stdout
    text = path.read_text()
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    for secret in (uuid, os.path.expanduser("~") + "/", os.uname().nodename):  # noqa: PTH111
        assert secret not in text


def test_the_machine_alone_is_seen_to_in_less_than_two_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    done = command(tmp_path, "doctor")
    assert done.returncode in ALLOWED, done.stdout + done.stderr
    assert time.monotonic() - began < 120
    assert "A/A, short" in done.stdout
    assert "A/A, long" in done.stdout
