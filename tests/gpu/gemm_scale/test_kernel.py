"""The tuned kernel on silicon, against float64."""

from __future__ import annotations

import pytest
import torch

from fusetune import fused_gemm_scale
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import Problem, make_problem

SHAPES = [(1, 1, 1), (5, 123, 77), (16, 16, 16), (64, 1024, 512), (129, 1000, 65), (300, 513, 1030), (1024, 2048, 512)]
FORMS = [
    ("float32", "tf32"),
    ("float32", "ieee"),
    ("float32", "tf32x3"),
    ("float32", "bf16x3"),
    ("float16", None),
    ("bfloat16", None),
]
CONFIGS = [
    BASELINE,
    Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3),
    Config(BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8, num_stages=3, GROUP_M=8),
    Config(BLOCK_M=16, BLOCK_N=32, BLOCK_K=16, num_warps=2, num_stages=4),
]


def _draw(problem: Problem) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for operand in SPEC.operands(problem):
        values = torch.randn(operand.shape, device="cuda") * operand.std
        tensors[operand.name] = values.to(getattr(torch, operand.dtype))
    return tensors


def _error(y: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    difference = y.double() - reference
    rms = reference.norm() / reference.numel() ** 0.5
    return float(difference.norm() / reference.norm()), float(difference.abs().max() / rms)


@pytest.mark.parametrize("config", CONFIGS, ids=Config.label)
@pytest.mark.parametrize(("dtype", "precision"), FORMS)
@pytest.mark.parametrize(("M", "K", "N"), SHAPES)
def test_every_form_is_within_its_tolerance(M, K, N, dtype, precision, config):
    problem = make_problem(M, N, K, dtype, precision)
    tensors = _draw(problem)
    before = {name: tensor.clone() for name, tensor in tensors.items() if name != "y"}
    tensors["y"].fill_(float("nan"))
    for launch in SPEC.launches(problem, config, tensors):
        launch.run()
    frobenius, maximum = _error(tensors["y"], SPEC.reference(problem, tensors)["y"])
    tolerance = SPEC.tolerance(problem)
    # A handful of elements has no average: one unlucky rounding is then the whole norm.
    slack = 4 if M * N < 64 else 1
    assert frobenius <= tolerance.frobenius * slack
    assert maximum <= tolerance.maximum
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


def test_two_runs_are_bit_identical():
    problem = make_problem(1024, 512, 2048, "float32")
    x, w, b, s, _ = _draw(problem).values()
    assert torch.equal(fused_gemm_scale(x, w, b, s), fused_gemm_scale(x, w, b, s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_strided_x_and_w_are_read_in_place(dtype):
    x = torch.randn(130, 400, device="cuda", dtype=dtype)[:, ::2]
    w = torch.randn(200, 70, device="cuda", dtype=dtype).T
    b, s = torch.randn(2, 70, device="cuda", dtype=dtype)
    reference = (x.double() @ w.double().T + b.double()) * s.double()
    frobenius, _ = _error(fused_gemm_scale(x, w, b, s), reference)
    assert frobenius < 6e-3


def test_tensors_beyond_two_to_the_31_elements_are_addressed_right():
    M, K, N = 70_000, 16, 40_000  # y has 2.8e9 elements
    x = torch.randn(M, K, device="cuda", dtype=torch.float16)
    w = torch.randn(N, K, device="cuda", dtype=torch.float16)
    b, s = torch.randn(2, N, device="cuda", dtype=torch.float16)
    y = fused_gemm_scale(x, w, b, s)
    for rows in (slice(0, 64), slice(M - 64, M), slice(53_600, 53_700)):
        reference = (x[rows].double() @ w.double().T + b.double()) * s.double()
        assert _error(y[rows], reference)[0] < 1e-3


def test_empty_inputs_give_what_pytorch_gives():
    w, b, s = torch.randn(8, 0, device="cuda"), torch.randn(8, device="cuda"), torch.randn(8, device="cuda")
    assert torch.equal(fused_gemm_scale(torch.empty(4, 0, device="cuda"), w, b, s), (b * s).expand(4, 8))
    w = torch.randn(8, 5, device="cuda")
    assert fused_gemm_scale(torch.empty(0, 5, device="cuda"), w, b, s).shape == (0, 8)
