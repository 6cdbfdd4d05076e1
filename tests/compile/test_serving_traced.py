"""An autotuner that torch.compile traces takes its tuned config, and nothing is left to be timed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch._higher_order_ops.triton_kernel_wrap import TritonHOPifier, kernel_side_table

import fusetune
from fusetune.capture.serving.served import Notes
from fusetune.capture.serving.serving import OnMiss, Serving
from fusetune.core.config import NamedConfig
from fusetune.runtime.launch_configs import LAUNCH_CONFIGS
from tests.support.launch_entries import alone, write_tuned

CONFIGS = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 32}, num_warps=1)]


@triton.autotune(configs=CONFIGS, key=["n"])
@triton.jit
def doubled(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2, mask=at < n)


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)  # without it Dynamo knows no kernel
    torch._dynamo.reset()
    folder = alone(tmp_path, monkeypatch)
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "grid_0": 64}
    before = NamedConfig(BLOCK=64, num_warps=4, num_stages=3)
    write_tuned(folder, doubled, problem, NamedConfig(BLOCK=256, num_warps=8), before=before)
    yield folder
    fusetune.load()
    torch._dynamo.reset()


def traced(*sizes: int) -> list[list[tuple[int, int]]]:
    """BLOCK and warps of the configs that each graph is left with."""
    found: list[list[tuple[int, int]]] = []

    def compiled(graph: Any, _inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if node.op == "call_function" and "triton" in str(node.target):
                kept = kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).configs
                found.append([(one.kwargs["BLOCK"], one.num_warps) for one in kept])
        return lambda *given: [torch.zeros(1)]

    def function(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        doubled[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel())
        return y

    run = torch.compile(function, fullgraph=True, dynamic=False, backend=compiled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a size without an entry, once
        for size in sizes:
            run(torch.zeros(size))
    return found


def served(on_miss: OnMiss, *sizes: int) -> tuple[list[list[tuple[int, int]]], Notes]:
    serving = Serving(LAUNCH_CONFIGS, Notes(str), on_miss=on_miss)
    serving.install()
    try:
        return traced(*sizes), serving.notes
    finally:
        serving.remove()


def test_a_traced_autotuner_is_left_with_the_config_of_its_entry_or_with_the_first_of_its_list():
    held = TritonHOPifier.init_variable
    found, notes = served("default", 4096, 4000, 300, 4096)
    assert found == [[(256, 8)], [(256, 8)], [(64, 4)]]
    assert "doubled: torch.compile has looked its configs up" in notes.served().notes[0]
    assert (doubled.configs, doubled.early_config_prune) == (CONFIGS, None)
    assert TritonHOPifier.init_variable is held


def test_what_is_to_be_timed_without_an_entry_is_torch_s_to_time():
    both = [[(64, 4), (32, 1)]]
    assert served("tune", 4096)[0] == both
    torch._dynamo.reset()
    assert traced(4096) == both, "after it all is as it was"
