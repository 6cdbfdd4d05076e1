"""How a program names itself to other commands, so that what it tells to run can be pasted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TELLS = "from fusetune.runtime.program_here import program_here\nprint(program_here())\n"


def told(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("train.py",), "train.py"),
        (("train.py", "8", "a name"), "train.py 8 'a name'"),
        (("train.py", "--size", "8"), "-- train.py --size 8"),
        (("-m", "pack", "8"), "-m pack 8"),
        (("-m", "pack.train", "--size", "8"), "-m pack.train -- --size 8"),
        (("-c", TELLS, "8"), "PROGRAM"),
        (("train.py", "x" * 1000), "PROGRAM"),
    ],
    ids=["script", "arguments", "options", "package", "module", "no file", "too long"],
)
def test_a_program_is_named_with_its_arguments_as_fusetune_tune_takes_it(
    tmp_path: Path, words: tuple[str, ...], command: str
) -> None:
    (tmp_path / "pack").mkdir()
    for name in ("train.py", "pack/__init__.py", "pack/__main__.py", "pack/train.py"):
        (tmp_path / name).write_text("" if name.endswith("__init__.py") else TELLS)
    assert told(tmp_path, *words) == f"{command}\n"
