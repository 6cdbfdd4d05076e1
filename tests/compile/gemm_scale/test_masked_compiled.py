"""The variant `masked` on sm_90: the copy engine loads, threads store as much at once as rows of y allow, no spill."""

from __future__ import annotations

import re

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.compiler.build import compile_launch, specialize
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.persistent import parts_of
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.space import pipelined_shared_bytes
from fusetune.ops.spec import abstract_tensors
from tests.compile.gemm_scale.test_build import derived_by_the_jit

H200 = find_target("h200")
LARGE = Config("masked", 128, 256, 64, GROUP_M=8, num_warps=8, num_stages=3)
SMALL = Config("masked", 64, 64, 64, num_stages=3)


@pytest.mark.parametrize(
    ("N", "mode", "config", "stored"),
    [
        (1100, None, LARGE, "st.global.v2.b32"),
        (1102, "eval", SMALL, "st.global.b32"),
        (1101, "train", SMALL, "st.global.b16"),
    ],
)
def test_the_copy_engine_loads_and_threads_store_as_much_at_once_as_a_row_allows(N, mode, config, stored):
    spec, problem = WITH_BN if mode else PLAIN, make_problem(1500, N, 7000, "float16", mode=mode)
    first, *_ = spec.launches(problem, config, abstract_tensors(spec, problem, config, H200))
    made = specialize(first)
    source = ASTSource(first.kernel, *made)
    ptx = triton_compile(source, target=GPUTarget("cuda", 90, 32), options=dict(first.options)).asm["ptx"]
    assert len(re.findall(r"cp\.async\.bulk\.tensor\.2d\.shared::(?:cta|cluster)\.global", ptx)) >= 2
    assert "cp.async.bulk.tensor.2d.global" not in ptx
    assert "wgmma.mma_async" in ptx
    assert stored in re.findall(r"st\.global[.\w]*", ptx)
    assert ("st.global.b16" in ptx) == (stored == "st.global.b16")
    resources = compile_launch(first, H200)
    assert resources.stack_bytes == 0
    beyond = resources.shared_bytes - pipelined_shared_bytes(config, problem, H200)
    # A part of y goes from one layout to another through shared memory, in one step or in several.
    assert -config.BLOCK_M * config.BLOCK_N * 2 // parts_of(config, problem) <= beyond <= 0


def test_the_specialisation_is_the_one_that_the_jit_derives():
    torch = pytest.importorskip("torch")
    problem = make_problem(130, 262, 520, "float16")
    config = Config("masked", 64, 64, 64, SPLIT_K=4, num_stages=3)
    abstract = abstract_tensors(PLAIN, problem, config)
    real = {name: torch.empty(one.shape, dtype=getattr(torch, one.dtype)) for name, one in abstract.items()}
    ours = [specialize(launch) for launch in PLAIN.launches(problem, config, abstract)]
    assert ours == [derived_by_the_jit(launch) for launch in PLAIN.launches(problem, config, real)]
