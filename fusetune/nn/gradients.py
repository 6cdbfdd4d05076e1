"""Backward formulas, written in PyTorch's differentiable operators, so that a second derivative is right as well."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

Gradients = tuple[torch.Tensor | None, ...]


def linear_scale_backward(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    needed: Sequence[bool],
    z: torch.Tensor | None = None,
) -> Gradients:
    """Gradients of y = z * scale, z = x @ weight.T + bias [M, N], for x, weight, bias and scale, where `needed`.

    z is computed again instead of being taken from y / scale, which a scale of zero forbids.
    """
    need_x, need_weight, need_bias, need_scale = needed
    grad_scale = None
    if need_scale:
        z = linear(x, weight, bias) if z is None else z
        grad_scale = (grad_y * z).sum(0).to(scale.dtype)
    if not (need_x or need_weight or need_bias):
        return None, None, None, grad_scale
    grad_z = (grad_y * scale).to(x.dtype)
    return (
        grad_z @ weight if need_x else None,
        grad_z.T @ x if need_weight else None,
        grad_z.sum(0) if need_bias else None,
        grad_scale,
    )


def batch_norm_backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    gamma: torch.Tensor | None,
    running: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of batch_norm(y) for x, weight, bias, scale, gamma and beta, where `needed`.

    `running` are mean and variance [N] of an evaluation; None takes those of the batch, computed again as y is.
    """
    need_y, need_gamma, need_beta = any(needed[:4]), needed[4], needed[5]
    z = linear(x, weight, bias)
    y = z * scale
    if running is None:
        _, mean, invstd = torch.native_batch_norm(y, gamma, None, None, None, True, 0.0, eps)
        grad_y, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
            grad_out.contiguous(), y, gamma, None, None, mean, invstd, True, eps, [need_y, need_gamma, need_beta]
        )
    else:
        grad_y, grad_gamma, grad_beta = _affine_backward(grad_out, y, gamma, running, eps, need_gamma)
    before: Gradients = (None,) * 4
    if need_y:
        before = linear_scale_backward(grad_y, x, weight, bias, scale, needed[:4], z)
    return (*before, grad_gamma if need_gamma else None, grad_beta if need_beta else None)


def _affine_backward(
    grad_out: torch.Tensor,
    y: torch.Tensor,
    gamma: torch.Tensor | None,
    running: tuple[torch.Tensor, torch.Tensor],
    eps: float,
    need_gamma: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Gradients of (y - mean) * invstd * gamma + beta for y, gamma and beta, in float32 or wider, then rounded.

    Written out: on a GPU native_batch_norm_backward wants the saved statistics, which an evaluation has not.
    """
    wide = torch.promote_types(y.dtype, torch.float32)
    mean, var = (vector.to(wide) for vector in running)
    invstd, grad = torch.rsqrt(var + eps), grad_out.to(wide)
    of_parameters = y.dtype if gamma is None else gamma.dtype
    grad_y = (grad * (invstd if gamma is None else invstd * gamma)).to(y.dtype)
    grad_gamma = (grad * (y - mean) * invstd).sum(0).to(of_parameters) if need_gamma else None
    return grad_y, grad_gamma, grad.sum(0).to(of_parameters)
