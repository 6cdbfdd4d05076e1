"""Which way a call goes: whether its modules, its tensors and the state of PyTorch let a kernel take PyTorch's place.

All of it are lists of what is known to be the same. Whatever is on none of them is PyTorch's to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.modules import module as of_modules
from torch.overrides import _get_current_function_mode_stack, has_torch_function
from torch.utils._device import DeviceContext

Way = Literal["kernel", "pytorch"]

Check = Callable[..., bool]

PLAIN: Final = (torch.Tensor, nn.Parameter)
"""The types of tensors that hold their numbers as they are: a subclass may mean anything."""
_NATIVE_GUARDS_IN: Final = {(2, 11), (2, 13)}
"""Versions of PyTorch with whose TensorGuards this is tested: a private class, made for torch.compile's own guards.

Another version is added once tests/unit/nn/test_operators.py and tests/gpu/gemm_scale/test_runtime.py pass with it."""


def _as_shipped(function: Any, home: Any) -> Any:
    """A function of PyTorch's, or None where somebody has put another in its place, which is nothing's equal."""
    return function if getattr(function, "__globals__", None) is vars(home) else None


traced: Final = torch.compiler.is_dynamo_compiling
"""Whether torch.compile traces the caller: it knows this function, which does nothing else.

`torch.compiler.is_compiling` is true in torch.export as well, and asks torch.jit first. What export traces is no plain
tensor, so that no kernel takes it.
"""

_Linear, _BatchNorm1d = nn.Linear, nn.BatchNorm1d
_CALL: Final = _as_shipped(nn.Module.__call__, of_modules)
_CALL_IMPL: Final = _as_shipped(nn.Module._call_impl, of_modules)
_LINEAR_FORWARD: Final = _as_shipped(nn.Linear.forward, nn.modules.linear)
_NORM_FORWARD: Final = _as_shipped(nn.BatchNorm1d.forward, nn.modules.batchnorm)
_LINEAR: Final = torch._C._nn.linear
_NORM: Final = _as_shipped(functional.batch_norm, functional)
_pre_hooks, _hooks = of_modules._global_forward_pre_hooks, of_modules._global_forward_hooks
_backward_pre_hooks, _backward_hooks = of_modules._global_backward_pre_hooks, of_modules._global_backward_hooks


def is_plain_linear(module: Any) -> bool:
    """Whether calling this part is nn.Linear's product and nothing else, so that nobody misses the call.

    Not a subclass, not where `forward` is somebody else's (an adapter, an offloader) or compiled by itself, and not
    where anybody listens: hooks of its own, hooks on all modules, another `nn.functional.linear` (that of a counter of
    operations). All of it is looked up at every call, and costs less than asking nn.Module.__getattr__ once.
    """
    if (
        type(module) is not _Linear
        or _Linear.forward is not _LINEAR_FORWARD
        or _Linear.__call__ is not _CALL
        or _Linear._call_impl is not _CALL_IMPL
        or functional.linear is not _LINEAR
    ):
        return False
    state = module.__dict__
    return not (
        "forward" in state
        or "_call_impl" in state
        or "_compiled_call_impl" in state
        or state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or _hooks
        or _pre_hooks
        or _backward_hooks
        or _backward_pre_hooks
    )


def is_plain_norm(module: Any) -> bool:
    """The same of nn.BatchNorm1d, for the hooks on all modules to be looked for once: ask `is_plain_linear` first."""
    if (
        type(module) is not _BatchNorm1d
        or _BatchNorm1d.forward is not _NORM_FORWARD
        or _BatchNorm1d.__call__ is not _CALL
        or _BatchNorm1d._call_impl is not _CALL_IMPL
        or functional.batch_norm is not _NORM
    ):
        return False
    state = module.__dict__
    return not (
        "forward" in state
        or "_call_impl" in state
        or "_compiled_call_impl" in state
        or state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


def as_vector(scale: Any, dimensions: int) -> torch.Tensor | None:
    """A scale [1, ..., 1, N] as [N], where it multiplies a y of so many dimensions alike; None for other scales."""
    if type(scale) not in PLAIN or not 0 < scale.ndim <= dimensions or scale.shape[-1] != scale.numel():
        return None
    return scale if scale.ndim == 1 else scale.reshape(-1)


def way(tensors: Sequence[Any]) -> Way:
    """Who is to compute these, now and in this thread.

    `kernel`: the tensors are ordinary ones. `pytorch`: PyTorch's own operators, which alone know what to do under the
    transforms of torch.func and in forward-mode differentiation, and which whoever watches or replaces operations
    knows: a mode, a tracer, a subclass of Tensor, a proxy. torch.compile is asked about elsewhere: it has operators.
    """
    if (
        torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or _a_function_mode_watches()
        or not all(type(tensor) in PLAIN and _is_ordinary(tensor) for tensor in tensors)
    ):
        return "pytorch"
    return "kernel"


def is_exporting() -> bool:
    """Whether torch.export traces, strictly or not; torch.compile does not count.

    PyTorch's own function of this name is always true to torch.compile in 2.11, so its flag is looked at.
    """
    return bool(torch.compiler._is_exporting_flag)


def _is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether a kernel that follows the pointer finds what the tensor means there."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
        and not tensor.is_conj()
        and not tensor._is_zerotensor()
    )


def _a_function_mode_watches() -> bool:
    """Whether a TorchFunctionMode is on; torch.device's own, which is about new tensors only, does not count."""
    if not torch._C._len_torch_function_stack():
        return False
    return any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())


def stands_for_tensors(arguments: Sequence[Any]) -> bool:
    """Whether one of these is no tensor and yet computes as one, as torch.fx's proxies do."""
    return any(not isinstance(one, torch.Tensor) and has_torch_function((one,)) for one in arguments)


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
    function_mode_count = torch._C._len_torch_function_stack

    def holds(*given: Any) -> bool:
        # TensorGuards may leave modes out on purpose, and know nothing of forward-mode differentiation.
        return (
            check(*given)
            and not mode_count()
            and level._current_level < 0
            and not (function_mode_count() and _a_function_mode_watches())
        )

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
