"""A case says where it was launched: the place, what its names were worth, and the files as they were."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
PROGRAM = """import torch
import triton
import triton.language as tl

from settings import BLOCK


@triton.jit
def copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


def launch(x, y, size="large"):
    n = x.numel()
    ö = copy[(triton.cdiv(n, BLOCK),)](x, y, n, BLOCK=BLOCK)


x = torch.ones(5000, device="cuda")
launch(x, torch.empty_like(x))
"""


def captured(folder: Path, name: str) -> list[dict[str, Any]]:
    command = [warm_python(), "-m", "fusetune", "capture", "--target", "rtx4090", "--json", name]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    cases: list[dict[str, Any]] = json.loads(done.stdout)["cases"]
    return cases


def test_a_launch_is_told_by_its_place_and_by_the_files_that_feed_it(tmp_path: Path) -> None:
    program, settings = tmp_path / "program.py", tmp_path / "settings.py"
    program.write_text(PROGRAM, encoding="utf-8")
    settings.write_text("BLOCK = 1024\n", encoding="utf-8")
    (case,) = captured(tmp_path, "program.py")
    site = case["site"]
    line = next(number for number, text in enumerate(PROGRAM.splitlines(), start=1) if "copy[" in text)
    assert (site["file"], site["line"], site["column"]) == (str(program), line, len("    ö = ".encode()))
    assert site["names"] == {"BLOCK": 1024, "n": 5000}, "what the launching function reads"
    assert site["follows"] == ["BLOCK"]
    assert site["modules"] == {"settings": str(settings)}
    assert site["files"] == {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in (program, settings)}
