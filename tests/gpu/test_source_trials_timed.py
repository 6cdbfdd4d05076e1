"""On a GPU: what no launch varies alone is varied in the source, by runs of the program, and is right and faster.

Each takes about a minute: a winner is borne out by twelve runs of the program in fresh processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
HEAD = """import torch
import triton
import triton.language as tl
from torch import nn


def get_inputs():
    return [torch.rand(4096, 4096)]


def get_init_inputs():
    return []


class Model(nn.Module):
    def forward(self, x):
        return REFERENCE
"""
GRID = """

@triton.jit
def doubled(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    for part in tl.static_range(3):
        at = (tl.program_id(0) * 3 + part) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


def programs(n, size):
    return len(range(0, n, 3 * size))


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        n = x.numel()
        block = 32
        doubled[(programs(n, block),)](x, y, n, BLOCK=block)
        return y
"""
"""Class C: a grid that some function of the program computes from the tile, in a way that its numbers do not show."""
BUFFER = """

@triton.jit
def partial_sums(x_ptr, partial_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0), axis=0))


class ModelNew(nn.Module):
    def forward(self, x):
        n = x.numel()
        block = 32
        partial = torch.empty((n + block - 1) // block, device=x.device)
        partial_sums[(partial.numel(),)](x, partial, n, BLOCK=block)
        return partial.sum()
"""
"""Class E: a tile that sizes a buffer of the program."""


def tuned(folder: Path, text: str, *words: str) -> tuple[dict[str, Any], str]:
    """What is told of the program, and what its file is afterwards."""
    path = folder / "small_tile.py"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "fusetune", "tune", path.name, "--apply", "--budget", "1", "--json", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=500, env=environment
    )
    assert done.returncode in {0, 3}, done.stderr
    return json.loads(done.stdout), path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("body", "reference", "kernel"),
    [(GRID, "2 * x", "doubled"), (BUFFER, "x.sum()", "partial_sums")],
    ids=["grid", "buffer"],
)
def test_a_tile_that_is_far_too_small_grows_where_it_is_written(
    tmp_path: Path, body: str, reference: str, kernel: str
) -> None:
    found, text = tuned(tmp_path, HEAD.replace("REFERENCE", reference) + body, "--source-budget", "45")
    trials = found["source_trials"]
    (knob,) = trials["knobs"]
    assert (knob["kernels"], knob["constants"], knob["value"]) == ([kernel], ["BLOCK"], 32)
    assert knob["chosen"] > 32
    assert trials["gain"]["low"] >= 0.02
    assert f"block = {knob['chosen']}\n" in text
    assert f"# fusetune: BLOCK 32 -> {knob['chosen']} of {kernel}.\n" in text
    said = found["source_check"]["patch"]
    assert said["right"] is True
    assert said["ratio"] < 0.98
