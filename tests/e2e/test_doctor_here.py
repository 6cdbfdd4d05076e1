"""`fusetune doctor` as it is installed, on a machine without a GPU, and with a driver that refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fusetune.core.trouble import triton_cache_dir
from fusetune.measure.nvml import gpu_present
from tests.support.warm import warm_python

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(gpu_present(), reason="tells what a machine without a GPU is told")]


def doctor(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [warm_python(), "-m", "fusetune", "doctor", *arguments]
    # Of the home alone, that would be empty: what the trial compiles is compiled once.
    environment = {**os.environ, "HOME": str(folder), "TRITON_CACHE_DIR": str(triton_cache_dir()[0]), **more}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_without_a_gpu_it_says_so_what_to_do_and_what_can_be_done_here(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--kernels")
    assert done.returncode == 4, done.stderr
    lines = done.stdout.splitlines()
    gpu = next(number for number, line in enumerate(lines) if line.startswith("NO GPU gpu"))
    assert lines[gpu + 1].strip().startswith("-> ")
    assert any(
        line.startswith("ok     compiling        2 kernels compile for NVIDIA GeForce RTX 4090") for line in lines
    )
    assert "It can predict for another one" in lines[-1]
    assert done.stderr.splitlines()[-1] == "No file was written: there is nothing to measure on."
    assert not list(tmp_path.glob("*.json"))


def test_as_json_it_names_nothing_of_this_user_and_this_host(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", USER="ada", LOGNAME="ada", HOSTNAME="lovelace-box")
    assert done.returncode == 4
    told = json.loads(done.stdout)
    assert told["versions"]["triton"]
    assert {one["level"] for one in told["findings"]} >= {"ok", "no_gpu"}
    for secret in (str(tmp_path), "ada", "lovelace", os.uname().nodename):
        assert secret not in done.stdout


def test_a_cache_that_cannot_be_written_is_told_with_the_variable_to_set(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("")
    done = doctor(tmp_path, TRITON_CACHE_DIR=str(tmp_path / "a_file" / "below"))
    assert done.returncode == 4  # There is no GPU either, and that is graver.
    assert "UNFIT  folders" in done.stdout
    assert "set TRITON_CACHE_DIR to a folder that you may write to" in done.stdout
    assert "Traceback" not in done.stderr
