"""fused_gemm_scale: y = (x @ weight.T + bias) * scale with the tuned config, differentiable."""

from __future__ import annotations

import functools
from typing import Any, Final

import torch
from torch.nn.functional import linear

import fusetune.runtime.ops  # noqa: F401 - registers torch.ops.fusetune
from fusetune.core.problem import Precision, make_problem
from fusetune.errors import UsageError
from fusetune.kernels.gemm_scale import SPEC
from fusetune.runtime.bound import BoundPlan, BoundPlans
from fusetune.runtime.dispatch import DTYPES, check_tensors, computed_by_pytorch, launch, wants_gradient
from fusetune.runtime.gradients import Gradients, linear_scale_backward
from fusetune.runtime.guards import autocast_dtype, castable, way
from fusetune.runtime.plans import Plan

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

    x [..., K], of any strides, as nn.Linear takes it; weight [N, K]; bias [N] or None; scale [N]; all of one dtype
    (float32, float16 or bfloat16) and on one device; scale may be float32 beside 16 bits, and y is then float32, as
    PyTorch has it. Returns y [..., N], contiguous; accumulated in float32. Under autocast x, weight and bias are cast
    as nn.Linear's are. `precision` says how float32 is multiplied: tf32 (default), ieee, tf32x3 or bf16x3.

    CPU tensors are computed by PyTorch, in full precision; so are calls under torch.func's transforms and forward-mode
    differentiation. Raises UsageError for shapes, dtypes or devices that do not fit.
    """
    if torch.compiler.is_compiling():
        return _compiled(x, weight, bias, scale, precision)
    try:
        bound: BoundPlan | None = _bound((x.shape, id(weight), torch.is_grad_enabled(), precision))
    except AttributeError:  # no tensor at all
        bound = None
    if bound is not None and bound.check(x, weight, bias, scale):
        if bound.differentiates:
            y: torch.Tensor = _apply(bound, precision, x, weight, bias, scale)
            return y
        found = bound.compute((x, weight, bias, scale))
        if found is not None:
            return found
    return _checked(x, weight, bias, scale, precision)


def compute(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None = None,
) -> torch.Tensor:
    """The same for x [M, K], without a gradient, by a kernel or by PyTorch; the tensors are known to fit."""
    return _with_plan(x, weight, bias, scale, precision)[0]


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
    """Any call: find out whether it fits and which way it goes, and remember the way if it can be short."""
    vectors = {"scale": scale} if bias is None else {"bias": bias, "scale": scale}
    if isinstance(x, torch.Tensor) and x.dim() != 2 and x.dim() > 0:
        return as_rows(
            x, weight, functools.partial(_checked, weight=weight, bias=bias, scale=scale, precision=precision)
        )
    cast = autocast_dtype(x.device.type) if isinstance(x, torch.Tensor) else None
    given = x, weight, bias
    if cast is not None:
        x, weight, bias = (castable(tensor, cast) for tensor in given)
        vectors = {"scale": scale} if bias is None else {"bias": bias, "scale": scale}
    check_tensors(_NAME, x, weight, vectors, precision)
    tensors = [x, weight, *vectors.values()]
    direction = way(tensors)
    if direction == "pytorch" or computed_by_pytorch(x):
        with torch.autocast(x.device.type, enabled=False):
            return by_pytorch(x, weight, bias, scale)
    if direction == "operator":
        return _operator(x, weight, bias, scale, precision)
    if wants_gradient(*tensors):
        y: torch.Tensor = _FusedGemmScale.apply(None, precision, x, weight, bias, scale)
        plan, differentiates = y.grad_fn.plan, True
    else:
        (y, plan), differentiates = _with_plan(x, weight, bias, scale, precision), False
    if plan is not None and cast is None and bias is not None and bias.is_contiguous() and scale.is_contiguous():
        key = (x.shape, id(weight), torch.is_grad_enabled(), precision)
        BOUND.remember(key, plan, (x, weight, bias, scale), y, differentiates)
    return y


def as_rows(x: torch.Tensor, weight: torch.Tensor, function: Any) -> torch.Tensor:
    """`function` of x's rows [M, K], in the shape of x again: [..., N]. Raises UsageError where K is not weight's."""
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        seen = f"x {list(x.shape)}, weight {list(weight.shape)}"
        raise UsageError(f"{_NAME} needs x [..., K] and weight [N, K]; got {seen}")
    y: torch.Tensor = function(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _compiled(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None,
) -> torch.Tensor:
    """What torch.compile and torch.export see: one operator; on a CPU PyTorch's own, which they know how to fuse."""
    cast = autocast_dtype(x.device.type)
    if cast is not None:
        x, weight, bias = castable(x, cast), castable(weight, cast), castable(bias, cast)
    if x.device.type == "cpu":
        return by_pytorch(x, weight, bias, scale)
    if x.dim() == 2:
        return _operator(x, weight, bias, scale, precision)
    return _operator(x.reshape(-1, x.shape[-1]), weight, bias, scale, precision).reshape(*x.shape[:-1], weight.shape[0])


def _operator(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    precision: Precision | None,
) -> torch.Tensor:
    y: torch.Tensor = torch.ops.fusetune.gemm_scale(x, weight, bias, scale, precision)
    return y


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
    if computed_by_pytorch(x):
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
