"""How Triton's own JIT specializes the arguments of a launch, asked without a GPU and without torch.

Private parts, the same in Triton 3.6 to 3.9: `jit.create_function_from_signature`, `JITFunction._pack_args`,
`compiler.make_backend`, and that a pointer is whatever has `data_ptr()` and a dtype that is told as torch's is.
"""

from __future__ import annotations

from typing import Any

from fusetune.ops.parameters import completed
from fusetune.ops.spec import AbstractTensor, Launch, TileDescriptor


class _Dtype:
    """A dtype of torch, by its name alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"torch.{self.name}"

    __repr__ = __str__

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Dtype) and other.name == self.name

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        from fusetune.core.dtypes import element_type

        return element_type(self.name).size_bytes


class _Pointer:
    """A tensor that is not there."""

    def __init__(self, tensor: AbstractTensor) -> None:
        self.dtype, self.shape, self._strides = _Dtype(tensor.dtype), tensor.shape, tensor.stride()
        self._address = 0 if tensor.aligned else 8

    def data_ptr(self) -> int:
        """Divisible by 16, or not."""
        return self._address

    def stride(self, axis: int | None = None) -> Any:
        """In elements."""
        return self._strides if axis is None else self._strides[axis]


def jit_signature(
    launch: Launch, sm: int
) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]:
    """The signature, constants and attributes that the JIT compiles a launch with on a GPU of this capability."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    launch = completed(launch)
    kernel = launch.kernel
    backend = make_backend(GPUTarget("cuda", sm, 32))
    everything = {**launch.arguments, **launch.constants}
    given = {name: _stand_in(everything[name]) for name in kernel.arg_names}
    options = {name: value for name, value in launch.options.items() if name not in given}
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, more = binder(**given, **options)
    asked = {**launch.options, "debug": False}
    _, signature, constants, attributes = kernel._pack_args(backend, asked, bound, specialization, more)
    return signature, constants, attributes


def _stand_in(value: Any) -> Any:
    if isinstance(value, AbstractTensor):
        return _Pointer(value)
    if isinstance(value, TileDescriptor):
        return _descriptor(value)
    if isinstance(value, tuple):
        return tuple(_stand_in(one) for one in value)
    return value


def _descriptor(value: TileDescriptor) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    base = _Pointer(value.tensor)
    return TensorDescriptor(base, list(base.shape), list(base.stride()), list(value.block_shape))
