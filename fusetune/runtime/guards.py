"""Which way a call goes: whether its tensors, and the state of PyTorch, let a kernel be launched at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import torch
from torch.autograd import forward_ad

Way = Literal["kernel", "operator", "pytorch"]

Check = Callable[..., bool]

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)
_NATIVE_GUARDS_IN: Final = {(2, 11), (2, 13)}
"""Versions of PyTorch with whose TensorGuards this is tested: a private class, made for torch.compile's own guards.

Another version is added once tests/unit/runtime/test_operators.py and tests/gpu/test_runtime.py pass with it."""


def way(tensors: Sequence[torch.Tensor]) -> Way:
    """How these tensors are to be computed, now and in this thread.

    `kernel`: at once. `operator`: through PyTorch's dispatcher, since somebody wants to see or to replace the call: a
    dispatch mode, a tracer, a subclass of Tensor. `pytorch`: by PyTorch's own operators, which alone know what to do
    under the transforms of torch.func and under forward-mode differentiation.
    """
    if torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0:
        return "pytorch"
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or any(type(tensor) not in _PLAIN for tensor in tensors)
    ):
        return "operator"
    return "kernel"


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype that autocast wants products in on this kind of device, or None while it is off there."""
    if device_type not in {"cuda", "cpu"} or not torch.is_autocast_enabled(device_type):
        return None
    dtype: torch.dtype = torch.get_autocast_dtype(device_type)
    return dtype


def castable(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The tensor as autocast has it: floating point but double is cast."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


def make_check(tensors: Sequence[torch.Tensor]) -> Check:
    """A function of as many arguments: whether they, and PyTorch's state, are to these tensors' likeness.

    True promises the same types, dtypes, device, shapes, strides and wishes for a gradient, and that no mode,
    transform, tracer, autocast or inference mode has come or gone since. Whether gradients are enabled is not looked
    at.
    """
    native = _native_check(tensors)
    return _python_check(tensors) if native is None else native


def _native_check(tensors: Sequence[torch.Tensor]) -> Check | None:
    major, minor = torch.__version__.split(".")[:2]
    guards = getattr(torch._C._dynamo.guards, "TensorGuards", None)
    if guards is None or (int(major), int(minor)) not in _NATIVE_GUARDS_IN:
        return None
    sizes, strides = [list(tensor.shape) for tensor in tensors], [list(tensor.stride()) for tensor in tensors]
    check: Check = guards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    mode_count, level = torch._C._len_torch_dispatch_stack, forward_ad

    def holds(*given: Any) -> bool:
        # TensorGuards may leave modes out on purpose, and know nothing of forward-mode differentiation.
        return check(*given) and not mode_count() and level._current_level < 0

    return holds


def _python_check(tensors: Sequence[torch.Tensor]) -> Check:
    likeness = [_likeness(tensor) for tensor in tensors]
    inference = torch.is_inference_mode_enabled()

    def holds(*given: Any) -> bool:
        return (
            len(given) == len(likeness)
            and not torch._C._is_any_autocast_enabled()
            and torch.is_inference_mode_enabled() == inference
            and all(isinstance(tensor, torch.Tensor) for tensor in given)
            and way(given) == "kernel"
            and [_likeness(tensor) for tensor in given] == likeness
        )

    return holds


def _likeness(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (
        type(tensor),
        tensor.dtype,
        tensor.device,
        tensor.shape,
        tensor.stride(),
        tensor.requires_grad,
        tensor.is_inference(),
    )
