"""The ops as PyTorch's dispatcher knows them, `torch.ops.fusetune.*`: what torch.compile sees where a kernel computes.

    gemm_scale(x, weight, bias, scale, precision) -> y
    gemm_scale_bn_eval(x, weight, bias, scale, gamma, beta, running_mean, running_var, eps, precision) -> y
    gemm_scale_bn_train(x, weight, bias, scale, gamma, beta, eps, precision) -> (y, mean, var)

All are functional: training returns the batch's mean and unbiased variance [N], float32 for 16 bits too, and leaves the
running ones to its caller. Importing this defines them, which takes no GPU and no Triton; who computes them says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from fusetune.errors import UsageError
from fusetune.nn.gradients import Gradients, batch_norm_backward, linear_scale_backward

_PRODUCT: Final = "Tensor x, Tensor weight, Tensor? bias, Tensor scale"
_SCHEMAS: Final = {
    "gemm_scale": f"({_PRODUCT}, str? precision=None) -> Tensor",
    "gemm_scale_bn_eval": (
        f"({_PRODUCT}, Tensor? gamma, Tensor? beta, Tensor running_mean, Tensor running_var, float eps, "
        "str? precision=None) -> Tensor"
    ),
    "gemm_scale_bn_train": (
        f"({_PRODUCT}, Tensor? gamma, Tensor? beta, float eps, str? precision=None) -> (Tensor, Tensor, Tensor)"
    ),
}
LIBRARY: Final = torch.library.Library("fusetune", "DEF")


def implement(name: str, compute: Callable[..., Any]) -> None:
    """Have an operator computed by this function, which its own module gives: one that knows nothing of modules above.

    Until then it has a schema, a shape and gradients alone.
    """
    for key in ("CUDA", "CPU"):
        LIBRARY.impl(name, compute, key)


def _register() -> None:
    for name, schema in _SCHEMAS.items():
        LIBRARY.define(name + schema, tags=(torch.Tag.needs_fixed_stride_order,))
    register = torch.library
    register.register_fake("fusetune::gemm_scale", _fake, lib=LIBRARY)
    register.register_fake("fusetune::gemm_scale_bn_eval", _fake, lib=LIBRARY)
    register.register_fake("fusetune::gemm_scale_bn_train", _fake_train, lib=LIBRARY)
    register.register_autograd("fusetune::gemm_scale", _backward, setup_context=_save, lib=LIBRARY)
    register.register_autograd("fusetune::gemm_scale_bn_eval", _backward_eval, setup_context=_save_eval, lib=LIBRARY)
    register.register_autograd("fusetune::gemm_scale_bn_train", _backward_train, setup_context=_save_train, lib=LIBRARY)


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: Any, scale: torch.Tensor, *rest: Any) -> torch.Tensor:
    if x.dim() != 2 or weight.dim() != 2:
        seen = f"x {list(x.shape)}, weight {list(weight.shape)}"
        raise UsageError(f"fusetune's operators need x [M, K] and weight [N, K]; got {seen}")
    torch._check(x.shape[1] == weight.shape[1], lambda: "x [M, K] and weight [N, K] differ in K")
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.promote_types(x.dtype, scale.dtype))


def _fake_train(
    x: torch.Tensor, weight: torch.Tensor, bias: Any, scale: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:
    y = _fake(x, weight, bias, scale)
    dtype = torch.promote_types(y.dtype, torch.float32)
    return y, y.new_empty(weight.shape[0], dtype=dtype), y.new_empty(weight.shape[0], dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, grad_y: torch.Tensor) -> Gradients:
    x, weight, bias, scale = ctx.saved_tensors
    return (*linear_scale_backward(grad_y, x, weight, bias, scale, ctx.needs_input_grad[:4]), None)


def _save_eval(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, scale, gamma, _, mean, var, ctx.eps, _ = inputs
    ctx.save_for_backward(x, weight, bias, scale, gamma, mean, var)


def _backward_eval(ctx: Any, grad_y: torch.Tensor) -> Gradients:
    x, weight, bias, scale, gamma, *running = ctx.saved_tensors
    needed = ctx.needs_input_grad[:6]
    gradients = batch_norm_backward(grad_y, x, weight, bias, scale, gamma, (running[0], running[1]), ctx.eps, needed)
    return (*gradients, None, None, None, None)


def _save_train(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.eps = inputs[6]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:5])


def _backward_train(ctx: Any, grad_y: torch.Tensor, *of_statistics: Any) -> Gradients:
    x, weight, bias, scale, gamma = ctx.saved_tensors
    needed = ctx.needs_input_grad[:6]
    gradients = batch_norm_backward(grad_y, x, weight, bias, scale, gamma, None, ctx.eps, needed)
    return (*gradients, None, None)


_register()
