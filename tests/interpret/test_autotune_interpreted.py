"""`@fusetune.autotune` under Triton's interpreter: right on the CPU, with the default, since no GPU is at hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.runtime import launch_configs
from tests.support.launch_entries import alone, write_tuned


@triton.jit
def counted(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2 + tl.num_programs(0), mask=at < n)


CONFIGS = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 32}, num_warps=1)]


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    yield alone(tmp_path, monkeypatch)
    fusetune.load()


def run(kernel: Any, n: int = 256) -> torch.Tensor:
    x, y = torch.ones(n), torch.empty(n)
    # Not by meta["n"]: to the interpreter of Triton 3.6 that is a tensor, of which NumPy 2.4 makes no number.
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
    return y


def test_the_default_runs_and_the_miss_says_that_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(launch_configs, "current_identity", lambda: None)
    kernel = fusetune.autotune(configs=CONFIGS, key=["n"], default=1)(counted)
    with pytest.warns(RuntimeWarning, match="CUDA"):
        assert torch.equal(run(kernel), torch.full((256,), 10.0))
    assert torch.equal(run(kernel), torch.full((256,), 10.0))


def test_an_entry_is_used_with_the_grid_that_follows(configs):
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": 256, "grid_0": 4}
    before = NamedConfig(BLOCK=64, num_warps=4, num_stages=3)
    write_tuned(configs, counted, problem, NamedConfig(BLOCK=128, num_warps=8), before=before)
    kernel = fusetune.autotune(configs=CONFIGS, key=["n"])(counted)
    for _ in range(2):
        assert torch.equal(run(kernel), torch.full((256,), 4.0))
    assert kernel.best_config.kwargs == {"BLOCK": 128}
