"""fused_gemm_scale_batch_norm: BatchNorm1d((x @ weight.T + bias) * scale) with the tuned config, differentiable."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn.functional import batch_norm, linear

from fusetune.nn.bound import BoundPlan, BoundPlans
from fusetune.nn.dispatch import (
    DTYPES,
    Counter,
    check_tensors,
    computed_by_pytorch,
    launch,
    wants_gradient,
)
from fusetune.nn.gradients import Gradients, batch_norm_backward
from fusetune.nn.guards import autocast_dtype, castable, is_exporting, stands_for_tensors, traced, way
from fusetune.nn.linear_scale import without_autocast
from fusetune.nn.norms import Inputs, Norm, checked_norm, common_dtype, known_norm
from fusetune.nn.operators import implement
from fusetune.nn.plans import Plan
from fusetune.ops.gemm_scale.batch_norm import SPEC
from fusetune.ops.gemm_scale.problem import Mode, Precision, make_problem

_NAME: Final = "fused_gemm_scale_batch_norm"
BOUND: Final = BoundPlans()
_bound = BOUND.get


def fused_gemm_scale_batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
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

    x [M, K], of any strides; weight [N, K]; all others [N]. x, weight and bias have one dtype; what follows has that of
    x or of the scaled product, or float32. Returns y [M, N], contiguous, of the dtype that PyTorch gives
    (x @ weight.T) * scale. bias may be None, and gamma and beta, for one and zero.

    In training y has the batch's mean and variance, and running_mean, running_var and num_batches_tracked (int64, one
    element; may be None) are updated in place; momentum None makes them averages over all batches so far. Without
    running statistics y always has the batch's. `precision`, what kernels compute and what PyTorch, and gradients (of
    x, weight, bias, scale, gamma and beta) are as in `fused_gemm_scale`.

    Raises UsageError for tensors that do not fit, and PyTorch's ValueError for one row to take statistics of, which
    changes nothing.
    """
    y = fused_call(
        x, weight, bias, scale, gamma, beta, running_mean, running_var, training, momentum, eps, num_batches_tracked,
        precision,
    )  # fmt: skip
    if y is not None:
        return y
    inputs = Inputs(x, weight, bias, scale, gamma, beta)
    if torch.compiler.is_compiling():
        return _compiled(inputs, running_mean, running_var, training, momentum, eps, num_batches_tracked)
    return _checked(inputs, running_mean, running_var, training, momentum, eps, num_batches_tracked, precision)


def fused_call(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    gamma: torch.Tensor | None,
    beta: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    num_batches_tracked: torch.Tensor | None,
    precision: Precision | None,
) -> torch.Tensor | None:
    """The same where a kernel computes it and PyTorch would give the same; None where it is PyTorch's to compute.

    Without keywords, whose binding a module's every call would pay for.
    """
    if traced():
        if is_exporting() or scale is None:
            return None
        inputs = Inputs(x, weight, bias, scale, gamma, beta)
        norm = known_norm(inputs, running_mean, running_var, training, momentum, eps, num_batches_tracked, True)
        return None if norm is None else _operator(inputs, norm, precision)
    if not training or momentum is not None:
        tensors: tuple[Any, ...] = (x, weight, bias, scale, gamma, beta, running_mean, running_var)
        if training and num_batches_tracked is not None:
            tensors += (num_batches_tracked,)
        try:
            bound: BoundPlan | None = _bound((x.shape, id(weight), torch.is_grad_enabled(), training, eps, precision))
        except (AttributeError, TypeError):  # no tensor at all
            bound = None
        if bound is not None and bound.check(*tensors):
            found = _shortly(bound, tensors, training, momentum, eps, precision)
            if found is not None:
                return found
    if precision is not None or scale is None:
        return None
    inputs = Inputs(x, weight, bias, scale, gamma, beta)
    known = known_norm(inputs, running_mean, running_var, training, momentum, eps, num_batches_tracked, False)
    return None if known is None else _launched(inputs, known, training, None)


def averaged_call(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor, bn: torch.nn.BatchNorm1d
) -> torch.Tensor | None:
    """What torch.compile sees of a BatchNorm1d that averages over all batches, in training, where no kernel computes.

    nn.BatchNorm1d reads their number on the host, which ends a graph; here it stays a tensor. None where PyTorch would
    not take it: its own module says why.
    """
    mean, var, counter = bn.running_mean, bn.running_var, bn.num_batches_tracked
    if counter is None or mean is None or var is None or counter.dtype != torch.int64 or x.shape[0] == 1:
        return None
    dtype = torch.promote_types(x.dtype, scale.dtype)
    if common_dtype(dtype, (bn.weight, bn.bias, mean, var)) is not None:
        return None
    return _compiled(Inputs(x, weight, bias, scale, bn.weight, bn.bias), mean, var, True, None, bn.eps, counter)


def compute_eval(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    gamma: torch.Tensor | None,
    beta: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    eps: float,
    precision: Precision | None = None,
) -> torch.Tensor:
    """The same in evaluation, for x [M, K], without a gradient, by a kernel or by PyTorch."""
    norm = Norm(of_batch=False, running=(running_mean, running_var), counter=None, momentum=0.0, eps=eps)
    return _forward(Inputs(x, weight, bias, scale, gamma, beta), norm, precision)[0]


def compute_train(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    gamma: torch.Tensor | None,
    beta: torch.Tensor | None,
    eps: float,
    precision: Precision | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output in training, the batch's mean and unbiased variance [N] in float32 or wider; without a gradient."""
    inputs = Inputs(x, weight, bias, scale, gamma, beta)
    dtype = torch.promote_types(torch.promote_types(x.dtype, scale.dtype), torch.float32)
    # With a momentum of one the running statistics become the batch's.
    mean, var = (torch.zeros(weight.shape[0], dtype=dtype, device=x.device) for _ in range(2))
    y, _ = _forward(inputs, Norm(of_batch=True, running=(mean, var), counter=None, momentum=1.0, eps=eps), precision)
    return y, mean, var


implement(f"{SPEC.name}_eval", compute_eval)
implement(f"{SPEC.name}_train", compute_train)


def _shortly(
    bound: BoundPlan,
    tensors: Any,
    training: bool,
    momentum: float | None,
    eps: float,
    precision: Precision | None,
) -> torch.Tensor | None:
    """A call that was made before; None where it cannot be short after all."""
    if bound.differentiates:
        counter = tensors[8] if len(tensors) > 8 else None
        norm = Norm(training, (tensors[6], tensors[7]), counter, momentum, eps)
        y: torch.Tensor = _apply(bound, norm, precision, *tensors[:6])
        return y
    found = bound.compute(tensors, eps, momentum or 0.0)
    if training and found is not None:
        torch._C._increment_version(tensors[6:])
    return found


def _checked(
    inputs: Inputs,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    num_batches_tracked: torch.Tensor | None,
    precision: Precision | None,
) -> torch.Tensor:
    """Any other call of the function: tell what does not fit, and find out which way it goes."""
    given = {**inputs._asdict(), "running_mean": running_mean, "running_var": running_var}
    if stands_for_tensors((*given.values(), num_batches_tracked)):
        has_running = running_mean is not None and running_var is not None
        running: Any = (running_mean, running_var) if has_running else None
        counter = num_batches_tracked if training and has_running else None
        return _by_pytorch(inputs, Norm(training or not has_running, running, counter, momentum, eps))
    product = _cast(inputs)
    vectors = {
        name: vector
        for name, vector in {**given, "bias": product.bias}.items()
        if vector is not None and name not in {"x", "weight"}
    }
    check_tensors(_NAME, product.x, product.weight, vectors, precision)
    x, weight, *_ = product
    norm = checked_norm(_NAME, x, vectors, training, momentum, eps, num_batches_tracked)
    (M, K), N = x.shape, weight.shape[0]
    direction = way([x, weight, *vectors.values()])
    if direction == "pytorch" or M * K * N == 0 or eps <= 0 or (norm.of_batch and M == 1):
        # What PyTorch alone has an answer or an error for.
        with without_autocast(x):
            return _by_pytorch(product, norm)
    return _launched(inputs, norm, training, precision)


def _cast(inputs: Inputs) -> Inputs:
    """As autocast has them, where it is on."""
    cast = autocast_dtype(inputs.x.device.type) if isinstance(inputs.x, torch.Tensor) else None
    if cast is None:
        return inputs
    x, weight, bias, *rest = inputs
    return Inputs(*(castable(tensor, cast) for tensor in (x, weight, bias)), *rest)


def _launched(inputs: Inputs, norm: Norm, training: bool, precision: Precision | None) -> torch.Tensor:
    """By a kernel, which can; the way is remembered if it can be short."""
    given, inputs = inputs, _cast(inputs)
    if wants_gradient(*inputs):
        y: torch.Tensor = _FusedGemmScaleBatchNorm.apply(None, norm, precision, *inputs)
        plan, differentiates = y.grad_fn.plan, True
    else:
        (y, plan), differentiates = _forward(inputs, norm, precision), False
    if (
        plan is not None
        and inputs is given
        and (not training or norm.momentum is not None)
        and norm.running is not None
    ):
        tensors = [*inputs, *norm.running, *([] if norm.counter is None else [norm.counter])]
        if all(tensor is not None and tensor.is_contiguous() for tensor in tensors[2:]):
            key = (inputs.x.shape, id(inputs.weight), torch.is_grad_enabled(), training, norm.eps, precision)
            BOUND.remember(key, plan, tensors, y, differentiates)
    return y


def _compiled(
    inputs: Inputs,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    num_batches_tracked: torch.Tensor | None,
) -> torch.Tensor:
    """What torch.compile and torch.export see where no kernel computes: PyTorch's own, which they know how to fuse."""
    inputs = _cast(inputs)
    has_running = running_mean is not None and running_var is not None
    of_batch = training or not has_running
    if of_batch and inputs.x.shape[0] == 1:
        shape = [1, inputs.weight.shape[0]]
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")
    counter = num_batches_tracked if training and has_running else None
    running: Any = (running_mean, running_var) if has_running else None
    norm = Norm(of_batch, running, counter, momentum, eps)
    if momentum is not None or counter is None:
        return _by_pytorch(inputs, norm)
    # The batch's statistics first: how many batches there were is not read on the host.
    dtype = torch.promote_types(torch.promote_types(inputs.x.dtype, inputs.scale.dtype), torch.float32)
    mean, var = (torch.zeros_like(statistic, dtype=dtype) for statistic in running)
    y = _by_pytorch(inputs, norm._replace(running=(mean, var), counter=None, momentum=1.0))
    _update(norm, mean, var)
    return y


def _operator(inputs: Inputs, norm: Norm, precision: Precision | None) -> torch.Tensor:
    """What torch.compile sees where a kernel computes: an operator, and the running statistics updated beside it."""
    ops, inputs = torch.ops.fusetune, _cast(inputs)
    if not norm.of_batch:
        assert norm.running is not None, "an evaluation without running statistics takes the batch's"
        y: torch.Tensor = ops.gemm_scale_bn_eval(*inputs, *norm.running, norm.eps, precision)
        return y
    y, mean, var = ops.gemm_scale_bn_train(*inputs, norm.eps, precision)
    _update(norm, mean, var)
    return y


def _update(norm: Norm, mean: torch.Tensor, var: torch.Tensor) -> None:
    """Take the batch's statistics into the running ones, and count it."""
    if norm.running is None:
        return
    with torch.no_grad():
        share: float | torch.Tensor = norm.momentum or 0.0
        if norm.counter is not None:
            norm.counter.add_(1)
            if norm.momentum is None:
                share = norm.counter.to(mean.dtype).reciprocal()
        for running, batch in zip(norm.running, (mean, var), strict=True):
            kept = running.to(batch.dtype)
            running.copy_(kept + (batch - kept) * share)


class _FusedGemmScaleBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, bound: BoundPlan | None, norm: Norm, precision: Precision | None, *tensors: Any
    ) -> torch.Tensor:
        # The batch's own statistics are computed again: saving the running ones would refuse two steps before a
        # backward pass, as they change.
        mean, var = (None, None) if norm.of_batch or norm.running is None else norm.running
        ctx.save_for_backward(*tensors[:5], mean, var)
        ctx.of_batch, ctx.eps = norm.of_batch, norm.eps
        if bound is not None and norm.running is not None:
            all_of_them = (*tensors, *norm.running) if norm.counter is None else (*tensors, *norm.running, norm.counter)
            found = bound.compute(all_of_them, norm.eps, norm.momentum or 0.0)
            if found is not None:
                if norm.of_batch:
                    torch._C._increment_version(all_of_them[6:])
                return found
        y, ctx.plan = _forward(Inputs(*tensors), norm, precision)
        return y

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> Gradients:
        x, weight, bias, scale, gamma, mean, var = ctx.saved_tensors
        running, needed = None if ctx.of_batch else (mean, var), ctx.needs_input_grad[3:]
        with torch.autocast(grad_out.device.type, enabled=False):
            gradients = batch_norm_backward(grad_out, x, weight, bias, scale, gamma, running, ctx.eps, needed)
        return (None, None, None, *gradients)


_apply = super(torch.autograd.Function, _FusedGemmScaleBatchNorm).apply
"""Past the checks for torch.func's transforms, which a BoundPlan has made."""


def _forward(inputs: Inputs, norm: Norm, precision: Precision | None) -> tuple[torch.Tensor, Plan | None]:
    """The output, with the plan that gave it where there is one, and the running statistics' versions moved on."""
    x, weight = inputs.x, inputs.weight
    plan = None
    if computed_by_pytorch(x, inputs.scale) or x.numel() == 0 or weight.shape[0] == 0:
        y = _by_pytorch(inputs, norm)
    else:
        y, plan = _by_kernel(inputs, norm, precision)
    if norm.of_batch and norm.running is not None:
        # Neither a kernel nor PyTorch's own batch_norm does: a backward pass that saved them has to notice.
        torch.autograd.graph.increment_version(norm.running)
    return y, plan


def _by_pytorch(inputs: Inputs, norm: Norm) -> torch.Tensor:
    x, weight, bias, scale, gamma, beta = inputs
    mean, var = norm.running or (None, None)
    momentum = norm.momentum
    if momentum is None and norm.counter is not None:
        momentum = 1.0 / (int(norm.counter) + 1)
    scaled = linear(x, weight, bias) * scale
    vectors = gamma, beta, mean, var
    wide = common_dtype(scaled.dtype, vectors) if isinstance(scaled, torch.Tensor) else None
    if wide is not None:
        gamma, beta, mean, var = (None if vector is None else vector.to(wide) for vector in vectors)
    y = batch_norm(scaled, mean, var, gamma, beta, norm.of_batch, momentum or 0.0, norm.eps)
    if norm.of_batch and norm.running is not None and mean is not None and var is not None:
        for own, used in zip(norm.running, (mean, var), strict=True):
            if used is not own:
                own.copy_(used)
    if norm.counter is not None:
        norm.counter.add_(1)
    return y


def _by_kernel(inputs: Inputs, norm: Norm, precision: Precision | None) -> tuple[torch.Tensor, Plan | None]:
    x, weight, bias, scale, gamma, beta = inputs
    (M, K), N = x.shape, weight.shape[0]
    y = x.new_empty((M, N), dtype=torch.promote_types(x.dtype, scale.dtype))
    # A kernel always reads and, in training, always writes running statistics: without any, scratch ones.
    mean, var = norm.running or x.new_zeros((2, N)).unbind()
    tensors = {
        "x": x,
        "weight": weight,
        "bias": x.new_zeros(N) if bias is None else bias.contiguous(),
        "scale": scale.contiguous(),
        "gamma": x.new_ones(N) if gamma is None else gamma.contiguous(),
        "beta": x.new_zeros(N) if beta is None else beta.contiguous(),
        "running_mean": mean.contiguous(),
        "running_var": var.contiguous(),
    }
    counting: Counter = "none"
    if norm.counter is not None:
        counting = "count" if norm.momentum is not None else "average"
        if counting == "average":
            norm.counter.add_(1)
        tensors["num_batches_tracked"] = norm.counter
    mode: Mode = "train" if norm.of_batch else "eval"
    plan = launch(
        SPEC.name,
        make_problem(M, N, K, DTYPES[x.dtype], precision, mode),
        {**tensors, "y": y},
        mode,
        eps=norm.eps,
        momentum=norm.momentum or 0.0,
        counter=counting,
        sources=(weight, bias, scale, gamma, beta, mean, var),
    )
    if plan is None:
        if counting == "average" and norm.counter is not None:
            norm.counter.sub_(1)  # counted by PyTorch's way, too
        return _by_pytorch(inputs, norm), None
    if norm.counter is not None and counting == "count":
        torch.autograd.graph.increment_version(norm.counter)
    if norm.of_batch:
        for own, used in ((mean, tensors["running_mean"]), (var, tensors["running_var"])):
            if used is not own:
                own.copy_(used)
    return y, plan
