"""fused_gemm_scale: y = (x @ weight.T + bias) * scale with the tuned config, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fusetune.core.problem import Precision, make_problem
from fusetune.kernels.gemm_scale import SPEC
from fusetune.runtime.dispatch import DTYPES, check_tensors, computed_by_pytorch, launch, wants_gradient


def fused_gemm_scale(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    scale: torch.Tensor,
    *,
    precision: Precision | None = None,
) -> torch.Tensor:
    """`(x @ weight.T + bias) * scale`, launched with the loaded config, otherwise with BASELINE.

    x [M, K], of any strides; weight [N, K] as nn.Linear keeps it; bias [N]; scale [N]; all of one dtype (float32,
    float16 or bfloat16) and on one device. Returns y [M, N], contiguous, of the same dtype; accumulated in float32.
    `precision` says how float32 is multiplied: tf32 (default), ieee, tf32x3 or bf16x3.

    CPU tensors are computed by PyTorch, in full precision. Gradients are PyTorch's too, once: the backward pass has
    no derivative of its own. Raises UsageError for shapes, dtypes or devices that do not fit.
    """
    check_tensors("fused_gemm_scale", x, weight, {"bias": bias, "scale": scale}, precision)
    if not wants_gradient(x, weight, bias, scale):
        return _forward(x, weight, bias, scale, precision)
    result: torch.Tensor = _FusedGemmScale.apply(x, weight, bias, scale, precision)
    return result


def linear_scale_gradients(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    z: torch.Tensor | None,
    needed: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Gradients for x, weight, bias and scale where `needed`; z = x @ weight.T + bias is read for that of scale."""
    need_x, need_weight, need_bias, need_scale = needed
    scaled = grad_y * scale
    return (
        scaled @ weight if need_x else None,
        scaled.T @ x if need_weight else None,
        scaled.sum(0) if need_bias else None,
        (grad_y * z).sum(0) if need_scale and z is not None else None,
    )


class _FusedGemmScale(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        scale: torch.Tensor,
        precision: Precision | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias, scale)
        return _forward(x, weight, bias, scale, precision)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, scale = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        # z is computed again instead of being taken from y / scale, which a scale of zero forbids.
        z = torch.nn.functional.linear(x, weight, bias) if needed[3] else None
        return (*linear_scale_gradients(grad_y, x, weight, scale, z, needed), None)


def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor, precision: Precision | None
) -> torch.Tensor:
    (M, K), N = x.shape, weight.shape[0]
    if computed_by_pytorch(x):
        return torch.nn.functional.linear(x, weight, bias) * scale
    if K == 0:
        return (bias * scale).expand(M, N).contiguous()
    y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    if y.numel():
        tensors = {"x": x, "weight": weight, "bias": bias.contiguous(), "scale": scale.contiguous(), "y": y}
        launch(SPEC.name, make_problem(M, N, K, DTYPES[x.dtype], precision), tensors, "scale")
    return y
