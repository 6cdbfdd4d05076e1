"""fused_gemm_scale on the CPU: PyTorch's values and gradients, and mistakes told with what was seen."""

from __future__ import annotations

import pytest
import torch

from fusetune import fused_gemm_scale
from fusetune.errors import UsageError


def _draw(M=5, K=7, N=4, dtype=torch.float32, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    shapes = ((M, K), (N, K), (N,), (N,))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
        for shape in shapes
    ]


def _plain(x, weight, bias, scale):
    return torch.nn.functional.linear(x, weight, bias) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("M", "K", "N"), [(1, 1, 1), (5, 123, 77), (64, 64, 64), (0, 3, 4), (4, 0, 3)])
def test_values_are_pytorch_s(M, K, N, dtype):
    tensors = _draw(M, K, N, dtype)
    y = fused_gemm_scale(*tensors)
    assert torch.equal(y, _plain(*tensors))
    assert (y.dtype, y.shape) == (dtype, (M, N))


def test_strided_inputs_are_taken_as_they_are():
    x, weight = torch.randn(7, 5).T, torch.randn(4, 14)[:, ::2]
    bias, scale = torch.randn(4, 2).unbind(1)
    assert torch.equal(fused_gemm_scale(x, weight, bias, scale), _plain(x, weight, bias, scale))


@pytest.mark.parametrize("precision", ["tf32", "ieee", "tf32x3", "bf16x3"])
def test_a_precision_makes_no_difference_on_the_cpu(precision):
    tensors = _draw()
    assert torch.equal(fused_gemm_scale(*tensors, precision=precision), _plain(*tensors))


def test_gradients_are_those_of_the_function():
    tensors = _draw(dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused_gemm_scale, tensors)


def test_gradients_are_right_where_a_scale_is_zero():
    """Nothing is divided by the scale: y / scale would lose what the scale's own gradient needs."""
    x, weight, bias, _ = _draw(dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.0, 1.0, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused_gemm_scale, (x, weight, bias, scale))


@pytest.mark.parametrize("wanted", range(4))
def test_only_the_gradients_that_are_wanted_are_made(wanted):
    tensors, plain = _draw(), _draw()
    for some in (tensors, plain):
        some[wanted].requires_grad_()
    fused_gemm_scale(*tensors).square().sum().backward()
    _plain(*plain).square().sum().backward()
    torch.testing.assert_close(tensors[wanted].grad, plain[wanted].grad)
    assert [tensor.grad is None for tensor in tensors] == [place != wanted for place in range(4)]


def test_without_a_tensor_that_wants_one_there_is_no_gradient():
    assert not fused_gemm_scale(*_draw()).requires_grad
    with torch.no_grad():
        assert not fused_gemm_scale(*_draw(requires_grad=True)).requires_grad


def test_second_derivatives_are_right():
    assert torch.autograd.gradgradcheck(fused_gemm_scale, _draw(dtype=torch.float64, requires_grad=True))


def _mistaken(position, tensor):
    tensors = _draw()
    tensors[position] = tensor
    return tensors


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (_mistaken(0, torch.randn(2, 5, 6)), "needs x [..., K] and weight [N, K]; got x [2, 5, 6], weight [4, 7]"),
        (_mistaken(0, torch.randn(6)), "needs x [..., K] and weight [N, K]; got x [6], weight [4, 7]"),
        (_mistaken(0, torch.randn(())), "needs x [M, K] and weight [N, K]; got x [], weight [4, 7]"),
        (_mistaken(0, None), "needs tensors; got x NoneType"),
        (_mistaken(1, [1.0]), "needs tensors; got weight list"),
        (_mistaken(1, torch.randn(7, 4)), "needs x [M, K] and weight [N, K]; got x [5, 7], weight [7, 4]"),
        (_mistaken(1, torch.randn(7)), "needs x [M, K] and weight [N, K]; got x [5, 7], weight [7]"),
        (_mistaken(2, torch.randn(5)), "needs bias [N] and scale [N] for weight [N, K]; got x [5, 7], weight [4, 7]"),
        (_mistaken(2, torch.randn(1, 4)), "bias [1, 4]"),
        (_mistaken(3, torch.randn(())), "scale []"),
        (_mistaken(3, torch.randn(7)), "bias [4], scale [7]"),
        (_mistaken(0, torch.randn(5, 7).half()), "needs one dtype, float32, float16 or bfloat16, for all, or float32"),
        (_mistaken(2, torch.randn(4).double()), "bias torch.float64, scale torch.float32"),
        (_mistaken(2, torch.randn(4, device="meta")), "needs all tensors on one device; got x cpu"),
    ],
)
def test_what_does_not_fit_is_told_with_what_was_seen(tensors, told):
    with pytest.raises(UsageError) as caught:
        fused_gemm_scale(*tensors)
    assert told in str(caught.value)


def test_a_precision_for_16_bit_inputs_and_one_that_is_not_known_are_refused():
    with pytest.raises(UsageError, match=r"'ieee' applies to float32 only; leave it out for torch\.float16"):
        fused_gemm_scale(*_draw(dtype=torch.float16), precision="ieee")
    with pytest.raises(UsageError, match="'fp8' is not known; use one of tf32, ieee, tf32x3, bf16x3"):
        fused_gemm_scale(*_draw(), precision="fp8")
