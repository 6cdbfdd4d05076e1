"""Every variant of both ops on the CPU, through Triton's interpreter: y, running statistics, and nothing else."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from triton.runtime import interpreter

from fusetune.ops.gemm_scale import launches as launches_module
from fusetune.ops.gemm_scale import split
from fusetune.ops.gemm_scale.batch_norm import EPS, MOMENTUM
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import DEFERRED_STEPS, holds_columns
from fusetune.ops.spec import KernelSpec

CONFIGS = {
    "tiled": Config(BLOCK_M=16, BLOCK_N=32, BLOCK_K=32, GROUP_M=2),
    "vectored": Config("vectored", 16, 32, 32, GROUP_M=2),
    "vectored split": Config("vectored", 16, 32, 16, SPLIT_K=3),
    "split_k": Config("split_k", 16, 32, 16, SPLIT_K=4),
    "split_k joined": Config("split_k", 16, 32, 16, SPLIT_K=4),
    "persistent": Config("persistent", 16, 64, 32, GROUP_M=2),
    "persistent split": Config("persistent", 16, 64, 32, GROUP_M=2, SPLIT_K=4),
    "persistent joined": Config("persistent", 16, 64, 32, GROUP_M=2, SPLIT_K=4),
    "reread": Config("reread", 16, 64, 32, GROUP_M=2),
    "owner": Config("owner", 16, 64, 32, GROUP_M=2),
    "deferred": Config("deferred", 16, 64, 16, GROUP_M=2),
    "library": Config("library"),
}
PERSISTENT = [
    f"{variant} in {parts}" for variant in ("persistent", "persistent whole", "persistent split") for parts in (1, 2, 4)
]
JOINED = ["split_k joined", "split_k joined whole", "persistent joined", "persistent joined whole"]
VARIANTS = [
    "tiled",
    "tiled whole",
    "vectored",
    "vectored split",
    "split_k",
    *PERSISTENT,
    *JOINED,
    "reread",
    "owner",
    "deferred",
    "library",
]
ANY_SHAPE = [(1, 1, 1), (2, 1, 1), (5, 123, 77), (37, 50, 70), (64, 64, 64)]
# The copy engine needs rows that begin on 16 bytes; the last two have more tiles than run at once. Along K they have
# 1, 5, 2, 9 and 7 steps, so that of four CTAs that share a tile some have fewer than others, or none.
ALIGNED = [(1, 8, 8), (2, 8, 8), (5, 136, 72), (37, 40, 264), (68, 264, 136), (172, 200, 40)]
MODES = [None, "train", "eval"]


def _config(variant: str, problem: Problem) -> Config:
    """A config of the variant for the problem, of small tiles: `whole` has all rows in one, `split` shares K.

    A tile's summands are added up by a second kernel, or, where they are `joined`, by the last CTA there.
    """
    kind = variant.partition(" in ")[0]
    if kind.endswith(" whole"):
        rows = max(16, 1 << (problem.M - 1).bit_length())
        return msgspec.structs.replace(CONFIGS[kind.removesuffix(" whole")], BLOCK_M=rows, GROUP_M=1)
    return CONFIGS[kind]


@pytest.fixture
def launched(monkeypatch, request):
    """Launch a config of `persistent in 2` in two parts: what needs parts on a GPU, a large tile, takes long here.

    For the same reason it is the name that decides whether summands are joined at once.
    """
    joins = "joined" in request.node.callspec.params["variant"]
    monkeypatch.setattr(split, "JOINED_BYTES", 1 << 30 if joins else 0)

    def launch(variant, problem, config, tensors, **options):
        if " in " in variant:
            monkeypatch.setattr(launches_module, "parts_of", lambda config, problem: int(variant[-1]))
        ending = problem.mode or "scale"
        found = gemm_launches(problem, config, tensors, ending, **{"eps": EPS, "momentum": MOMENTUM, **options})
        for one in found:
            one.run()
        return found

    return launch


def _spec(problem: Problem) -> KernelSpec:
    return WITH_BN if problem.mode else PLAIN


def _draw(problem: Problem, config: Config) -> dict[str, torch.Tensor]:
    """Inputs and states drawn, outputs and workspace poisoned."""
    torch.manual_seed(problem.M + problem.N + problem.K)
    spec, tensors = _spec(problem), {}
    for operand in (*spec.operands(problem), *spec.workspace(problem, config)):
        values = torch.randn(operand.shape) * operand.std + operand.mean
        values = torch.full_like(values, math.nan) if operand.role == "output" else values
        tensors[operand.name] = values.to(getattr(torch, operand.dtype))
    return tensors


def _cases():
    for mode in MODES:
        for variant in VARIANTS:
            if ("whole" in variant or variant in {"reread", "owner"}) and mode != "train":
                continue
            if variant.endswith("joined") and mode == "train":
                continue  # where no tile has all rows, this is `split_k` or `persistent split`
            copies = variant.startswith(("persistent", "reread", "owner", "deferred"))
            for M, K, N in ALIGNED if copies else ANY_SHAPE:
                if variant == "deferred" and K <= 16 * (DEFERRED_STEPS - 1):
                    continue
                if variant.startswith("vectored") and (M, K, N) not in {(5, 123, 77), (37, 50, 70)}:
                    continue  # the kernel of `tiled`, called with what it would have been given
                if mode == "train" and M == 1:
                    continue
                # Deferred is for y of 16 bits, and the interpreter cannot multiply bfloat16. Elsewhere a type matters
                # where numbers are loaded and stored: at the edges, of which few tiles have all.
                dtypes = ["float32"] if M * N > 6000 else ["float32", "float16"]
                for dtype in ["float16"] if variant == "deferred" else dtypes:
                    name = f"{mode or 'plain'} {variant} {M}x{K}x{N}-{dtype}"
                    yield pytest.param(mode, variant, M, K, N, dtype, id=name)


@pytest.mark.parametrize(("mode", "variant", "M", "K", "N", "dtype"), list(_cases()))
def test_every_variant_gives_what_pytorch_gives_and_touches_nothing_else(
    mode, variant, M, K, N, dtype, in_bounds, launched
):
    problem = make_problem(M, N, K, dtype, mode=mode)
    config = _config(variant, problem)
    tensors = _draw(problem, config)
    in_bounds += tensors.values()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    launches = launched(variant, problem, config, tensors)
    if " in " in variant:
        assert launches[0].constants["PARTS"] == int(variant[-1])
    if "joined" in variant and (mode != "train" or "whole" in variant):
        assert len(launches) == 1
        assert not tensors["arrivals"].any(), "the next launch counts from zero"
    if "whole" in variant:
        assert holds_columns(config, problem)
        assert len(launches) == 1
    expected = _spec(problem).reference(problem, before)
    assert set(expected) == ({"y", "running_mean", "running_var"} if mode == "train" else {"y"})
    tolerance = 1e-5 if dtype == "float32" else 3e-3
    for name, reference in expected.items():
        torch.testing.assert_close(tensors[name].double(), reference, rtol=tolerance, atol=tolerance)
    for operand in _spec(problem).operands(problem):
        if operand.name not in expected:
            assert torch.equal(tensors[operand.name], before[operand.name]), operand.name


def _ill_conditioned(problem: Problem, config: Config) -> dict[str, torch.Tensor]:
    """Columns whose mean is a thousand times their standard deviation, and drifts by as much from row to row."""
    M, K = problem.M, problem.K
    tensors = _draw(problem, config)
    drift = torch.linspace(-0.2, 0.2, M)[:, None]
    tensors["x"] = tensors["x"] + drift + 1000 / math.sqrt(K)
    tensors["weight"] = 1 / K + 0.05 * torch.randn_like(tensors["weight"]) / K
    tensors["scale"] = 0.5 + torch.rand(problem.N)
    acc = tensors["x"].double() @ tensors["weight"].double().T
    assert 300 < float((acc.mean(0) / acc.std(0)).median()) < 3000
    return tensors


def _error(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize(
    ("variant", "M"),
    [
        ("tiled", 200),
        ("tiled", 16 * 70 + 3),  # 71 tiles, more than the second kernel joins at once
        ("split_k", 200),
        ("tiled whole", 200),
        ("persistent in 1", 200),
        ("persistent in 4", 200),
        ("persistent whole in 1", 200),
        ("persistent whole in 4", 200),
        ("persistent split in 2", 200),
        ("split_k joined whole", 200),
        ("persistent joined whole", 200),
        ("owner", 200),
        ("owner", 256),
        ("library", 200),
        ("library", 32 * 70 + 3),
    ],
)
def test_large_column_means_cost_no_more_accuracy_than_in_pytorch(variant, M, launched):
    problem = make_problem(M, 72, 64, "float32", "ieee", mode="train")
    config = _config(variant, problem)
    tensors = _ill_conditioned(problem, config)
    reference = WITH_BN.reference(problem, tensors)
    x, weight, bias, scale, gamma, beta = (tensors[name] for name in ("x", "weight", "bias", "scale", "gamma", "beta"))
    mean, var = tensors["running_mean"].clone(), tensors["running_var"].clone()
    product = torch.nn.functional.linear(x, weight, bias) * scale
    eager = torch.nn.functional.batch_norm(product, mean, var, gamma, beta, True, MOMENTUM, EPS)
    launched(variant, problem, config, tensors)
    assert _error(tensors["y"], reference["y"]) <= 1.5 * _error(eager, reference["y"])
    torch.testing.assert_close(tensors["running_mean"].double(), reference["running_mean"], rtol=1e-6, atol=0)
    torch.testing.assert_close(tensors["running_var"].double(), reference["running_var"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "variant",
    ["tiled", "split_k", "persistent in 2", "persistent split in 2", "split_k joined", "persistent joined", "library"],
)
def test_large_running_means_cost_no_more_accuracy_than_in_pytorch(variant, launched):
    """Only where products are as exact as float32: elsewhere the input's rounding costs far more."""
    problem = make_problem(64, 72, 64, "float32", "tf32x3", mode="eval")
    config = _config(variant, problem)
    tensors = _ill_conditioned(problem, config)
    y = (tensors["x"].double() @ tensors["weight"].double().T + tensors["bias"].double()) * tensors["scale"].double()
    tensors["running_mean"], tensors["running_var"] = y.mean(0).float(), y.var(0).float()
    reference = WITH_BN.reference(problem, tensors)["y"]
    inputs = [tensors[name] for name in ("running_mean", "running_var", "gamma", "beta")]
    product = torch.nn.functional.linear(tensors["x"], tensors["weight"], tensors["bias"]) * tensors["scale"]
    eager = torch.nn.functional.batch_norm(product, *inputs, False, MOMENTUM, EPS)
    launched(variant, problem, config, tensors)
    assert _error(tensors["y"], reference) <= 1.5 * _error(eager, reference)


@pytest.mark.parametrize(
    ("N", "counter", "given", "momentum"),
    [(24, "none", 6, 0.3), (24, "count", 6, 0.3), (24, "average", 4, 0.25), (264, "count", 6, 0.3)],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_running_statistics_follow_the_momentum_or_the_number_of_batches(
    variant, N, counter, given, momentum, launched
):
    """Also where many tiles, and parts of tiles, hold columns: only one of them may count."""
    half = variant == "deferred"  # for y of 16 bits alone
    problem = make_problem(40, N, 104, "float16" if half else "float32", mode="train")
    config = _config(variant, problem)
    tensors = _draw(problem, config)
    tensors["num_batches_tracked"] = torch.tensor(given)
    mean, var = tensors["running_mean"].double(), tensors["running_var"].double()
    x, weight, bias, scale, gamma, beta = (
        tensors[name].double() for name in ("x", "weight", "bias", "scale", "gamma", "beta")
    )
    y = torch.nn.functional.batch_norm((x @ weight.T + bias) * scale, mean, var, gamma, beta, True, momentum, 1e-2)
    # Momentum None is the average's: whatever else is given for it has to be without effect.
    options = {"eps": 1e-2, "momentum": 0.9 if counter == "average" else momentum, "counter": counter}
    first, *_ = launched(variant, problem, config, tensors, **options)
    if " in " in variant and N == 264:
        tiles = -(-N // config.BLOCK_N) * -(-problem.M // config.BLOCK_M)
        assert tiles > first.grid[0], "no program has a second tile"
    assert int(tensors["num_batches_tracked"]) == given + (counter == "count")
    close = 3e-3 if half else 1e-5
    for name, expected in (("y", y), ("running_mean", mean), ("running_var", var)):
        torch.testing.assert_close(tensors[name].double(), expected, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("K", "steps"),
    [
        (8, (1, 0, 0, 0)),
        (136, (2, 2, 1, 0)),  # of 32, the last one short
        (200, (2, 2, 2, 1)),
        (264, (3, 3, 3, 0)),
    ],
)
@pytest.mark.parametrize("variant", ["split_k", "persistent split in 1", "persistent split in 2"])
def test_ctas_that_share_k_write_a_summand_each_even_where_no_step_is_left(variant, K, steps, launched, in_bounds):
    problem = make_problem(37, 72, K, "float32")
    config = msgspec.structs.replace(_config(variant, problem), BLOCK_K=32)
    tensors = _draw(problem, config)
    in_bounds += tensors.values()
    launched(variant, problem, config, tensors)
    first = 0
    for summand, count in zip(tensors["partial"].double(), steps, strict=True):
        last = first + count * config.BLOCK_K
        expected = tensors["x"][:, first:last].double() @ tensors["weight"][:, first:last].double().T
        torch.testing.assert_close(summand, expected, rtol=1e-5, atol=1e-5)
        first = last
    assert first >= K


@pytest.mark.parametrize("splits", [3, 7])
@pytest.mark.parametrize(
    ("variant", "mode"),
    [
        ("split_k", None),
        ("split_k joined", "eval"),
        ("persistent split in 2", "train"),
        ("persistent joined", None),
    ],
)
def test_k_is_split_in_any_number(variant, mode, splits, in_bounds, launched):
    problem = make_problem(37, 72, 200, "float32", mode=mode)  # 13 or 7 steps: the last split has fewer, or all have 1
    config = msgspec.structs.replace(_config(variant, problem), SPLIT_K=splits)
    tensors = _draw(problem, config)
    in_bounds += tensors.values()
    spec = _spec(problem)
    expected = spec.reference(problem, {name: tensor.clone() for name, tensor in tensors.items()})
    launched(variant, problem, config, tensors)
    error = torch.linalg.norm(tensors["y"].double() - expected["y"]) / torch.linalg.norm(expected["y"])
    assert error < spec.tolerance(problem).frobenius


@pytest.mark.parametrize("variant", ["split_k joined", "persistent joined"])
def test_whoever_comes_last_at_a_tile_the_same_bits_come_out(variant, launched, monkeypatch):
    problem = make_problem(37, 72, 264, "float32")
    config = _config(variant, problem)
    tensors = _draw(problem, config)
    launched(variant, problem, config, tensors)
    forwards = tensors["y"].clone()
    tensors["y"].fill_(math.nan)
    tensors["partial"].fill_(math.nan)
    (launch,) = gemm_launches(problem, config, tensors, "scale")
    splits = []

    set_place = interpreter.interpreter_builder.set_grid_idx

    def mirrored(x, y, z):
        splits.append(config.SPLIT_K - 1 - y)
        set_place(x, config.SPLIT_K - 1 - y, z)

    monkeypatch.setattr(interpreter.interpreter_builder, "set_grid_idx", mirrored)
    launch.run()
    assert splits[0] != 0
    assert torch.equal(tensors["y"], forwards)
