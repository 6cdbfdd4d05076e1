"""What is given out of a program on a GPU was run first: what is faster is, and what is not comes out unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
PROGRAM = """import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def twice(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


class Model(nn.Module):
    def forward(self, x):
        return REFERENCE


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        n = x.numel()
        twice[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=32, num_warps=8)
        return RESULT


def get_inputs():
    return [torch.randn(4096, 4096)]


def get_init_inputs():
    return []
"""
"""A tile far too small: any other is several times as fast."""
FAST = {"REFERENCE": "2 * x", "RESULT": "y"}
BESIDE = {"REFERENCE": "2 * x @ x", "RESULT": "sum((y @ x for _ in range(60)), torch.zeros_like(x)) / 60"}
"""Beside sixty products the kernel is nothing, however fast it gets."""


def tune(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "fusetune", "tune", "slow.py", *words, "--json", "--configs", "configs"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert done.returncode in {0, 3}, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout), done.stderr


def written(folder: Path, texts: dict[str, str]) -> Path:
    path = folder / "slow.py"
    text = PROGRAM
    for name, value in texts.items():
        text = text.replace(name, value)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_module_and_a_patch_that_are_right_and_faster_are_given_out(tmp_path: Path) -> None:
    path = written(tmp_path, FAST)
    found, _ = tune(tmp_path, "-o", "optimized.py", "--apply")
    for form in ("module", "patch"):
        said = found["source_check"][form]
        assert (said["changes"], said["given_out"], said["right"]) == ([["twice"]], 1, True)
        assert said["difference"]["error"] == 0.0
        assert said["ratio"] < 0.7
    assert "BLOCK=32," not in path.read_text(encoding="utf-8")
    module = (tmp_path / "optimized.py").read_text(encoding="utf-8")
    assert "# The program's result is that of before (max error 0); " in module
    assert "BLOCK=32," not in module[module.index("class ModelNew") :]


def test_what_gains_too_little_as_a_whole_comes_out_unchanged_unless_each_kernel_counts(tmp_path: Path) -> None:
    path = written(tmp_path, BESIDE)
    before = path.read_text(encoding="utf-8")
    found, _ = tune(tmp_path, "-o", "optimized.py", "--apply")
    (case,) = found["kernels"][0]["cases"]
    assert case["verdict"] == "keep"
    assert path.read_text(encoding="utf-8") == before
    for form in ("module", "patch"):
        said = found["source_check"][form]
        assert (said["given_out"], [one["why"] for one in said["reverted"]]) == (0, ["whole"])
    module = (tmp_path / "optimized.py").read_text(encoding="utf-8")
    assert "# No launch is changed." in module
    assert "# Left as before: twice: the whole takes " in module
    assert "n, BLOCK=32, num_warps=8)" in module
    each, _ = tune(tmp_path, "--diff", "--per-kernel")
    assert each["source_check"]["patch"]["given_out"] == 1
