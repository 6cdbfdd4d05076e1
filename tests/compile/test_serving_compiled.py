"""Launches through Triton's JIT take tuned configs, compiled for a GPU that is not there: wrappers, hooks, results."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.compiler import CompiledKernel

import fusetune
from fusetune.capture.programs import parse_program, run_program
from fusetune.capture.serving.served import Notes, Served
from fusetune.capture.serving.serving import Serving
from fusetune.capture.stand_in import stand_in
from fusetune.core.config import NamedConfig
from fusetune.core.environment import TargetIdentity
from fusetune.core.target import find_target
from fusetune.runtime import launch_configs
from fusetune.runtime.launch_configs import LaunchConfigs
from tests.support.captured_entries import write_captured
from tests.support.launch_cases import Launch, launches_of
from tests.support.launch_entries import alone, write_tuned

TRAPS = Path(__file__).parents[1] / "support" / "traps"
ADA = find_target("rtx4090")
IDENTITY = TargetIdentity(ADA.name, ADA.capability, ADA.sms)


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    folder = alone(tmp_path, monkeypatch)
    monkeypatch.setattr(launch_configs, "current_identity", lambda: IDENTITY)
    yield folder
    fusetune.load()


def launched(run: Any) -> tuple[list[Launch], Served]:
    serving = Serving(LaunchConfigs(), Notes("fusetune tune --kernel {}".format))

    def served() -> None:
        serving.install()
        try:
            run()
        finally:
            serving.remove()

    with stand_in(ADA):
        _, launches = launches_of(served)
    return launches, serving.notes.served()


def test_wrappers_and_hooks_of_a_program_keep_working_with_the_entries_of_its_own_kernels(configs, tmp_path):
    program = tmp_path / "program.py"
    text = (TRAPS / "trap_11_wrappers.py").read_text(encoding="utf-8")
    program.write_text(text.replace('args["counts_ptr"].zero_()', 'print("zeroed", args["BLOCK"])'), encoding="utf-8")
    written = write_captured(program, configs, IDENTITY, warps=2, target=ADA.name)
    assert set(written) == {"negate", "count_classes", "square"}
    launches, served = launched(lambda: run_program(parse_program([str(program)])))
    assert {name: options["num_warps"] for name, _, _, options in launches} == dict.fromkeys(written, 2)
    assert {one.name: [row.rung for row in one.applied] for one in served.kernels} == {
        name: ["exact"] for name in written
    }
    assert served.trials == 0


@triton.jit
def square(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * x, mask=at < n)


def test_whoever_launches_a_compiled_kernel_by_himself_gets_that_of_the_tile_that_he_gave(configs):
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "grid_0": 8}
    before = NamedConfig(BLOCK=512, num_warps=4, num_stages=3)
    write_tuned(configs, square, problem, NamedConfig(BLOCK=128, num_warps=1), before=before, identity=IDENTITY)
    found: list[Any] = []
    tensors: list[Any] = []

    def run() -> None:
        x = torch.zeros(4096, device="cuda")
        tensors.append(weakref.ref(x))
        found.append(square[(triton.cdiv(4096, 512),)](x, x.clone(), 4096, BLOCK=512))

    launches, _ = launched(run)
    ((_, grid, named, options),) = launches
    assert (grid, named["BLOCK"], options["num_warps"]) == ((32,), 128, 1)
    (compiled,) = found
    gc.collect()  # What nobody holds any more may still wait for the collector; what `found` holds stays.
    assert [one() for one in tensors] == [None], "who keeps it keeps no memory of the GPU"
    assert isinstance(compiled, CompiledKernel)
    assert compiled.metadata.num_warps == 1
    with stand_in(ADA):
        assert compiled._launched().metadata.num_warps == 4
        assert compiled.packed_metadata == compiled._launched().packed_metadata
