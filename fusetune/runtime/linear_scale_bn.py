"""fused_gemm_scale_batch_norm: BatchNorm1d((x @ weight.T + bias) * scale) with the tuned config, differentiable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm, linear

from fusetune.core.problem import Mode, Precision, make_problem
from fusetune.errors import UsageError
from fusetune.kernels.gemm_scale_bn import SPEC
from fusetune.runtime.dispatch import (
    DTYPES,
    check_devices,
    check_tensors,
    computed_by_pytorch,
    launch,
    wants_gradient,
)
from fusetune.runtime.linear_scale import linear_scale_gradients

_NAME = "fused_gemm_scale_batch_norm"


def fused_gemm_scale_batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    scale: torch.Tensor,
    gamma: torch.Tensor | None,
    beta: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: torch.Tensor | None = None,
    precision: Precision | None = None,
) -> torch.Tensor:
    """`F.batch_norm((x @ weight.T + bias) * scale, ...)`, launched with the loaded config, otherwise with BASELINE.

    x [M, K], of any strides; weight [N, K]; all others [N]; all of one dtype (float32, float16 or bfloat16) and on one
    device. Returns y [M, N], contiguous, of the same dtype. gamma and beta may be None, for one and zero.

    In training y has the batch's mean and variance, and running_mean, running_var and num_batches_tracked (int64, one
    element; may be None) are updated in place; momentum None makes them averages over all batches so far. Without
    running statistics y always has the batch's. `precision`, CPU tensors and gradients (of x, weight, bias, scale,
    gamma and beta) are as in `fused_gemm_scale`.

    Raises UsageError for tensors that do not fit, and PyTorch's ValueError for one row to take statistics of.
    """
    vectors = {"bias": bias, "scale": scale, "gamma": gamma, "beta": beta}
    vectors |= {"running_mean": running_mean, "running_var": running_var}
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    check_tensors(_NAME, x, weight, given, precision)
    norm = _norm(x, given, training, momentum, eps, num_batches_tracked)
    (M, K), N = x.shape, weight.shape[0]
    inputs = _Inputs(x, weight, bias, scale, gamma, beta)
    if M * K * N == 0 or eps <= 0 or (norm.of_batch and M == 1):  # what PyTorch has an answer or an error for
        return _by_pytorch(inputs, norm)
    if not wants_gradient(*inputs):
        return _forward(inputs, norm, precision)
    result: torch.Tensor = _FusedGemmScaleBatchNorm.apply(norm, precision, *inputs)
    return result


class _Inputs(NamedTuple):
    """The tensors that have a gradient, in the order of the function's arguments."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    scale: torch.Tensor
    gamma: torch.Tensor | None
    beta: torch.Tensor | None


@dataclass(frozen=True)
class _Norm:
    """Which statistics one call normalizes with, and what it makes of the running ones."""

    of_batch: bool
    running: tuple[torch.Tensor, torch.Tensor] | None
    """Mean and variance [N]; updated where `of_batch`."""
    counter: torch.Tensor | None
    """num_batches_tracked, where it is to be counted."""
    momentum: float | None
    eps: float


def _norm(
    x: torch.Tensor,
    vectors: Mapping[str, torch.Tensor],
    training: bool,
    momentum: float | None,
    eps: float,
    tracked: torch.Tensor | None,
) -> _Norm:
    mean, var = vectors.get("running_mean"), vectors.get("running_var")
    if mean is None or var is None:
        if mean is not var:
            raise UsageError(f"{_NAME} needs running_mean and running_var both, or neither")
        return _Norm(of_batch=True, running=None, counter=None, momentum=0.0, eps=eps)
    if mean.requires_grad or var.requires_grad:
        raise UsageError(f"{_NAME} has no gradient for running statistics; detach them")
    if not training:
        return _Norm(of_batch=False, running=(mean, var), counter=None, momentum=0.0, eps=eps)
    if tracked is None and momentum is None:
        raise UsageError("momentum None averages over all batches so far; give their number as num_batches_tracked")
    if tracked is not None:
        if tracked.dtype != torch.int64 or tracked.numel() != 1:
            seen = f"{list(tracked.shape)} {tracked.dtype}"
            raise UsageError(f"{_NAME} needs one torch.int64 element as num_batches_tracked; got {seen}")
        check_devices(_NAME, {"x": x, "num_batches_tracked": tracked})
    return _Norm(of_batch=True, running=(mean, var), counter=tracked, momentum=momentum, eps=eps)


class _FusedGemmScaleBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: _Norm, precision: Precision | None, *tensors: Any) -> torch.Tensor:
        inputs = _Inputs(*tensors)
        # The batch's own statistics are computed again: saving the running ones would refuse two steps before a
        # backward pass, as they change.
        mean, var = (None, None) if norm.of_batch or norm.running is None else norm.running
        ctx.save_for_backward(*inputs[:5], mean, var)
        ctx.of_batch, ctx.eps = norm.of_batch, norm.eps
        return _forward(inputs, norm, precision)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, scale, gamma, mean, var = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        need_y, need_gamma, need_beta = any(needed[:4]), needed[4], needed[5]
        with torch.autocast(x.device.type, enabled=False):
            z = linear(x, weight, bias)
            y = z * scale
            batch_mean = batch_invstd = None
            if ctx.of_batch:
                _, batch_mean, batch_invstd = torch.native_batch_norm(y, gamma, None, None, None, True, 0.0, ctx.eps)
            grad_y, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
                grad_out.contiguous(),
                y,
                gamma,
                mean,
                var,
                batch_mean,
                batch_invstd,
                ctx.of_batch,
                ctx.eps,
                [need_y, need_gamma, need_beta],
            )
            before = linear_scale_gradients(grad_y, x, weight, scale, z, needed[:4]) if need_y else (None,) * 4
        return (None, None, *before, grad_gamma if need_gamma else None, grad_beta if need_beta else None)


def _forward(inputs: _Inputs, norm: _Norm, precision: Precision | None) -> torch.Tensor:
    y = _by_pytorch(inputs, norm) if computed_by_pytorch(inputs.x) else _by_kernel(inputs, norm, precision)
    if norm.of_batch and norm.running is not None:
        # Neither a kernel nor PyTorch's own batch_norm does: a backward pass that saved them has to notice.
        torch.autograd.graph.increment_version(norm.running)
    return y


def _by_pytorch(inputs: _Inputs, norm: _Norm) -> torch.Tensor:
    x, weight, bias, scale, gamma, beta = inputs
    mean, var = norm.running or (None, None)
    momentum = norm.momentum
    if momentum is None and norm.counter is not None:
        momentum = 1.0 / (int(norm.counter) + 1)
    y = batch_norm(linear(x, weight, bias) * scale, mean, var, gamma, beta, norm.of_batch, momentum or 0.0, norm.eps)
    if norm.counter is not None:
        norm.counter.add_(1)
    return y


def _by_kernel(inputs: _Inputs, norm: _Norm, precision: Precision | None) -> torch.Tensor:
    x, weight, bias, scale, gamma, beta = inputs
    (M, K), N = x.shape, weight.shape[0]
    y = x.new_empty((M, N))
    # A kernel always reads and, in training, always writes running statistics: without any, scratch ones.
    mean, var = norm.running or x.new_zeros((2, N)).unbind()
    tensors = {
        "x": x,
        "weight": weight,
        "bias": bias.contiguous(),
        "scale": scale.contiguous(),
        "gamma": x.new_ones(N) if gamma is None else gamma.contiguous(),
        "beta": x.new_zeros(N) if beta is None else beta.contiguous(),
        "running_mean": mean.contiguous(),
        "running_var": var.contiguous(),
        "y": y,
    }
    counting: Literal["none", "count", "average"] = "none"
    if norm.counter is not None:
        tensors["num_batches_tracked"] = norm.counter
        counting = "count" if norm.momentum is not None else "average"
        if counting == "average":
            norm.counter.add_(1)
        else:
            torch.autograd.graph.increment_version(norm.counter)
    mode: Mode = "train" if norm.of_batch else "eval"
    problem = make_problem(M, N, K, DTYPES[x.dtype], precision, mode)
    launch(
        SPEC.name,
        problem,
        tensors,
        mode,
        eps=norm.eps,
        momentum=norm.momentum or 0.0,
        counter=counting,
        sources=(weight, bias, scale, gamma, beta, mean, var),
    )
    if norm.of_batch:
        for own, used in ((mean, tensors["running_mean"]), (var, tensors["running_var"])):
            if used is not own:
                own.copy_(used)
    return y
