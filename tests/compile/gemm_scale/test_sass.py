"""What cuobjdump prints of real kernels, counted."""

from __future__ import annotations

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.compiler.build import specialize
from fusetune.compiler.sass import InstructionCounts, instructions_of_cubin
from fusetune.core.target import Target, find_target
from fusetune.errors import CompileError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.spec import Launch, abstract_tensors

RTX_4090 = find_target("rtx4090")
H200 = find_target("h200")


def _counts(config: Config, target: Target) -> InstructionCounts:
    problem = make_problem(128, 512, 1024, "float32")
    (launch,) = SPEC.launches(problem, config, abstract_tensors(SPEC, problem, config, target))
    assert isinstance(launch, Launch)
    source = ASTSource(launch.kernel, *specialize(launch))
    compiled = triton_compile(source, target=GPUTarget("cuda", target.sm, 32), options=dict(launch.options))
    return instructions_of_cubin(compiled.asm["cubin"])


def test_on_ada_products_are_mma_sync_fed_by_cp_async_and_ldmatrix() -> None:
    counts = _counts(BASELINE, RTX_4090)
    assert counts.mma > 0
    assert counts.cp_async > 0
    assert counts.ldmatrix > 0
    assert (counts.wgmma, counts.tma_load, counts.spill_bytes) == (0, 0, 0)


def test_on_hopper_the_persistent_kernel_multiplies_by_wgmma_and_moves_tiles_by_tma() -> None:
    config = Config(variant="persistent", BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=3)
    counts = _counts(config, H200)
    assert counts.wgmma > 0
    assert counts.tma_load > 0
    assert counts.tma_store > 0
    assert (counts.mma, counts.cp_async) == (0, 0)


def test_a_tile_that_spills_is_seen_in_its_local_loads_and_stores() -> None:
    counts = _counts(Config(BLOCK_M=256, BLOCK_N=128), RTX_4090)
    assert counts.local_store > 100
    assert counts.spill_store_bytes >= 4 * counts.local_store
    assert counts.spill_load_bytes >= 4 * counts.local_load


def test_what_is_no_cubin_is_told_as_such() -> None:
    with pytest.raises(CompileError, match="cuobjdump could not disassemble the kernel"):
        instructions_of_cubin(b"not a cubin")
