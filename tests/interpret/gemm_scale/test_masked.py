"""The variant `masked` on the CPU: rows of y that begin anywhere, from rows of x and W that begin on 16 bytes."""

from __future__ import annotations

import math

import pytest
import torch
from msgspec import structs

from fusetune.ops.gemm_scale import launches as launches_module
from fusetune.ops.gemm_scale import split
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.tiles import joined_products, persistent_products

CONFIG = Config("masked", 16, 64, 32, GROUP_M=2)
ONE, PAIRS, MANY = (20, 72, 77, 1), (21, 40, 86, 2), (70, 40, 205, 1)
"""M, K, N, and of how many 16-bit elements a row of y has a whole number; MANY has more tiles than run at once."""


@pytest.mark.parametrize(
    ("mode", "splits", "parts", "dtype", "shape"),
    [
        (None, 1, 1, "float16", ONE),
        (None, 1, 4, "float16", PAIRS),
        (None, 1, 2, "float32", MANY),
        (None, 3, 2, "float32", ONE),
        ("eval", 1, 2, "float16", PAIRS),
        ("eval", 2, 1, "float32", ONE),
        ("train", 1, 1, "float32", ONE),
        ("train", 1, 4, "float32", MANY),
        ("train", 3, 2, "float32", PAIRS),
    ],
)
def test_y_is_what_pytorch_gives_and_nothing_beside_it_is_written(
    mode, splits, parts, dtype, shape, in_bounds, monkeypatch
):
    monkeypatch.setattr(launches_module, "parts_of", lambda config, problem: parts)
    monkeypatch.setattr(split, "JOINED_BYTES", 0)
    M, K, N, at_once = shape
    spec, problem = WITH_BN if mode else PLAIN, make_problem(M, N, K, dtype, mode=mode)
    config = structs.replace(CONFIG, SPLIT_K=splits)
    tensors = drawn(spec, problem, config)
    in_bounds += tensors.values()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    first, *after = spec.launches(problem, config, tensors)
    assert first.kernel is persistent_products
    assert first.constants["MASKED"] == at_once
    assert (first.constants["PARTS"], len(after)) == (parts, int(mode == "train" or splits > 1))
    for launch in (first, *after):
        launch.run()
    tolerance = 1e-5 if dtype == "float32" else 3e-3
    for name, reference in spec.reference(problem, before).items():
        torch.testing.assert_close(tensors[name].double(), reference, rtol=tolerance, atol=tolerance)


def test_few_summands_are_joined_by_the_last_program_there(in_bounds):
    problem, config = make_problem(20, 77, 136, "float32"), Config("masked", 16, 16, 32, SPLIT_K=2)
    tensors = drawn(PLAIN, problem, config)
    in_bounds += tensors.values()
    (launch,) = PLAIN.launches(problem, config, tensors)
    assert launch.kernel is joined_products
    launch.run()
    torch.testing.assert_close(tensors["y"].double(), PLAIN.reference(problem, tensors)["y"], rtol=1e-5, atol=1e-5)


def drawn(spec, problem, config):
    """Inputs and states drawn, outputs and workspace poisoned."""
    torch.manual_seed(problem.M + problem.N + problem.K)
    tensors = {}
    for operand in (*spec.operands(problem), *spec.workspace(problem, config)):
        values = torch.randn(operand.shape) * operand.std + operand.mean
        values = torch.full_like(values, math.nan) if operand.role == "output" else values
        tensors[operand.name] = values.to(getattr(torch, operand.dtype))
    return tensors
