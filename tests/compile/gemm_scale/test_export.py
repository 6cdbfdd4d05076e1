"""What an exported kernel compiles to is what the library's does, instruction by instruction."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.compiler.build import specialize
from fusetune.compiler.sass import sass_of_cubin
from fusetune.core.target import Target, find_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.spec import Launch, abstract_tensors
from tests.support.gemm_scale.exporting import exported

RTX_4090 = find_target("rtx4090")
H200 = find_target("h200")
PERSISTENT = Config(variant="persistent", BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=3)
JOINED = Config(variant="split_k", BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, SPLIT_K=4, num_stages=3)
PADDED_JOINED = Config(variant="padded", BLOCK_M=64, BLOCK_N=32, BLOCK_K=64, SPLIT_K=2, num_stages=3)
PERSISTENT_JOINED = Config(variant="persistent", BLOCK_M=64, BLOCK_N=32, BLOCK_K=64, SPLIT_K=2, num_stages=3)


def _loaded(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _code(launch: Launch, target: Target) -> str:
    source = ASTSource(launch.kernel, *specialize(launch))
    compiled = triton_compile(source, target=GPUTarget("cuda", target.sm, 32), options=dict(launch.options))
    text = sass_of_cubin(compiled.asm["cubin"])
    # Where an argument lies depends on how many there are; what is done with it does not.
    return "\n".join(line.split("*/")[1].split("c[0x0]")[0].strip() for line in text.splitlines() if " ;" in line)


EVEN, VECTORED_SIZES, MASKED_SIZES = (128, 512, 1024), (130, 520, 1000), (130, 510, 1024)
PADDED_SIZES = (130, 510, 1021)


@pytest.mark.parametrize(
    ("target", "config", "sizes"),
    [
        (RTX_4090, Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3), EVEN),
        (RTX_4090, JOINED, EVEN),
        (RTX_4090, Config("vectored", BLOCK_M=64, BLOCK_N=32, BLOCK_K=64, num_stages=3), VECTORED_SIZES),
        (H200, PERSISTENT, EVEN),
        (H200, PERSISTENT_JOINED, EVEN),
        (H200, Config("masked", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3), MASKED_SIZES),
        (H200, Config("padded", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3), PADDED_SIZES),
        (H200, PADDED_JOINED, PADDED_SIZES),
    ],
    ids=[
        "sm_89 tiled",
        "sm_89 joined",
        "sm_89 vectored",
        "sm_90 persistent",
        "sm_90 persistent joined",
        "sm_90 masked",
        "sm_90 padded",
        "sm_90 padded joined",
    ],
)
def test_an_exported_kernel_is_compiled_to_the_library_s_instructions(
    tmp_path, target: Target, config: Config, sizes: tuple[int, int, int]
) -> None:
    problem = make_problem(*sizes, "float32")
    launches = SPEC.launches(problem, config, abstract_tensors(SPEC, problem, config, target))
    module = _loaded(tmp_path / "module.py", exported("gemm_scale", config, target, sizes=sizes))
    kernels = [module.padded_rows_kernel] if config.pads else []
    for ours, kernel in zip(launches, [*kernels, module.fused_gemm_scale_kernel], strict=True):
        assert isinstance(ours, Launch)
        _assert_compiled_alike(ours, kernel, target)


def _assert_compiled_alike(ours: Launch, kernel: Any, target: Target) -> None:
    names = set(kernel.arg_names)
    theirs = Launch(
        kernel,
        ours.grid,
        {name: value for name, value in ours.arguments.items() if name in names},
        {name: value for name, value in ours.constants.items() if name in names},
        ours.options,
    )
    mine, exported_code = _code(ours, target).splitlines(), _code(theirs, target).splitlines()
    assert len(exported_code) == pytest.approx(len(mine), rel=0.02)
    for kind in (
        "MMA",
        "LDGSTS",
        "LDSM",
        "UTMALDG",
        "UTMASTG",
        "STG",
        "LDG",
        "LDS",
        "STS",
        "STL",
        "LDL",
        "ATOM",
        "BAR",
    ):
        assert sum(kind in line for line in exported_code) == sum(kind in line for line in mine), kind
