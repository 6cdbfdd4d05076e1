"""The brief's own stage as a program, as it is handed out in `examples/seed`: in its strict order, and compiled."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fusetune.compiler.build import compile_launch
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.spec import Launch
from fusetune.store.journal import RunEnd, read_run
from fusetune.store.yaml_files import read_config_file
from tests.support.gemm_scale.handed_out import launches_of, loaded

SEED = Path(__file__).parents[3] / "examples" / "seed"
CURRENT = (SEED / "current.py").read_text(encoding="utf-8")
MODULE = (SEED / "rtx4090" / "optimized.py").read_text(encoding="utf-8")
MEASURED = (SEED / "h200" / "optimized.py").read_text(encoding="utf-8")
LACKING = {"tanh", "sigmoid", "gelu", "silu", "softmax", "mish"}


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> list[Launch]:
    made = loaded(tmp_path_factory.mktemp("seed") / "seed_as_handed_out.py", MODULE)
    return launches_of(made, make_problem(1024, 8192, 8192, "float32", "tf32"), find_target("rtx4090"))


@pytest.mark.parametrize("module", [MODULE, MEASURED], ids=["rtx4090", "h200"])
def test_the_module_is_in_the_strict_order_and_has_no_code_that_tests(module: str) -> None:
    body = ast.parse(module).body
    imports = ["import torch", "import torch.nn as nn", "import triton", "import triton.language as tl"]
    assert [ast.unparse(one) for one in body[:4]] == imports
    names = [one.name for one in body[4:] if isinstance(one, ast.FunctionDef | ast.ClassDef)]
    assert names == ["fused_gemm_scale_kernel", "fused_gemm_scale", "ModelNew"]
    assert len(body) == 7
    used = {one.attr for one in ast.walk(ast.parse(module)) if isinstance(one, ast.Attribute)}
    assert not used & LACKING


def test_nothing_of_the_code_is_changed_but_for_the_autotuner_above_the_kernel() -> None:
    module = ast.parse(MODULE)
    kernel = next(one for one in module.body if isinstance(one, ast.FunctionDef))
    tuner, jit = kernel.decorator_list
    assert ast.unparse(jit) == "triton.jit"
    assert ast.unparse(tuner).startswith("triton.autotune(configs=[")
    kernel.decorator_list = [jit]
    assert ast.dump(module) == ast.dump(ast.parse(CURRENT))
    comments = [line.strip() for line in CURRENT.splitlines() if line.strip().startswith("#")]
    assert [line for line in comments if line not in MODULE] == []


def test_its_first_lines_say_that_nothing_was_timed_what_limits_the_kernel_and_why_these_configs() -> None:
    top = MODULE[: MODULE.index("import torch")].replace("\n#  ", "")
    for told in (
        "for NVIDIA GeForce RTX 4090",
        "Predicted: compiled for this GPU, and nothing was timed.",
        "By the profile: Arithmetic limits fused_gemm_scale_kernel",
        "Rule: register pressure low",
        "w4 s2 (BASELINE): the conservative choice, always among them",
        "w8 s2: 8 warps, since register pressure is low, and it is compute-bound",
    ):
        assert told in " ".join(top.split())


def test_what_was_measured_is_written_at_the_launch_alone_and_is_that_of_its_run(tmp_path: Path) -> None:
    (path,) = (SEED / "configs" / "nvidia-h200").glob("*.yaml")
    (entry,) = read_config_file(path).entries
    target = find_target("h200")
    made = loaded(tmp_path / "seed_as_measured.py", MEASURED)
    (launch,) = launches_of(made, make_problem(1024, 8192, 8192, "float32", "tf32"), target)
    tile = {name: value for name, value in launch.constants.items() if name.startswith("BLOCK_")}
    assert (tile, launch.options) == (entry.config.constants(), {"num_warps": 2, "num_stages": 5})
    assert launch.grid == (16, 64)
    assert compile_launch(launch, target).stack_bytes == 0
    end = next(one for one in read_run(SEED / "runs" / f"{entry.run}.jsonl") if isinstance(one, RunEnd))
    assert end.entry == entry
    assert entry.run in MEASURED
    old, new = CURRENT.splitlines(), MEASURED.splitlines()
    added = [line.strip() for line in new if line not in old and not line.strip().startswith("#")]
    assert added == ["BLOCK_N=128,", "BLOCK_K=16,", "num_warps=2,", "num_stages=5,"]


def test_three_configs_at_most_are_tried_and_each_compiles_for_the_card(launches: list[Launch]) -> None:
    options = [(one.options["num_warps"], one.options["num_stages"]) for one in launches]
    assert options == [(4, 3), (8, 2), (4, 2)]
    assert {one.grid for one in launches} == {(16, 128)}
    for launch in launches:
        assert compile_launch(launch, find_target("rtx4090")).stack_bytes == 0, "none of them spills"


def test_its_script_shows_what_came_out_and_ends_as_the_command_does(tmp_path: Path) -> None:
    shutil.copytree(SEED, tmp_path / "seed")
    command = tmp_path / "fusetune"
    command.write_text("#!/bin/sh\necho inconclusive\nexit 3\n", encoding="utf-8")
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    script = [str(tmp_path / "seed" / "run.sh")]
    done = subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "inconclusive\n")
    assert (tmp_path / "seed" / "measured" / "output.txt").read_text(encoding="utf-8") == "inconclusive\n"
