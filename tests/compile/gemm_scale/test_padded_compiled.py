"""The variant `padded` on sm_90: how x and W are copied, and that the products load the copies; no spill anywhere."""

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
from fusetune.ops.gemm_scale.padded import padded_rows
from fusetune.ops.gemm_scale.passes import PADDED_ELEMENTS
from fusetune.ops.gemm_scale.persistent import parts_of
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.space import pipelined_shared_bytes
from fusetune.ops.spec import abstract_tensors
from tests.compile.gemm_scale.test_build import derived_by_the_jit

H200 = find_target("h200")
LARGE = Config("padded", 128, 256, 64, GROUP_M=8, num_warps=8, num_stages=3)
SMALL = Config("padded", 64, 64, 64, num_stages=3)
THREADS = 128


def _code(launch):
    source = ASTSource(launch.kernel, *specialize(launch))
    return triton_compile(source, target=GPUTarget("cuda", 90, 32), options=dict(launch.options)).asm


def _launches(problem, config, target=H200):
    spec = WITH_BN if problem.mode else PLAIN
    return list(spec.launches(problem, config, abstract_tensors(spec, problem, config, target)))


@pytest.mark.parametrize(
    ("K", "dtype", "loaded"), [(7001, "float16", "b16"), (301, "bfloat16", "b16"), (7002, "float32", "b32")]
)
def test_a_copy_loads_single_elements_and_stores_16_bytes_by_way_of_shared_memory(K, dtype, loaded):
    problem = make_problem(1500, 1101, K, dtype)
    copies, *_ = _launches(problem, SMALL)
    assert copies.kernel is padded_rows
    code = _code(copies)
    # Threads of a warp load neighbours of one row.
    layouts = dict(re.findall(r"^(#\w+) = #ttg\.blocked<\{(.*?)\}>", code["ttgir"], re.MULTILINE))
    loads = re.findall(r"tt\.load .*(#\w+)>", code["ttgir"])
    assert len(loads) == 2
    assert all("sizePerThread = [1, 1], threadsPerWarp = [1, 32]" in layouts[layout] for layout in loads)
    ptx = code["ptx"]
    # Of x, and of W.
    assert re.findall(r"ld\.global(\S*)", ptx) == [f".{loaded}"] * (2 * PADDED_ELEMENTS // THREADS)
    at_once = 16 // problem.element_bytes
    assert re.findall(r"st\.global(\S*)", ptx) == [".v4.b32"] * (2 * PADDED_ELEMENTS // THREADS // at_once)
    assert re.search(r"(st|stmatrix)\.\S*shared", ptx)
    assert "ld.shared.v4.b32" in ptx
    resources = compile_launch(copies, H200)
    assert resources.stack_bytes == 0
    assert resources.shared_bytes <= PADDED_ELEMENTS * problem.element_bytes


@pytest.mark.parametrize(
    ("N", "mode", "config", "stored"),
    [
        (1104, None, LARGE, "st.global.v4.b32"),
        (1102, "eval", SMALL, "st.global.b32"),
        (1101, "train", SMALL, "st.global.b16"),
        (1101, None, LARGE, "st.global.b16"),
    ],
)
def test_the_copy_engine_loads_the_copies_and_threads_store_as_much_at_once_as_a_row_allows(N, mode, config, stored):
    problem = make_problem(1500, N, 7001, "float16", mode=mode)
    _, products, *after = _launches(problem, config)
    ptx = _code(products)["ptx"]
    assert len(re.findall(r"cp\.async\.bulk\.tensor\.2d\.shared::(?:cta|cluster)\.global", ptx)) >= 2
    assert "cp.async.bulk.tensor.2d.global" not in ptx
    assert "wgmma.mma_async" in ptx
    assert stored in re.findall(r"st\.global[.\w]*", ptx)
    assert ("st.global.b16" in ptx) == (stored == "st.global.b16")
    resources, *others = (compile_launch(launch, H200) for launch in (products, *after))
    assert [one.stack_bytes for one in (resources, *others)] == [0] * (1 + len(after))
    beyond = resources.shared_bytes - pipelined_shared_bytes(config, problem, H200)
    # A part of y goes from one layout to another through shared memory, in one step or in several.
    assert -config.BLOCK_M * config.BLOCK_N * 2 // parts_of(config, problem) <= beyond <= 0


@pytest.mark.parametrize("splits", [1, 4])
def test_the_specialisation_is_the_one_that_the_jit_derives(splits):
    torch = pytest.importorskip("torch")
    problem = make_problem(130, 262, 521, "float16")
    config = Config("padded", 64, 64, 64, SPLIT_K=splits, num_stages=3)
    abstract = abstract_tensors(PLAIN, problem, config)
    real = {name: torch.empty(one.shape, dtype=getattr(torch, one.dtype)) for name, one in abstract.items()}
    ours = [specialize(launch) for launch in PLAIN.launches(problem, config, abstract)]
    assert ours == [derived_by_the_jit(launch) for launch in PLAIN.launches(problem, config, real)]
