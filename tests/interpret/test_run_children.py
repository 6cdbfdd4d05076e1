"""`fusetune run` as a user starts it: each process of the program takes tuned configs, and what they did is joined."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.core.config import NamedConfig
from tests.support.launch_entries import write_tuned
from tests.support.programs import served as program

ROOT = Path(__file__).parents[2]
PROGRAM = str(ROOT / "tests" / "support" / "programs" / "served.py")
TUNED = NamedConfig(BLOCK=64, num_warps=1, num_stages=2)
SITE = """
import fusetune.runtime.launch_configs as launch_configs
from fusetune.core.environment import TargetIdentity
launch_configs.current_identity = lambda: TargetIdentity("NVIDIA H200", "9.0", 132)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a GPU is said to be by a sitecustomize of somebody's own, and both kernels have an entry."""
    (tmp_path / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    before = NamedConfig(BLOCK=1024, num_warps=2, num_stages=3)
    tensors = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096}
    write_tuned(tmp_path / "configs", program.add, {**tensors, "EVEN": True, "grid_0": 4}, TUNED, before=before)
    own = NamedConfig(BLOCK=512, num_warps=4, num_stages=3)
    write_tuned(tmp_path / "configs", program.double, {**tensors, "grid_0": 8}, TUNED, before=own)
    for path in (tmp_path / "configs").rglob("*.yaml"):  # As a script it is another module.
        text = path.read_text(encoding="utf-8").replace("tests.support.programs.served", "served")
        text = text.replace("tests_support_programs_", "")
        path.with_name(path.name.replace("tests_support_programs_", "")).write_text(text, encoding="utf-8")
        path.unlink()
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", "fusetune", "run", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=240, env=environment
    )


def test_processes_that_a_program_starts_spawns_or_forks_launch_with_tuned_configs_and_tell(folder):
    forms = ["here", "process", "spawn", "fork", "killed"]
    done = run(folder, "--report", "served.json", PROGRAM, ",".join(forms), "4096")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["form"] for one in told if one["form"] != "here"] == forms[1:]
    assert all(one["timed"] == 0 for one in told)
    served = json.loads((folder / "served.json").read_text(encoding="utf-8"))
    assert (served["processes"], served["trials"], served["failed"]) == (5, 0, None)
    kernels = {one["name"]: one for one in served["kernels"]}
    for kernel in kernels.values():
        assert (kernel["missed"], kernel["left"], kernel["command"]) == ([], [], "")
        (applied,) = kernel["applied"]
        assert (applied["rung"], applied["constants"]) == ("exact", {"BLOCK": 64})
    assert kernels["add"]["applied"][0]["launches"] == 5
    assert kernels["double"]["applied"][0]["launches"] >= 4, "one was killed before it could tell all"
    assert "of 2 kernels with tuned configs, in 5 processes; nothing was timed" in done.stderr
    assert "5 launches with BLOCK=64 num_warps=1 num_stages=2: the entry for exactly this launch" in done.stderr


def test_on_miss_error_ends_the_program_with_one_line_and_2(folder):
    done = run(folder, "--on-miss", "error", "--quiet", PROGRAM, "here", "300")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: add (")
    assert "has no tuned config" in line
    assert line.endswith(f"`fusetune tune --kernel add {PROGRAM} here 300`")


def test_a_program_that_fails_shows_its_own_traceback_and_what_it_launched_and_ends_with_6(folder):
    text = "from tests.support.programs.served import doubled\ndoubled(300)\nraise ValueError('mine')\n"
    (folder / "fails.py").write_text(text, encoding="utf-8")
    done = run(folder, "fails.py")
    assert done.returncode == 6
    shown, told = done.stderr.split("fusetune: ")
    assert shown.startswith("Traceback (most recent call last):\n  File ")
    assert shown.endswith("ValueError: mine\n")
    assert "serving" not in shown
    assert "1 launch, none with a tuned config; nothing was timed" in told
