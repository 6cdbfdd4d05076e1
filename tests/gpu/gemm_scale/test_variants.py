"""Every variant of both ops on silicon, against float64 and against PyTorch's own chain."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch

from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale.batch_norm import EPS, MOMENTUM
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import reject_reason
from fusetune.ops.spec import KernelSpec

SPLIT_K = Config("split_k", 64, 64, 32, SPLIT_K=8, num_stages=3)
JOINED = Config("split_k", 32, 32, 64, SPLIT_K=4, num_stages=3)
PERSISTENT = Config("persistent", 128, 128, 32, num_warps=8, num_stages=3, GROUP_M=8)
PERSISTENT_SPLIT = Config("persistent", 64, 128, 32, SPLIT_K=4, num_stages=3)
REREAD = Config("reread", 64, 128, 32, num_stages=3)
OWNER = Config("owner", 64, 128, 32, num_stages=3)
LARGE_TILES = [Config(variant, 128, 256, 32, num_warps=8, num_stages=3) for variant in ("reread", "owner")]
DEFERRED = [
    Config("deferred", 128, 256, 64, num_warps=8, num_stages=3, GROUP_M=8),
    Config("deferred", 128, 128, 64, num_stages=4),
    Config("deferred", 64, 128, 64, num_stages=3),
]
"""The problems of all variants have fewer tiles than run at once; those with more are below."""
WHOLE = [
    Config(BLOCK_M=256, BLOCK_N=16, BLOCK_K=32, num_warps=8),
    Config("persistent", 256, 64, 32, num_warps=8, num_stages=3),
    Config("split_k", 128, 16, 32, SPLIT_K=2, num_stages=3),
    Config("persistent", 128, 16, 32, SPLIT_K=2, num_stages=3),
]
"""Tiles of many rows: in training, one kernel normalizes columns of as many."""
CONFIGS = [
    BASELINE,
    Config("vectored", 64, 64, 64, num_stages=3),
    Config("vectored", 32, 64, 64, SPLIT_K=3, num_stages=3),
    SPLIT_K,
    JOINED,
    PERSISTENT,
    Config("persistent", 128, 256, 32, num_warps=8, num_stages=3),
    Config("persistent", 16, 32, 64, num_warps=2, num_stages=3),
    PERSISTENT_SPLIT,
    Config("persistent", 32, 32, 64, SPLIT_K=4, num_stages=3),
    Config("masked", 128, 256, 32, num_warps=8, num_stages=3, GROUP_M=8),
    Config("masked", 128, 128, 32, num_stages=3),
    Config("masked", 64, 128, 32, SPLIT_K=4, num_stages=3),
    Config("masked", 32, 32, 64, SPLIT_K=4, num_stages=3),
    Config("padded", 128, 256, 32, num_warps=8, num_stages=3, GROUP_M=8),
    Config("padded", 64, 128, 32, SPLIT_K=4, num_stages=3),
    Config("padded", 32, 32, 64, SPLIT_K=4, num_stages=3),
]
CASES = [(mode, config) for mode in (None, "eval", "train") for config in (*CONFIGS, *DEFERRED)]
CASES += [("train", config) for config in (*WHOLE, REREAD, OWNER, *LARGE_TILES)]
# Along K, ALIGNED has 9 steps of 64: the last of four CTAs that share a tile has none.
ODD, ALIGNED, LARGER = (5, 123, 77), (200, 520, 264), (256, 1024, 512)
FORMS = [("float32", "tf32"), ("float16", None)]
OTHER_FORMS = [("float32", "bf16x3"), ("float32", "ieee"), ("float32", "tf32x3"), ("bfloat16", None)]
COMBINATIONS = [(*shape, *form) for shape in (ODD, ALIGNED, LARGER) for form in FORMS]
COMBINATIONS += [(*ALIGNED, *form) for form in OTHER_FORMS]
# Rows of y begin anywhere, or on two elements; those of x and W on 16 bytes. Two have more tiles than run at once.
UNALIGNED_Y = [
    (1500, 520, 2101, "float32", "tf32"),
    (1500, 520, 2102, "float16", None),
    (90, 520, 77, "bfloat16", None),
]
UNALIGNED = [
    (1500, 523, 2101, "float32", "tf32"),
    (1500, 1301, 2104, "bfloat16", None),
]
"""Rows of x and W begin anywhere, too; there are more tiles than run at once."""
COMBINATIONS += UNALIGNED_Y + UNALIGNED
CANNOT_RUN = {"shared_memory", "capability", "alignment", "precision", "rows", "dtype", "few_steps"}
"""Reasons of a rejection that are no matter of speed."""

each_case = pytest.mark.parametrize(
    ("mode", "config"), CASES, ids=[f"{mode or 'plain'} {config.label()}" for mode, config in CASES]
)


def spec_of(problem: Problem) -> KernelSpec:
    return WITH_BN if problem.mode else PLAIN


def drawn(spec: KernelSpec, problem: Problem, config: Config) -> dict[str, torch.Tensor]:
    """Inputs and states drawn, outputs and workspace poisoned."""
    torch.manual_seed(0)
    tensors = {}
    for operand in (*spec.operands(problem), *spec.workspace(problem, config)):
        values = torch.full(operand.shape, math.nan, device="cuda")
        if operand.role != "output":
            values.normal_(operand.mean, operand.std)
        tensors[operand.name] = values.to(getattr(torch, operand.dtype))
    return tensors


def _skip_what_cannot_run(problem: Problem, config: Config) -> None:
    rejection = reject_reason(config, problem, local_target(0))
    if rejection and rejection.reason in CANNOT_RUN:
        pytest.skip(rejection.detail)


def _run(problem: Problem, config: Config, tensors: dict[str, torch.Tensor]) -> None:
    for launch in spec_of(problem).launches(problem, config, tensors):
        launch.run()


def _error(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found.double() - reference).norm() / reference.norm())


@contextmanager
def _tf32(allowed: bool):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _eager(problem: Problem, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """y by PyTorch's own operations, in the problem's own precision."""
    with _tf32(problem.precision == "tf32"):
        y = torch.nn.functional.linear(inputs["x"], inputs["weight"], inputs["bias"]) * inputs["scale"]
    if problem.mode is None:
        return y
    mean, var = inputs["running_mean"].clone(), inputs["running_var"].clone()
    training = problem.mode == "train"
    return torch.nn.functional.batch_norm(y, mean, var, inputs["gamma"], inputs["beta"], training, MOMENTUM, EPS)


@each_case
@pytest.mark.parametrize(("M", "K", "N", "dtype", "precision"), COMBINATIONS)
def test_every_variant_is_within_its_tolerance_and_touches_nothing_else(mode, config, M, K, N, dtype, precision):
    problem = make_problem(M, N, K, dtype, precision, mode)
    _skip_what_cannot_run(problem, config)
    spec = spec_of(problem)
    tensors = drawn(spec, problem, config)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    reference = spec.reference(problem, before)
    _run(problem, config, tensors)
    tolerance = spec.tolerance(problem)
    for name, expected in reference.items():
        rms = expected.norm() / expected.numel() ** 0.5
        assert _error(tensors[name], expected) <= tolerance.frobenius, name
        assert float((tensors[name].double() - expected).abs().max() / rms) <= tolerance.maximum, name
    for operand in spec.operands(problem):
        if operand.name not in reference:
            assert torch.equal(tensors[operand.name], before[operand.name]), operand.name


@each_case
@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", "tf32"), ("float32", "ieee"), ("float16", None), ("bfloat16", None)]
)
def test_errors_are_at_most_half_as_large_again_as_pytorch_s(mode, config, dtype, precision):
    M, K, N = ALIGNED
    problem = make_problem(M, N, K, dtype, precision, mode)
    _skip_what_cannot_run(problem, config)
    tensors = drawn(spec_of(problem), problem, config)
    reference = spec_of(problem).reference(problem, tensors)["y"]
    eager = _eager(problem, tensors)
    _run(problem, config, tensors)
    assert _error(tensors["y"], reference) <= 1.5 * _error(eager, reference) + 1e-7


@each_case
def test_two_runs_are_bit_identical(mode, config):
    M, K, N = LARGER
    problem = make_problem(M, N, K, "float32", "tf32", mode)
    _skip_what_cannot_run(problem, config)
    first, second = (drawn(spec_of(problem), problem, config) for _ in range(2))
    _run(problem, config, first)
    _run(problem, config, second)
    assert all(torch.equal(first[operand.name], second[operand.name]) for operand in spec_of(problem).operands(problem))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "config",
    [
        JOINED,
        Config("persistent", 16, 16, 64, SPLIT_K=16, num_warps=2, num_stages=3),
        Config("persistent", 64, 16, 32, SPLIT_K=4, num_stages=3),
    ],
    ids=Config.label,
)
def test_thousands_of_launches_in_a_row_join_each_tile_once_and_in_order(config, dtype):
    """Launched as fast as the GPU takes them: the CTAs of a tile come in many orders, and beside the next launch's."""
    problem = make_problem(128, 512, 2048, dtype)
    _skip_what_cannot_run(problem, config)
    tensors = drawn(PLAIN, problem, config)
    outputs = [torch.full_like(tensors["y"], math.nan) for _ in range(50)]
    (first,) = PLAIN.launches(problem, config, tensors)
    assert "arrivals" in tensors
    launches = [PLAIN.launches(problem, config, {**tensors, "y": y})[0] for y in outputs]
    first.run()
    assert _error(tensors["y"], PLAIN.reference(problem, tensors)["y"]) < 1e-3
    for _ in range(60):
        for launch in launches:
            launch.run()
        for y in outputs:
            assert torch.equal(y, tensors["y"])
            y.fill_(math.nan)
    assert not tensors["arrivals"].any()


@pytest.mark.parametrize("config", WHOLE, ids=Config.label)
def test_many_tiles_of_whole_columns_update_each_statistic_once_and_count_one_batch(config):
    """More tiles than programs: what a program does beside one tile's stores must not be done again for the next."""
    problem = make_problem(config.BLOCK_M, 64 * 1000, 64, "float32", "tf32", "train")
    _skip_what_cannot_run(problem, config)
    tensors = drawn(WITH_BN, problem, config)
    tensors["num_batches_tracked"] = torch.tensor(6, device="cuda")
    reference = WITH_BN.reference(problem, tensors)
    (launch,) = gemm_launches(problem, config, tensors, "train", eps=EPS, momentum=MOMENTUM, counter="count")
    launch.run()
    assert int(tensors["num_batches_tracked"]) == 7
    for name, expected in reference.items():
        assert _error(tensors[name], expected) <= WITH_BN.tolerance(problem).frobenius, name


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "config", [BASELINE, SPLIT_K, JOINED, PERSISTENT, PERSISTENT_SPLIT, REREAD, OWNER, *WHOLE], ids=Config.label
)
def test_after_ten_steps_the_running_statistics_are_those_of_pytorch_s_module(config, momentum):
    M, K, N = ALIGNED
    problem = make_problem(M, N, K, "float32", "tf32x3", "train")
    _skip_what_cannot_run(problem, config)
    tensors = drawn(WITH_BN, problem, config)
    tensors["num_batches_tracked"] = torch.zeros((), dtype=torch.int64, device="cuda")
    module = torch.nn.BatchNorm1d(N, momentum=momentum, device="cuda")
    with torch.no_grad():
        for parameter, name in ((module.weight, "gamma"), (module.bias, "beta")):
            parameter.copy_(tensors[name])
        for buffer, name in ((module.running_mean, "running_mean"), (module.running_var, "running_var")):
            buffer.copy_(tensors[name])
        for _ in range(10):
            tensors["x"].normal_()
            product = torch.nn.functional.linear(tensors["x"], tensors["weight"], tensors["bias"]) * tensors["scale"]
            expected = module(product)
            if momentum is None:
                tensors["num_batches_tracked"] += 1
            counter = "average" if momentum is None else "count"
            launches = gemm_launches(
                problem, config, tensors, "train", eps=EPS, momentum=momentum or 0.0, counter=counter
            )
            for launch in launches:
                launch.run()
            torch.testing.assert_close(tensors["y"], expected, rtol=1e-4, atol=1e-4)
    assert int(tensors["num_batches_tracked"]) == int(module.num_batches_tracked) == 10
    torch.testing.assert_close(tensors["running_mean"], module.running_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tensors["running_var"], module.running_var, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16x3", "tf32x3"])
@pytest.mark.parametrize(("M", "K", "N"), [(1024, 8192, 8192), (16384, 4096, 4096)])
def test_training_is_within_1e_4_of_float64_in_every_element(M, K, N, precision):
    problem = make_problem(M, N, K, "float32", precision, "train")
    config = Config(BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, num_warps=8, num_stages=2, GROUP_M=8)
    tensors = drawn(WITH_BN, problem, config)
    reference = WITH_BN.reference(problem, tensors)
    _run(problem, config, tensors)
    for name, expected in reference.items():
        torch.testing.assert_close(tensors[name].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [None, "eval", "train"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("config", DEFERRED, ids=Config.label)
@pytest.mark.parametrize(("M", "K", "N"), [(2000, 520, 4104), (4096, 384, 2048), (20_000, 328, 264)])
def test_tiles_that_are_stored_beside_the_next_one_are_all_there_and_the_same_in_every_run(
    M, K, N, config, dtype, mode
):
    """Two to four tiles a CTA, with and without edges; K of six steps, the fewest, and of more."""
    problem = make_problem(M, N, K, dtype, mode=mode)
    _skip_what_cannot_run(problem, config)
    spec = spec_of(problem)
    tensors = drawn(spec, problem, config)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    reference = spec.reference(problem, before)
    first, *_ = spec.launches(problem, config, tensors)
    assert first.grid[0] < -(-M // config.BLOCK_M) * -(-N // config.BLOCK_N)
    _run(problem, config, tensors)
    once = tensors["y"].clone()
    for name, expected in reference.items():
        assert _error(tensors[name], expected) <= spec.tolerance(problem).frobenius, name
    for _ in range(20):
        for name, tensor in before.items():
            tensors[name].copy_(tensor)
        _run(problem, config, tensors)
        assert torch.equal(tensors["y"], once)
    for operand in spec.operands(problem):
        if operand.name not in reference:
            assert torch.equal(tensors[operand.name], before[operand.name]), operand.name


LARGE = [Config(BLOCK_M=128, BLOCK_N=128, num_warps=8, GROUP_M=8), PERSISTENT]


@pytest.mark.parametrize(
    ("mode", "config"),
    [
        *((mode, config) for mode in ("eval", "train") for config in (*LARGE, DEFERRED[0])),
        *(("train", config) for config in (REREAD, OWNER)),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else value,
)
def test_y_beyond_two_to_the_31_elements_is_addressed_right(config, mode):
    K = 384 if config.variant == "deferred" else 32  # as few steps as it takes
    problem = make_problem(70_000, 40_000, K, "float16", mode=mode)  # y has 2.8e9 elements
    _skip_what_cannot_run(problem, config)
    tensors = drawn(WITH_BN, problem, config)
    x, weight, bias, scale, gamma, beta = (
        tensors[name].double() for name in ("x", "weight", "bias", "scale", "gamma", "beta")
    )
    mean, var = tensors["running_mean"].double(), tensors["running_var"].double()
    if mode == "train":
        # Columns' mean and variance from those of x: y itself in float64 would take 22 GB.
        mean = (weight @ x.mean(0) + bias) * scale
        var = ((weight @ torch.cov(x.T, correction=0)) * weight).sum(1) * scale**2
    _run(problem, config, tensors)
    for rows in (slice(0, 64), slice(53_600, 53_700), slice(70_000 - 64, 70_000)):
        y = (x[rows] @ weight.T + bias) * scale
        expected = (y - mean) / torch.sqrt(var + EPS) * gamma + beta
        assert _error(tensors["y"][rows], expected) < 2e-3
    assert not bool(tensors["y"].isnan().any())


@pytest.mark.parametrize(
    "config",
    [
        Config("split_k", 128, 128, 16, SPLIT_K=16, num_warps=8),
        Config("persistent", 128, 128, 16, SPLIT_K=16, num_warps=8),
    ],
    ids=Config.label,
)
def test_summands_beyond_two_to_the_31_elements_are_addressed_right(config):
    problem = make_problem(12_288, 12_288, 256, "float16")  # 2.4e9 float32 summands
    _skip_what_cannot_run(problem, config)
    tensors = drawn(PLAIN, problem, config)
    _run(problem, config, tensors)
    assert _error(tensors["y"], PLAIN.reference(problem, tensors)["y"]) < 1e-3
