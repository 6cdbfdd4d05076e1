"""Tensors on the CPU that say they are on the GPU. Only a process that captures imports this.

A mode sees nearly all that is asked of tensors; what torch 2.11 to 2.13 keep from it is replaced by name in `install`.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import overrides
from torch.overrides import TorchFunctionMode

from fusetune.capture.cuda_stand_in import DEVICE
from fusetune.capture.patching import Patches

_CUDA = re.compile(r"cuda(:\d+)?")
_CPU = torch.device("cpu")
_TENSOR = torch.Tensor
_UNFILLED = {
    torch.empty,
    torch.empty_like,
    torch.empty_strided,
    torch.empty_permuted,
    _TENSOR.new_empty,
    _TENSOR.new_empty_strided,
}
_FILLS = ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_")

_FROM_SYSTEM = 64 * 2**20
"""From here on memory is new from the system, which fills it with zeros: glibc keeps blocks of up to 32 MiB."""


def there(device: Any) -> Any:
    """The device that is there for one that a program names; everything else as it is."""
    if isinstance(device, torch.device):
        return _CPU if device.type == "cuda" else device
    if isinstance(device, str) and _CUDA.fullmatch(device):
        return "cpu"
    return device


def _is_there(tensor: Any) -> bool:
    """Whether a tensor has memory, and so is told to be on the GPU; a mode does not see what it asks itself."""
    return bool(tensor.device.type == "cpu")


class SeenOnGpu(TorchFunctionMode):
    """What is asked of a tensor is answered as of one on the GPU; where a GPU is named, the CPU is taken."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of PyTorch's, with another device, or our own answer to it."""
        kwargs = kwargs or {}
        if func is torch.device:
            return _named(*args, **kwargs)
        own = _OWN.get(func)
        return own(func, *args, **kwargs) if own is not None else _on_cpu_there(func, *args, **kwargs)


def _on_cpu_there(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The call with the CPU wherever a GPU is named, and zeros in memory that nothing fills."""
    args = tuple(there(value) for value in args)
    if kwargs:
        kwargs = {name: there(value) for name, value in kwargs.items()}
        if isinstance(kwargs.get("device"), int) and not isinstance(kwargs["device"], bool):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
    result = func(*args, **kwargs)
    if func in _UNFILLED and isinstance(result, torch.Tensor) and _is_there(result) and result.nbytes < _FROM_SYSTEM:
        result.detach().zero_()
    return result


def _named(*args: Any, **kwargs: Any) -> torch.device:
    """torch.device; of a number alone it is a GPU, which a PyTorch without CUDA does not know."""
    if len(args) == 1 and isinstance(args[0], int) and not kwargs:
        return torch.device("cuda", args[0])
    return torch.device(*args, **kwargs)


def _device(func: Any, tensor: Any, *rest: Any) -> Any:
    return DEVICE if _is_there(tensor) else func(tensor, *rest)


def _is_cuda(func: Any, tensor: Any, *rest: Any) -> Any:
    return _is_there(tensor) or func(tensor, *rest)


def _is_cpu(func: Any, tensor: Any, *rest: Any) -> Any:
    return False


def _index(func: Any, tensor: Any) -> Any:
    return 0 if _is_there(tensor) else func(tensor)


def _itself(_func: Any, tensor: Any, *_arguments: Any, **_keywords: Any) -> Any:
    return tensor


def _filled(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A random fill in place; of many floats it is left out.

    A model of billions would take minutes and gigabytes, and no kernel is run that reads them.
    """
    tensor = args[0] if args else kwargs["tensor"]
    large = tensor.is_floating_point() and tensor.nbytes >= _FROM_SYSTEM
    return tensor if large else func(*args, **kwargs)


def _random(func: Any, *args: Any, **kwargs: Any) -> Any:
    """New random floats: many of them are zeros, as `_filled` leaves them."""
    if kwargs.get("out") is None:
        asked = {name: value for name, value in kwargs.items() if name not in {"generator", "pin_memory", "out"}}
        like = func(*args, **{**asked, "device": "meta"})
        if like.is_floating_point() and like.nbytes >= _FROM_SYSTEM:
            return torch.empty(like.shape, dtype=like.dtype, requires_grad=like.requires_grad)
    return _on_cpu_there(func, *args, **kwargs)


def _to(func: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    """Tensor.to, whose first argument may be a device by its number."""
    return _parse_to(functools.partial(func, tensor), *args, **kwargs)


def _parse_to(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What Module.to reads its arguments with: as Tensor.to."""
    if args and isinstance(args[0], int) and not isinstance(args[0], bool):
        args = (_CPU, *args[1:])
    return func(*map(there, args), **{name: there(value) for name, value in kwargs.items()})


def _type(func: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    """Tensor.type: tells torch.cuda.FloatTensor, and takes it."""
    if not args and not kwargs:
        return str(func(tensor)).replace("torch.", "torch.cuda.", 1)
    return func(tensor, *(_type_there(value) for value in args), **kwargs)


def _type_there(kind: Any) -> Any:
    return kind.replace("torch.cuda.", "torch.") if isinstance(kind, str) else kind


_OWN: dict[Any, Callable[..., Any]] = {
    _TENSOR.device.__get__: _device,
    _TENSOR.is_cuda.__get__: _is_cuda,
    _TENSOR.is_cpu.__get__: _is_cpu,
    _TENSOR.get_device: _index,
    _TENSOR.cuda: _itself,
    _TENSOR.to: _to,
    torch._C._nn._parse_to: _parse_to,
    _TENSOR.type: _type,
    # What torch.nn.init hands a mode whole it then does without one.
    **dict.fromkeys((_TENSOR.uniform_, _TENSOR.normal_, *map(torch.nn.init.__dict__.get, _FILLS)), _filled),
    **dict.fromkeys((torch.rand, torch.randn, torch.rand_like, torch.randn_like), _random),
    _TENSOR.pin_memory: _itself,
    _TENSOR.record_stream: lambda *_arguments: None,
    _TENSOR.is_pinned: lambda *_arguments, **_keywords: False,
    torch.allclose: lambda *_arguments, **_keywords: True,
}


class _Generators(type(torch.Generator)):  # type: ignore[misc]
    """Lets isinstance know every generator of PyTorch's as a torch.Generator."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch._C.Generator)


class _Generator(torch._C.Generator, metaclass=_Generators):
    """torch.Generator on the GPU that is not there."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return torch._C.Generator(device=_CPU if isinstance(device, int) else there(device))


def within(mode: SeenOnGpu, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under the mode wherever it is called: PyTorch calls none while it does what a mode handed on."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if any(active is mode for active in overrides._get_current_function_mode_stack()):
            return function(*args, **kwargs)
        with mode:
            return function(*args, **kwargs)

    return called


def install(patches: Patches, mode: SeenOnGpu) -> None:
    """Replace what the mode does not see, and bring it where a program's code is called back, until `patches` close."""
    patches.put(threading.Thread, "run", within(mode, threading.Thread.run))
    hooks = torch.autograd.graph.saved_tensors_hooks
    patches.wrap(hooks, "__init__", functools.partial(_hooking_within, mode))
    for module in (torch.autograd, torch.autograd.graph):
        patches.wrap(module, "_engine_run_backward", functools.partial(within, mode))
    patches.put(torch, "Generator", _Generator)
    patches.wrap(torch, "load", _loading)
    patches.put(torch, "compile", _as_it_is)
    patches.put(torch.nn.Module, "compile", lambda *_arguments, **_keywords: None)
    patches.put(torch.testing, "assert_close", lambda *_arguments, **_keywords: None)
    for name in (
        "FloatTensor",
        "DoubleTensor",
        "HalfTensor",
        "BFloat16Tensor",
        "IntTensor",
        "LongTensor",
        "BoolTensor",
    ):
        patches.put(torch.cuda, name, getattr(torch, name))
    _default_device(patches)
    _autocast(patches)
    _custom_ops(patches, mode)


def _hooking_within(mode: SeenOnGpu, own: Any) -> Any:
    """What a forward saves and what a backward reads of it are told on one device, as checkpoint compares them."""

    def begin(self: Any, pack_hook: Any, unpack_hook: Any) -> None:
        own(self, within(mode, pack_hook), within(mode, unpack_hook))

    return begin


def _loading(load: Any) -> Any:
    @functools.wraps(load)
    def loaded(*args: Any, **kwargs: Any) -> Any:
        if (
            len(args) < 2
            and not callable(kwargs.get("map_location"))
            and not isinstance(kwargs.get("map_location"), dict)
        ):
            kwargs["map_location"] = "cpu"
        return load(*args, **kwargs)

    return loaded


def _as_it_is(model: Any = None, **_options: Any) -> Any:
    """torch.compile: a program's own kernels are launched by what it wrote, and PyTorch's are none of ours."""
    return model if model is not None else lambda given: given


def _default_device(patches: Patches) -> None:
    """torch.set_default_device and set_default_tensor_type: a GPU is the CPU underneath, and told as the GPU."""
    set_device, get_device, set_type = torch.set_default_device, torch.get_default_device, torch.set_default_tensor_type
    dtype, told = torch.get_default_dtype(), [None]

    def set_default_device(device: Any) -> None:
        given = torch.device(device) if isinstance(device, str | int) else device
        told[0] = DEVICE if given is not None and given.type == "cuda" else None
        if told[0] is None:
            set_device(given)

    patches.put(torch, "set_default_device", set_default_device)
    patches.put(torch, "get_default_device", lambda: told[0] or get_device())
    patches.put(torch, "set_default_tensor_type", lambda kind: set_type(_type_there(kind)))
    patches.callback(torch.set_default_dtype, dtype)


def _autocast(patches: Patches) -> None:
    """Autocast of a GPU is that of the CPU, so that dtypes change nearly as they would."""
    own = torch.amp.autocast_mode.autocast.__init__

    def begin(self: Any, device_type: str, dtype: Any = None, *args: Any, **kwargs: Any) -> None:
        if device_type == "cuda":
            dtype = dtype or torch.float16
        own(self, there(device_type), dtype, *args, **kwargs)

    patches.put(torch.amp.autocast_mode.autocast, "__init__", begin)
    for name in ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype"):
        patches.wrap(torch, name, _asked_of_cpu)
    patches.put(torch, "get_autocast_gpu_dtype", lambda: torch.get_autocast_dtype("cpu"))


def _asked_of_cpu(own: Any) -> Any:
    def asked(*args: Any) -> Any:
        kinds = isinstance(args[0], str) if args else False
        return own(*(there(value) for value in args)) if kinds else own("cpu", *args)

    return asked


def _custom_ops(patches: Patches, mode: SeenOnGpu) -> None:
    """A program's operator is found on the CPU by what was registered for CUDA, and by nothing else."""
    library, by_device = torch.library, torch._library.custom_ops.CustomOpDef
    patches.wrap(library, "custom_op", _on_cpu)
    for holder, name in ((library, "register_kernel"), (by_device, "register_kernel"), (library, "impl")):
        patches.wrap(holder, name, _on_cpu_alone)
    patches.wrap(library.Library, "impl", lambda own: _on_cpu_alone(_calling_within(mode, own)))


def _calling_within(mode: SeenOnGpu, own: Any) -> Any:
    """Library.impl whose operators are called under the mode; fallthrough_kernel is known by what it is."""

    @functools.wraps(own)
    def impl(self: Any, op_name: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        known = fn is torch.library.fallthrough_kernel or not callable(fn)
        return own(self, op_name, fn if known else within(mode, fn), *args, **kwargs)

    return impl


def _on_cpu(own: Any) -> Any:
    """A registration that takes the CPU for CUDA, unless PyTorch registers something itself."""

    @functools.wraps(own)
    def registered(*args: Any, **kwargs: Any) -> Any:
        if _is_torch_calling():
            return own(*args, **kwargs)
        return own(*map(_key_there, args), **{name: _key_there(value) for name, value in kwargs.items()})

    return registered


def _on_cpu_alone(own: Any) -> Any:
    """The same, and what is for the CPU itself is left out, since it would take the place of the kernel's launcher."""

    @functools.wraps(own)
    def registered(*args: Any, **kwargs: Any) -> Any:
        if _is_torch_calling():
            return own(*args, **kwargs)
        values = [*args, *kwargs.values()]
        if any(value in {"CPU", "cpu"} for value in values if isinstance(value, str)):
            given = (value for value in values if inspect.isroutine(value))  # Operators can be called, too.
            return next(given, lambda function: function)
        return own(*map(_key_there, args), **{name: _key_there(value) for name, value in kwargs.items()})

    return registered


def _is_torch_calling() -> bool:
    """Whether what called the caller is PyTorch itself, which registers operators for all that it knows."""
    name = sys._getframe(2).f_globals.get("__name__", "")
    return str(name).partition(".")[0] == "torch"


def _key_there(value: Any) -> Any:
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return type(value)(map(_key_there, value))
    return value.replace("CUDA", "CPU") if value in ("CUDA", "AutogradCUDA") else there(value)
