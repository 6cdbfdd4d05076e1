"""Every variant of both ops compiled for GPUs that are not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from msgspec import structs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.compiler.build import compile_launch, specialize
from fusetune.core.target import Target, find_target
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import pipelined_shared_bytes
from fusetune.ops.gemm_scale.split import joins_summands
from fusetune.ops.spec import AbstractTensor, KernelSpec, Launch, abstract_tensors
from tests.compile.gemm_scale.test_build import derived_by_the_jit
from tests.support.stages import made_to

TARGETS = {"sm_80": "a100-80gb", "sm_89": "rtx4090", "sm_90": "h200", "sm_100": "b200"}
CONFIGS = {
    "tiled": BASELINE,
    "vectored": Config("vectored", 64, 64, 32, num_stages=3),
    "whole": Config(BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, num_stages=3),
    "split_k": Config("split_k", 64, 64, 32, SPLIT_K=8, num_stages=3),
    "split_k joined": Config("split_k", 32, 32, 64, SPLIT_K=3, num_stages=3),
    "split_k joined whole": Config("split_k", 64, 16, 64, SPLIT_K=4, num_stages=3),
    "persistent": Config("persistent", 128, 128, 32, num_warps=8),
    "persistent whole": Config("persistent", 64, 16, 64, num_stages=3),
    "persistent small": Config("persistent", 16, 32, 64, num_warps=2, num_stages=3),
    "persistent split": Config("persistent", 64, 32, 64, SPLIT_K=12, num_stages=3),
    "persistent joined": Config("persistent", 64, 32, 64, SPLIT_K=2, num_stages=3),
    "persistent small joined": Config("persistent", 32, 32, 64, SPLIT_K=4, num_stages=3),
    "reread": Config("reread", 128, 128, 32, num_warps=8),
    "owner": Config("owner", 128, 128, 32, num_warps=8),
    "deferred": Config("deferred", 128, 256, 64, num_warps=8, num_stages=3),
    "deferred small": Config("deferred", 64, 128, 64, num_stages=4),
}
FORMS = [("float32", "tf32"), ("float32", "tf32x3"), ("float32", "bf16x3"), ("float16", None)]
MODES = (None, "eval", "train")
CASES = [(mode, v) for mode in MODES for v in CONFIGS if v not in {"reread", "owner"} or mode == "train"]
DEFERRED = [variant for variant, config in CONFIGS.items() if config.variant == "deferred"]
"""For y of 16 bits, on sm_90, and six steps along K or more."""
COPYING = [variant for variant, config in CONFIGS.items() if config.is_walking]
FEW_ROWS = {"whole", "persistent whole", *(variant for variant, config in CONFIGS.items() if config.SPLIT_K > 1)}
WHOLE = [variant for variant, config in CONFIGS.items() if variant in FEW_ROWS and config.BLOCK_M == 64]
TWO_KERNELS = [
    (mode, variant)
    for mode, variant in CASES
    if variant in {"split_k", "persistent split"} or (mode == "train" and variant not in WHOLE)
]
SPILLS = {("train", "persistent whole", "tf32x3", "sm_100")}
"""Two registers' worth of stack, in products of three on a B200: a sweep rejects such a candidate."""
each_form = pytest.mark.parametrize(
    ("dtype", "precision"), FORMS, ids=[precision or dtype for dtype, precision in FORMS]
)


def _each(cases):
    return pytest.mark.parametrize(("mode", "variant"), cases, ids=[f"{m or 'plain'} {v}" for m, v in cases])


def _spec(problem: Problem) -> KernelSpec:
    return WITH_BN if problem.mode else PLAIN


def _problem(mode, variant, dtype=None, precision=None) -> Problem:
    dtype = dtype or ("float16" if variant in DEFERRED else "float32")
    return make_problem(64 if variant in FEW_ROWS else 1024, 4096, 4096, dtype, precision, mode)


def _launches(problem: Problem, variant: str, target: Target | None) -> list[Launch]:
    spec, config = _spec(problem), CONFIGS[variant]
    return list(spec.launches(problem, config, abstract_tensors(spec, problem, config, target)))


def _ptx(launch: Launch, target: Target) -> str:
    source = ASTSource(launch.kernel, *specialize(launch))
    return triton_compile(source, target=GPUTarget("cuda", target.sm, 32), options=dict(launch.options)).asm["ptx"]


def _compiled() -> Iterator[tuple[Any, ...]]:
    """Each variant in each form somewhere, and on each GPU in some: all of it takes minutes.

    A form of products of three stands for both, in turn; an A100 has the RTX 4090's instructions, and takes one form.
    """
    for number, (mode, variant) in enumerate(CASES):
        if variant == "vectored" and mode is not None:
            continue  # It calls the kernel of `tiled`.
        whole, parts = (("float32", "tf32"), ("float16", None)), FORMS[1 + number % 2]
        forms = {
            "sm_80": [FORMS[number % len(FORMS)]],
            "sm_89": [*whole, parts],
            "sm_90": [*whole, parts],
            "sm_100": [whole[number % 2], FORMS[2 - number % 2]],
        }
        for sm, some in forms.items():
            spilling = [("float32", form) for *of, form, where in SPILLS if (*of, where) == (mode, variant, sm)]
            for dtype, precision in dict.fromkeys([*some, *spilling]):
                copies = variant not in COPYING or sm in {"sm_90", "sm_100"}
                defers = variant not in DEFERRED or (sm, dtype) == ("sm_90", "float16")
                if copies and defers:
                    yield mode, variant, dtype, precision, sm


COMPILED = list(_compiled())


@pytest.mark.parametrize(
    ("mode", "variant", "dtype", "precision", "sm"),
    COMPILED,
    ids=[f"{m or 'plain'} {v}-{precision or dtype}-{sm}" for m, v, dtype, precision, sm in COMPILED],
)
def test_every_variant_compiles_without_a_spill_and_takes_the_shared_memory_that_the_rule_says(
    mode, variant, dtype, precision, sm
):
    target = find_target(TARGETS[sm])
    problem = _problem(mode, variant, dtype, precision)
    first, *second = (compile_launch(launch, target) for launch in _launches(problem, variant, target))
    rereads = CONFIGS[variant].rereads and mode == "train"
    assert len(second) == (2 if rereads and variant != "owner" else (mode, variant) in TWO_KERNELS)
    for resources in (first, *second):
        assert resources.stack_bytes <= (8 if (mode, variant, precision, sm) in SPILLS else 0)
        assert resources.shared_bytes <= target.shared_bytes_per_cta
    beyond = first.shared_bytes - pipelined_shared_bytes(CONFIGS[variant], problem, target)
    summands = CONFIGS[variant].SPLIT_K > 1
    if variant not in COPYING:
        # tcgen05 adds its barriers.
        assert 0 <= beyond <= (16 if sm == "sm_100" else 0)
    elif sm == "sm_90" and (mode != "train" or summands or rereads) and precision in {"tf32", None}:
        assert beyond == 0
    elif sm == "sm_90" and precision in {"tf32", None}:
        assert -2048 <= beyond <= 0
    else:
        # A reduction, split products and tcgen05 take somewhat more or less than the pipeline and a part of y.
        assert abs(beyond) <= first.shared_bytes // 2


SMALL_TILES = [
    Config("persistent", 16, 16, 64, num_warps=2, num_stages=3),
    Config("persistent", 16, 64, 128, num_stages=4),
    Config("persistent", 32, 16, 256, num_warps=2, num_stages=5),
    Config("persistent", 32, 64, 32, num_stages=5),
    Config("persistent", 64, 16, 128, num_stages=3),
    Config("persistent", 64, 64, 64, num_stages=4),
    Config("persistent", 128, 16, 64, num_stages=3),
    Config("persistent", 128, 128, 32, num_warps=8, num_stages=4),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("mode", "split"), [(None, 1), ("eval", 1), ("train", 1), (None, 8), ("train", 8)])
@pytest.mark.parametrize("config", SMALL_TILES, ids=Config.label)
def test_the_shared_memory_of_small_persistent_tiles_is_known_to_the_byte(config, mode, dtype, split):
    target, config = find_target(TARGETS["sm_90"]), structs.replace(config, SPLIT_K=split)
    problem = make_problem(200, 4096, 4096, dtype, mode=mode)
    spec = _spec(problem)
    first, *_ = spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
    beyond = made_to("llir", first, target)[1]["shared"] - pipelined_shared_bytes(config, problem, target)
    assert (-2048 <= beyond <= 0) if mode == "train" and split == 1 else beyond == 0


@pytest.mark.parametrize(
    "config",
    [
        Config("persistent", 16, 64, 64, num_warps=2, num_stages=3),
        Config("persistent", 32, 128, 64, num_stages=3),
        Config("persistent", 64, 128, 64, SPLIT_K=4, num_stages=3),
    ],
    ids=Config.label,
)
def test_parts_of_many_columns_a_warp_take_at_most_512_bytes_more(config):
    target, problem = find_target(TARGETS["sm_90"]), make_problem(200, 4096, 4096, "float32")
    first, *_ = PLAIN.launches(problem, config, abstract_tensors(PLAIN, problem, config, target))
    assert 0 <= made_to("llir", first, target)[1]["shared"] - pipelined_shared_bytes(config, problem, target) <= 512


@pytest.mark.parametrize("sm", ["sm_90", "sm_100"])
@each_form
@pytest.mark.parametrize("variant", COPYING)
def test_persistent_loads_and_stores_with_the_copy_engine_and_multiplies_by_warpgroup(variant, dtype, precision, sm):
    target, config = find_target(TARGETS[sm]), CONFIGS[variant]
    by_warpgroup = "wgmma.mma_async" if sm == "sm_90" else "tcgen05.mma"
    small = config.BLOCK_M < 64
    if variant in DEFERRED and (sm != "sm_90" or dtype != "float16"):
        pytest.skip("is for wgmma and 16 bits")
    for mode in [mode for mode, of in CASES if of == variant]:
        problem = _problem(mode, variant, dtype, precision)
        first, *_ = _launches(problem, variant, target)
        # What is compiled whole above lies in the cache.
        is_compiled = (mode, variant, dtype, precision, sm) in COMPILED
        ptx = _ptx(first, target) if is_compiled else made_to("ptx", first, target)[0]
        joins = joins_summands(config, problem)
        assert len(re.findall(r"cp\.async\.bulk\.tensor\.2d\.shared::(?:cta|cluster)\.global", ptx)) >= 2
        stored = set(re.findall(r"cp\.async\.bulk\.tensor\.(\d)d\.global\.shared::cta", ptx))
        assert stored == (set() if joins else {"3" if config.SPLIT_K > 1 else "2"})
        assert (by_warpgroup in ptx, "mma.sync" in ptx) == (not small, small)
        assert "cp.async.cg" not in ptx


@pytest.mark.parametrize(
    ("counter", "counts", "sm"), [("count", True, "sm_90"), ("count", True, "sm_100"), ("average", False, "sm_90")]
)
@pytest.mark.parametrize(
    ("config", "M"),
    [
        (CONFIGS["whole"], 64),
        (CONFIGS["whole"], 1024),
        (CONFIGS["split_k"], 64),
        (CONFIGS["persistent whole"], 64),
        (CONFIGS["persistent split"], 64),
        (Config("persistent", 64, 128, 32, num_stages=3), 64),
        (Config("persistent", 64, 256, 32), 64),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else str(value),
)
def test_one_kernel_counts_the_batches_in_64_bits(config, M, counter, counts, sm):
    target = find_target(TARGETS[sm])
    problem = make_problem(M, 4096, 4096, "float32", mode="train")
    tensors = abstract_tensors(WITH_BN, problem, config, target)
    tensors["num_batches_tracked"] = AbstractTensor((), "float32", tensors["x"].gpu)
    writing = 0
    for launch in gemm_launches(problem, config, tensors, "train", eps=1e-5, momentum=0.1, counter=counter):
        signature, constants, attributes = specialize(launch)
        signature["tracked_ptr"] = "*i64"
        ptx, _ = made_to("ptx", launch, target, (signature, constants, attributes))
        writing += "st.global.b64" in ptx
    assert writing == counts


@_each(CASES)
def test_a_kernel_that_may_start_early_waits_before_it_touches_memory(mode, variant):
    target = find_target(TARGETS["sm_90"])
    for launch in _launches(_problem(mode, variant), variant, target):
        ptx = _ptx(launch, target)
        waits = ptx.index("griddepcontrol.wait")
        touches = [ptx.find(word) for word in ("ld.global", "st.global", "cp.async.c", "cp.async.bulk.tensor")]
        assert waits < min(place for place in touches if place >= 0)
        assert "griddepcontrol.launch_dependents" in ptx


@_each([(mode, variant) for mode, variant in CASES if variant not in COPYING])
def test_nothing_starts_early_on_a_gpu_that_cannot(mode, variant):
    target = find_target(TARGETS["sm_89"])
    assert all(
        "griddepcontrol" not in _ptx(launch, target) for launch in _launches(_problem(mode, variant), variant, target)
    )


def _real(tensor: AbstractTensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))


@pytest.mark.parametrize(("M", "N", "K"), [(64, 512, 256), (5, 72, 136), (130, 264, 520), (3, 77, 123), (2, 1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@_each(CASES)
def test_the_specialisation_is_the_one_that_the_jit_derives_for_every_launch(mode, variant, dtype, M, N, K):
    if variant in COPYING and N % 8:
        pytest.skip("the copy engine needs rows that begin on 16 bytes")
    if variant in DEFERRED and (dtype != "float16" or K < 6 * CONFIGS[variant].BLOCK_K):
        pytest.skip("is for 16 bits, and six steps along K")
    problem, config = make_problem(M, N, K, dtype, mode=mode), CONFIGS[variant]
    spec = _spec(problem)
    abstract = abstract_tensors(spec, problem, config)
    real = {name: _real(tensor) for name, tensor in abstract.items()}
    ours = [specialize(launch) for launch in spec.launches(problem, config, abstract)]
    called = list(spec.launches(problem, config, real))
    assert ours == [derived_by_the_jit(launch) for launch in called]
    for launch, made in zip(called, ours, strict=True):
        derived = derived_by_the_jit(launch)
        assert ASTSource(launch.kernel, *made).hash() == ASTSource(launch.kernel, *derived).hash()


@pytest.mark.parametrize("sm", ["sm_89", "sm_90"])
@pytest.mark.parametrize(("dtype", "precision"), [("float32", "tf32"), ("float32", "ieee"), ("float16", None)])
@pytest.mark.parametrize("variant", ["tiled", "split_k"])
def test_tf32_is_rounded_to_the_nearest_on_its_way_to_the_tensor_cores_and_nothing_else_is(
    variant, dtype, precision, sm
):
    target = find_target(TARGETS[sm])
    ptx = [_ptx(launch, target) for launch in _launches(_problem(None, variant, dtype, precision), variant, target)]
    assert ["cvt.rna.tf32.f32" in one for one in ptx] == [precision == "tf32", *[False] * (len(ptx) - 1)]


@pytest.mark.parametrize("variant", [variant for variant in COPYING if variant not in DEFERRED])
def test_the_copy_engine_rounds_tf32_so_that_no_thread_does(variant):
    target = find_target(TARGETS["sm_90"])
    first, *_ = _launches(_problem("train", variant), variant, target)
    assert first.arguments["x_desc"].rounds
    assert first.arguments["w_desc"].rounds
    assert "cvt.rna.tf32.f32" not in _ptx(first, target)


@pytest.mark.parametrize("variant", DEFERRED)
@pytest.mark.parametrize(("mode", "vectors"), [(None, 2), ("eval", 6), ("train", 0)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_end_of_a_deferred_tile_loads_each_column_once_and_waits_for_no_store(dtype, mode, vectors, variant):
    """Its columns by one thread each, early; two values packed by the instruction that rounds; stores in four steps."""
    target = find_target(TARGETS["sm_90"])
    first, *_ = _launches(_problem(mode, variant, dtype), variant, target)
    ptx = _ptx(first, target)
    config = CONFIGS[variant]
    threads = 32 * config.num_warps
    # Two halves of a tile's columns; a thread has one of each, or as many as there are threads too few.
    assert len(re.findall(r"ld\.global", ptx)) == vectors * 2 * max(1, config.BLOCK_N // 2 // threads)
    rounding = {"float16": r"cvt\.rn\.f16x2\.f32", "bfloat16": r"cvt\.rn\.bf16x2\.f32"}[dtype]
    assert len(re.findall(rounding, ptx)) == config.BLOCK_M * config.BLOCK_N // threads // 2
    assert len(re.findall(r"cp\.async\.bulk\.tensor\.2d\.global\.shared::cta", ptx)) == 4


def _moves(config: Config, N: int, K: int, dtype: str, sm: str) -> tuple[set[int], set[str]]:
    """Bytes of each asynchronous copy of a launch, and how its stores to y are written."""
    target = find_target(TARGETS[sm])
    problem = make_problem(300, N, K, dtype)
    (launch,) = PLAIN.launches(problem, config, abstract_tensors(PLAIN, problem, config, target))
    ptx = _ptx(launch, target)
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], (0x\w+|\d+)", ptx)
    return {int(size, 0) for size in copies}, set(re.findall(r"st\.global(\S*)", ptx))


@pytest.mark.parametrize("sm", ["sm_89", "sm_90"])
@pytest.mark.parametrize(
    ("K", "dtype", "told", "told_nothing"),
    [
        (5000, "float16", {16}, set()),
        (5004, "float16", {8}, set()),
        (5002, "float16", {4}, set()),
        (5004, "float32", {16}, {4}),
        (5002, "float32", {8}, {4}),
    ],
)
def test_vectored_copies_as_many_bytes_at_a_time_as_rows_begin_on(K, dtype, told, told_nothing, sm):
    """At 16-bit rows that 16 does not divide, the others load nothing ahead."""
    vectored = Config("vectored", 64, 64, 64, num_stages=3)
    assert _moves(vectored, 1000, K, dtype, sm) == (told, {".v4.b32"})
    copies, stores = _moves(structs.replace(vectored, variant="tiled"), 1000, K, dtype, sm)
    assert copies == told_nothing
    assert not any("v" in store for store in stores)


def test_vectored_takes_strided_rows_as_they_are():
    target = find_target(TARGETS["sm_89"])
    config, problem = CONFIGS["vectored"], make_problem(300, 1000, 5000, "float16")
    tensors = abstract_tensors(PLAIN, problem, config, target)

    def units(x: Any) -> tuple[int, int]:
        (launch,) = PLAIN.launches(problem, config, {**tensors, "x": x})
        return launch.constants["UNIT_K"], launch.constants["UNIT_N"]

    half = {"dtype": torch.float16, "device": "meta"}
    assert units(torch.empty(300, 5000, **half)) == (8, 8)
    assert units(torch.empty(300, 5002, **half)[:, :5000]) == (2, 8), "rows begin on 2 elements"
    assert units(torch.empty(300, 5003, **half)[:, :5000]) == (1, 8), "rows begin anywhere"
    assert units(torch.empty(5000, 300, **half).t()) == (1, 8), "columns are what lies together"


@pytest.mark.parametrize(("N", "dtype", "stores"), [(1100, "float16", {".v2.b32"}), (1001, "float16", {".b16"})])
def test_masked_stores_as_many_bytes_at_a_time_as_rows_begin_on(N, dtype, stores):
    config = Config("masked", 128, 128, 64, num_warps=8, num_stages=3)
    assert _moves(config, N, 7000, dtype, "sm_90") == (set(), stores)
