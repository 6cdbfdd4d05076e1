"""fused_gemm_scale_batch_norm on the CPU: PyTorch's values, statistics and gradients, and mistakes told."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import batch_norm, linear

from fusetune import fused_gemm_scale_batch_norm
from fusetune.errors import UsageError

each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def _draw(M=6, K=7, N=4, dtype=torch.float32, requires_grad=False):
    """x, weight, bias, scale, gamma, beta; then running_mean and running_var."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((M, K), (N, K), (N,), (N,), (N,), (N,))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    running = torch.randn(N, generator=generator).to(dtype), torch.rand(N, generator=generator).to(dtype) + 0.5
    return [tensor.requires_grad_(requires_grad) for tensor in drawn] + list(running)


def _plain(x, weight, bias, scale, gamma, beta, mean, var, *, training, momentum=0.1, eps=1e-5):
    return batch_norm(linear(x, weight, bias) * scale, mean, var, gamma, beta, training, momentum, eps)


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("M", "K", "N"), [(2, 1, 1), (6, 123, 77), (0, 3, 4), (4, 0, 3)])
def test_values_and_statistics_are_pytorch_s(M, K, N, dtype, training):
    ours, plain = _draw(M, K, N, dtype), _draw(M, K, N, dtype)
    y = fused_gemm_scale_batch_norm(*ours, training=training, momentum=0.3, eps=1e-3)
    assert torch.equal(y, _plain(*plain, training=training, momentum=0.3, eps=1e-3))
    assert (y.dtype, y.shape) == (dtype, (M, N))
    for mine, expected in zip(ours, plain, strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("left_out", [(4,), (5,), (4, 5)], ids=["gamma", "beta", "both"])
@each_mode
def test_gamma_and_beta_may_be_left_out(left_out, training):
    tensors = _draw(dtype=torch.float64, requires_grad=True)
    for place in left_out:
        tensors[place] = None
    expected = _plain(*_copies(tensors), training=training)
    assert torch.equal(fused_gemm_scale_batch_norm(*_copies(tensors), training=training), expected)
    wanted = [tensor for tensor in tensors[:6] if tensor is not None]
    assert torch.autograd.gradcheck(lambda *_: fused_gemm_scale_batch_norm(*tensors, training=training), wanted)


def _copies(tensors):
    return [None if tensor is None else tensor.detach().clone() for tensor in tensors]


@each_mode
def test_gradients_are_those_of_the_function(training):
    *wanted, mean, var = _draw(dtype=torch.float64, requires_grad=True)

    def function(*tensors):
        return fused_gemm_scale_batch_norm(*tensors, mean, var, training=training)

    assert torch.autograd.gradcheck(function, wanted)


@each_mode
@pytest.mark.parametrize("wanted", range(6))
def test_only_the_gradients_that_are_wanted_are_made(wanted, training):
    ours, plain = _draw(), _draw()
    for some in (ours, plain):
        some[wanted].requires_grad_()
    along = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    fused_gemm_scale_batch_norm(*ours, training=training).backward(along)
    _plain(*plain, training=training).backward(along)
    torch.testing.assert_close(ours[wanted].grad, plain[wanted].grad, atol=1e-5, rtol=1e-4)
    assert [tensor.grad is None for tensor in ours] == [place != wanted for place in range(8)]


def test_without_a_tensor_that_wants_one_there_is_no_gradient():
    assert not fused_gemm_scale_batch_norm(*_draw(), training=True).requires_grad
    with torch.no_grad():
        assert not fused_gemm_scale_batch_norm(*_draw(requires_grad=True), training=True).requires_grad
    with torch.inference_mode():
        assert not fused_gemm_scale_batch_norm(*_draw(requires_grad=True), training=True).requires_grad


@each_mode
def test_second_derivatives_are_right(training):
    *wanted, mean, var = _draw(dtype=torch.float64, requires_grad=True)

    def function(*tensors):
        return fused_gemm_scale_batch_norm(*tensors, mean.clone(), var.clone(), training=training)

    assert torch.autograd.gradgradcheck(function, wanted)


def test_two_batches_of_training_may_wait_for_their_backward_pass():
    tensors, other = _draw(requires_grad=True), torch.randn(6, 7)
    first = fused_gemm_scale_batch_norm(*tensors, training=True)
    second = fused_gemm_scale_batch_norm(other, *tensors[1:], training=True)
    (first.square().sum() + second.square().sum()).backward()
    assert tensors[0].grad is not None


def test_statistics_that_change_before_the_backward_pass_of_an_evaluation_are_noticed():
    tensors = _draw(requires_grad=True)
    y = fused_gemm_scale_batch_norm(*tensors, training=False)
    fused_gemm_scale_batch_norm(*tensors, training=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batches_are_counted_in_training_only(momentum):
    tensors, counter = _draw(), torch.tensor(3)
    for training in (True, False, True):
        fused_gemm_scale_batch_norm(*tensors, training=training, momentum=momentum, num_batches_tracked=counter)
    assert int(counter) == 5


def test_momentum_none_averages_over_all_batches():
    (_, *parameters, mean, var), counter = _draw(), torch.tensor(0)
    _, weight, bias, scale, *_ = _draw()
    seen = []
    for step in range(4):
        x = torch.randn(6, 7, generator=torch.Generator().manual_seed(step))
        options = {"training": True, "momentum": None, "num_batches_tracked": counter}
        fused_gemm_scale_batch_norm(x, *parameters, mean, var, **options)
        seen.append(linear(x, weight, bias) * scale)
    torch.testing.assert_close(mean, torch.stack([y.mean(0) for y in seen]).mean(0))
    torch.testing.assert_close(var, torch.stack([y.var(0) for y in seen]).mean(0))


@each_mode
def test_without_running_statistics_the_batch_s_are_taken_and_nothing_is_counted(training):
    tensors, counter = _draw()[:6], torch.tensor(0)
    options = {"training": training, "num_batches_tracked": counter}
    y = fused_gemm_scale_batch_norm(*tensors, None, None, **options)
    assert torch.equal(y, _plain(*tensors, None, None, training=True))
    assert int(counter) == 0


def test_one_row_has_no_statistics_and_changes_none():
    tensors, counter = _draw(M=1), torch.tensor(0)
    before = [tensor.clone() for tensor in tensors]
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel when training.*\[1, 4\]"):
        fused_gemm_scale_batch_norm(*tensors, training=True, num_batches_tracked=counter)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        fused_gemm_scale_batch_norm(*tensors[:6], None, None, training=False)
    assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, before, strict=True))
    assert int(counter) == 0
    assert fused_gemm_scale_batch_norm(*tensors, training=False).shape == (1, 4)


def _mistaken(position, tensor):
    tensors = _draw()
    tensors[position] = tensor
    return tensors


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (_mistaken(0, torch.randn(2, 6, 7)), "batch_norm needs x [M, K] and weight [N, K]; got x [2, 6, 7]"),
        (
            _mistaken(2, torch.randn(5)),
            "needs bias [N], scale [N], gamma [N], beta [N], running_mean [N] and running_v",
        ),
        (_mistaken(4, torch.randn(1, 4)), "gamma [1, 4]"),
        (_mistaken(7, torch.rand(3)), "running_var [3]"),
        (_mistaken(0, torch.randn(6, 7).half()), "needs one dtype, float32, float16 or bfloat16, for all, or float32"),
        (_mistaken(6, torch.randn(4).double()), "running_mean torch.float64"),
        (_mistaken(5, torch.randn(4, device="meta")), "needs all tensors on one device; got x cpu"),
        (_mistaken(6, None), "needs running_mean and running_var both, or neither"),
        (_mistaken(7, None), "needs running_mean and running_var both, or neither"),
        (_mistaken(6, torch.randn(4, requires_grad=True)), "has no gradient for running statistics"),
    ],
)
def test_what_does_not_fit_is_told_with_what_was_seen(tensors, told):
    with pytest.raises(UsageError) as caught:
        fused_gemm_scale_batch_norm(*tensors, training=True)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"momentum": None}, "give their number as num_batches_tracked"),
        ({"num_batches_tracked": torch.tensor(0.0)}, "got [] torch.float32"),
        ({"num_batches_tracked": torch.zeros(2, dtype=torch.int64)}, "got [2] torch.int64"),
        ({"num_batches_tracked": torch.tensor(0, device="meta")}, "got x cpu, num_batches_tracked meta"),
        ({"precision": "fp8"}, "'fp8' is not known"),
    ],
)
def test_options_that_do_not_fit_are_told(options, told):
    with pytest.raises(UsageError) as caught:
        fused_gemm_scale_batch_norm(*_draw(), training=True, **options)
    assert told in str(caught.value)
