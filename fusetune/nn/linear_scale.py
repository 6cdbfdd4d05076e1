"""fused_gemm_scale: y = (x @ weight.T + bias) * scale with the tuned config, differentiable."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch.nn.functional import linear

from fusetune.errors import UsageError
from fusetune.nn.bound import BoundPlan, BoundPlans
from fusetune.nn.dispatch import DTYPES, check_tensors, computed_by_pytorch, fits, launch, wants_gradient
from fusetune.nn.gradients import Gradients, linear_scale_backward
from fusetune.nn.guards import autocast_dtype, castable, is_exporting, stands_for_tensors, traced, way
from fusetune.nn.operators import implement
from fusetune.nn.plans import Plan
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import Precision, make_problem

_NAME: Final = "fused_gemm_scale"
BOUND: Final = BoundPlans()
_bound = BOUND.get


def fused_gemm_scale(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    *,
    precision: Precision | None = None,
) -> torch.Tensor:
    """`(x @ weight.T + bias) * scale`, launched with the loaded config, otherwise with BASELINE.

    x [..., K], of any strides, as nn.Linear takes it; weight [N, K]; bias [N] or None; scale [N]. Returns y [..., N],
    contiguous; accumulated in float32. Under autocast x, weight and bias are cast as nn.Linear's are. `precision` says
    how float32 is multiplied: tf32 (default), ieee, tf32x3 or bf16x3.

    Kernels compute CUDA tensors of float32, float16 or bfloat16, with a scale of that dtype or of float32, and y is of
    the dtype that PyTorch gives. All else is computed by PyTorch: other dtypes and devices, the CPU's in full
    precision; torch.func's transforms, forward-mode differentiation, export, modes, tracers and tensor subclasses.
    Raises UsageError for shapes, dtypes or devices that do not fit.
    """
    if not traced():
        # As in fused_call, written out: calling it costs a call that was made before a hundredth of its time.
        try:
            bound: BoundPlan | None = _bound((x.shape, id(weight), torch.is_grad_enabled(), precision))
        except (AttributeError, TypeError):  # no tensor at all
            bound = None
        if bound is not None and bound.check(x, weight, bias, scale):
            if bound.differentiates:
                y: torch.Tensor = _apply(bound, precision, x, weight, bias, scale)
                return y
            found = bound.compute((x, weight, bias, scale))
            if found is not None:
                return found
    fused = fused_call(x, weight, bias, scale, precision)
    if fused is not None:
        return fused
    if torch.compiler.is_compiling():
        return _compiled(x, weight, bias, scale)
    return _checked(x, weight, bias, scale, precision)


def fused_call(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    precision: Precision | None = None,
) -> torch.Tensor | None:
    """The same where a kernel computes it and PyTorch would give the same; None where it is PyTorch's to compute."""
    if traced():
        if is_exporting() or scale is None or not fits(x, weight, bias, scale, compiling=True):
            return None
        return _operator(x, weight, bias, scale, precision)
    try:
        bound: BoundPlan | None = _bound((x.shape, id(weight), torch.is_grad_enabled(), precision))
    except (AttributeError, TypeError):  # no tensor at all
        bound = None
    if bound is not None and bound.check(x, weight, bias, scale):
        if bound.differentiates:
            y: torch.Tensor = _apply(bound, precision, x, weight, bias, scale)
            return y
        found = bound.compute((x, weight, bias, scale))
        if found is not None:
            return found
    if precision is not None or scale is None or not fits(x, weight, bias, scale, compiling=False):
        return None
    return _launched(x, weight, bias, scale, None)


def compute(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None = None,
) -> torch.Tensor:
    """The same for x [M, K], without a gradient, by a kernel or by PyTorch; the tensors are known to fit."""
    return _with_plan(x, weight, bias, scale, precision)[0]


implement(SPEC.name, compute)


def by_pytorch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor) -> torch.Tensor:
    """The same in PyTorch's own operators."""
    return linear(x, weight, bias) * scale


def _checked(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None,
) -> torch.Tensor:
    """Any other call of the function: tell what does not fit, and find out which way it goes."""
    if stands_for_tensors((x, weight, bias, scale)):
        return by_pytorch(x, weight, bias, scale)
    if isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor) and x.dim() not in {0, 2}:
        if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
            seen = f"x {list(x.shape)}, weight {list(weight.shape)}"
            raise UsageError(f"{_NAME} needs x [..., K] and weight [N, K]; got {seen}")
        return _in_shape(x, _checked(_rows(x), weight, bias, scale, precision), weight)
    given = x, weight, bias
    cast = autocast_dtype(x.device.type) if isinstance(x, torch.Tensor) else None
    if cast is not None:
        x, weight, bias = castable(x, cast), castable(weight, cast), castable(bias, cast)
    vectors = {"scale": scale} if bias is None else {"bias": bias, "scale": scale}
    check_tensors(_NAME, x, weight, vectors, precision)
    if way([x, weight, *vectors.values()]) == "pytorch" or computed_by_pytorch(x, scale):
        with without_autocast(x):
            return by_pytorch(x, weight, bias, scale)
    return _launched(*given, scale, precision)


def _launched(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None,
) -> torch.Tensor:
    """By a kernel, which can; the way is remembered if it can be short."""
    if x.dim() != 2:
        return _in_shape(x, _launched(_rows(x), weight, bias, scale, precision), weight)
    cast = autocast_dtype(x.device.type)
    if cast is not None:
        x, weight, bias = castable(x, cast), castable(weight, cast), castable(bias, cast)
    if wants_gradient(x, weight, bias, scale):
        y: torch.Tensor = _FusedGemmScale.apply(None, precision, x, weight, bias, scale)
        plan, differentiates = y.grad_fn.plan, True
    else:
        (y, plan), differentiates = _with_plan(x, weight, bias, scale, precision), False
    if plan is not None and cast is None and bias is not None and bias.is_contiguous() and scale.is_contiguous():
        key = (x.shape, id(weight), torch.is_grad_enabled(), precision)
        BOUND.remember(key, plan, (x, weight, bias, scale), y, differentiates)
    return y


def _rows(x: torch.Tensor) -> torch.Tensor:
    """X [..., K] as [M, K], of any size: reshape(-1, K) does not know how many rows there are where K is zero."""
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


def _in_shape(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Y [M, N] as [..., N]."""
    return y.reshape(*x.shape[:-1], weight.shape[0])


def without_autocast(x: torch.Tensor) -> AbstractContextManager[Any]:
    """Autocast off on x's kind of device, where it exists."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _compiled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor) -> torch.Tensor:
    """What torch.compile and torch.export see where no kernel computes: PyTorch's own, which they know how to fuse."""
    cast = autocast_dtype(x.device.type)
    if cast is not None:
        x, weight, bias = castable(x, cast), castable(weight, cast), castable(bias, cast)
    return by_pytorch(x, weight, bias, scale)


def _operator(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None,
) -> torch.Tensor:
    """What torch.compile sees where a kernel computes: one operator; x is [..., K]."""
    cast = autocast_dtype(x.device.type)
    if cast is not None:
        x, weight, bias = castable(x, cast), castable(weight, cast), castable(bias, cast)
    if x.dim() == 2:
        y: torch.Tensor = torch.ops.fusetune.gemm_scale(x, weight, bias, scale, precision)
        return y
    return _in_shape(x, torch.ops.fusetune.gemm_scale(_rows(x), weight, bias, scale, precision), weight)


class _FusedGemmScale(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        bound: BoundPlan | None,
        precision: Precision | None,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias, scale)
        if bound is not None and bias is not None:
            found = bound.compute((x, weight, bias, scale))
            if found is not None:
                return found
        y, ctx.plan = _with_plan(x, weight, bias, scale, precision)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> Gradients:
        x, weight, bias, scale = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            gradients = linear_scale_backward(grad_y, x, weight, bias, scale, ctx.needs_input_grad[2:])
        return (None, None, *gradients)


_apply = super(torch.autograd.Function, _FusedGemmScale).apply
"""Past the checks for torch.func's transforms, which a BoundPlan has made."""


def _with_plan(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None,
) -> tuple[torch.Tensor, Plan | None]:
    (M, K), N = x.shape, weight.shape[0]
    dtype = torch.promote_types(x.dtype, scale.dtype)
    if computed_by_pytorch(x, scale):
        return by_pytorch(x, weight, bias, scale), None
    if K == 0:
        return (scale.new_zeros(N) if bias is None else bias * scale).to(dtype).expand(M, N).contiguous(), None
    y = torch.empty((M, N), dtype=dtype, device=x.device)
    if not y.numel():
        return y, None
    given = zeros(N, x.dtype, x.device) if bias is None else bias.contiguous()
    tensors = {"x": x, "weight": weight, "bias": given, "scale": scale.contiguous(), "y": y}
    plan = launch(SPEC.name, make_problem(M, N, K, DTYPES[x.dtype], precision), tensors, "scale")
    if plan is None:
        return by_pytorch(x, weight, bias, scale), None
    return y, plan


def zeros(N: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A vector [N] of zeros, for a bias or a beta that is left out."""
    return torch.zeros(N, dtype=dtype, device=device)
