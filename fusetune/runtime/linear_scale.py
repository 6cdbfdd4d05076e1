"""fused_gemm_scale: y = (x @ weight.T + bias) * scale with the tuned config, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fusetune.core.config import BASELINE
from fusetune.core.problem import PRECISIONS, Dtype, Precision, make_problem
from fusetune.errors import UsageError
from fusetune.kernels.gemm_scale import SPEC
from fusetune.runtime.configs import config_for

_DTYPES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def fused_gemm_scale(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    scale: torch.Tensor,
    *,
    precision: Precision | None = None,
) -> torch.Tensor:
    """`(x @ weight.T + bias) * scale` in one kernel, launched with the loaded config, otherwise with BASELINE.

    x [M, K], of any strides; weight [N, K] as nn.Linear keeps it; bias [N]; scale [N]; all of one dtype (float32,
    float16 or bfloat16) and on one device. Returns y [M, N], contiguous, of the same dtype; accumulated in float32.
    `precision` says how float32 is multiplied: tf32 (default), ieee, tf32x3 or bf16x3.

    CPU tensors are computed by PyTorch, in full precision. Gradients are PyTorch's too, once: the backward pass has
    no derivative of its own. Raises UsageError for shapes, dtypes or devices that do not fit.
    """
    _check(x, weight, bias, scale, precision)
    result: torch.Tensor = _FusedGemmScale.apply(x, weight, bias, scale, precision)
    return result


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
        need_x, need_weight, need_bias, need_scale, _ = ctx.needs_input_grad
        scaled = grad_y * scale
        # z is computed again instead of being taken from y / scale, which a scale of zero forbids.
        z = torch.nn.functional.linear(x, weight, bias) if need_scale else None
        return (
            scaled @ weight if need_x else None,
            scaled.T @ x if need_weight else None,
            scaled.sum(0) if need_bias else None,
            (grad_y * z).sum(0) if z is not None else None,
            None,
        )


def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor, precision: Precision | None
) -> torch.Tensor:
    (M, K), N = x.shape, weight.shape[0]
    interpreted = _interpreting()
    if x.device.type == "cpu" and (not interpreted or x.dtype not in _DTYPES):
        return torch.nn.functional.linear(x, weight, bias) * scale
    if interpreted and x.dtype == torch.bfloat16:
        # github.com/triton-lang/triton/issues/11584: its tl.dot takes their bits for integers.
        raise UsageError("Triton's interpreter cannot multiply bfloat16; unset TRITON_INTERPRET, or use float32")
    if K == 0:
        return (bias * scale).expand(M, N).contiguous()
    y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    problem = make_problem(M, N, K, _DTYPES[x.dtype], precision)
    # Triton's interpreter has no GPU to look up a config for.
    config = BASELINE if interpreted else config_for(SPEC.name, problem, x.device.index)
    tensors = {"x": x, "weight": weight, "bias": bias.contiguous(), "scale": scale.contiguous(), "y": y}
    launches = SPEC.launches(problem, config, tensors)
    if interpreted:
        for launch in launches:
            launch.run()
        return y
    with torch.cuda.device(x.device):
        for launch in launches:
            launch.run()
    return y


def _interpreting() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret)


def _check(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor, precision: Precision | None
) -> None:
    tensors = {"x": x, "weight": weight, "bias": bias, "scale": scale}
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise UsageError(f"fused_gemm_scale needs x [M, K] and weight [N, K]; got {shapes}")
    if bias.shape != weight.shape[:1] or scale.shape != weight.shape[:1]:
        raise UsageError(f"fused_gemm_scale needs bias [N] and scale [N] for weight [N, K]; got {shapes}")
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if len(set(dtypes.values())) > 1 or (x.dtype not in _DTYPES and x.device.type != "cpu"):
        seen = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise UsageError(f"fused_gemm_scale needs one dtype, float32, float16 or bfloat16, for all; got {seen}")
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1 or x.device.type not in {"cuda", "cpu"}:
        seen = ", ".join(f"{name} {device}" for name, device in devices.items())
        raise UsageError(f"fused_gemm_scale needs all tensors on one CUDA or CPU device; got {seen}")
    if precision is not None and x.dtype != torch.float32:
        raise UsageError(f"precision {precision!r} applies to float32 only; leave it out for {x.dtype}")
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
