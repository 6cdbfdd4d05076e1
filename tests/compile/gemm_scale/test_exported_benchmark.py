"""The benchmark of exported modules, as far as it goes without a GPU: its launches are of the module's kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec import structs

from fusetune.compiler.build import compile_launch
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import OTHER
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.spec import Launch, abstract_tensors

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import exported

H200 = find_target("h200")


@pytest.mark.parametrize("number", [0, 2, 4, 5], ids=["tiled", "persistent", "training", "joined"])
def test_a_module_s_kernels_take_the_library_s_launches(number: int, tmp_path: Path, monkeypatch) -> None:
    op, (M, N, K), mode, config = exported.CASES[number]
    problem = make_problem(M, N, K, "float32", mode=mode)
    module = f"exported_case_{number}"
    names = exported.write_module(op, problem, config, H200, tmp_path / f"{module}.py")
    monkeypatch.syspath_prepend(tmp_path)
    spec = exported.ExportedSpec(op, module, names)
    tensors = abstract_tensors(spec, problem, config, H200)
    ours = spec.launches(problem, config, tensors)
    theirs = spec.launches(problem, structs.replace(config, variant=OTHER + config.variant), tensors)
    assert [launch.kernel.fn.__module__ for launch in theirs] == [module] * len(ours)
    assert [launch.grid for launch in theirs] == [launch.grid for launch in ours]
    for launch in theirs:
        assert isinstance(launch, Launch)
        assert compile_launch(launch, H200).stack_bytes == 0


def test_counts_of_arrivals_stay_a_counter_which_no_check_fills_with_nan(tmp_path: Path) -> None:
    op, (M, N, K), mode, config = exported.CASES[5]
    problem = make_problem(M, N, K, "float32", mode=mode)
    spec = exported.ExportedSpec(op, "not imported", [])
    theirs = structs.replace(config, variant=OTHER + config.variant)
    assert {one.name: one.role for one in spec.workspace(problem, theirs)} == {
        "partial": "output",
        "arrivals": "counter",
    }
