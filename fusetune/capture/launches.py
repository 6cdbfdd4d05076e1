"""One launch as Triton's JIT takes it: its arguments by name, what of them counts, its grid, and where it stands."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from fusetune.capture.cases import KernelSeen, TensorSeen
from fusetune.core.config import OPTIONS
from fusetune.ops.arguments import constexprs_of, told
from fusetune.ops.hashing import innermost
from fusetune.ops.sources import source_hash_of

_OURS: Final = str(Path(__file__).resolve().parents[1])


def described(kernel: Any, bound: Mapping[str, Any]) -> tuple[dict[str, TensorSeen], dict[str, Any], dict[str, Any]]:
    """Tensors, run-time values and constants of a launch by name.

    A tuple given at run time, which may hold tensors, is told by its parts, as `name.0`; one that is a constant whole.
    """
    tensors: dict[str, TensorSeen] = {}
    values: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    storages: dict[int, int] = {}
    constexprs = constexprs_of(kernel)

    def put(name: str, value: Any) -> None:
        tensor = tensor_of(value)
        if tensor is not None:
            block = tuple(value.block_shape) if hasattr(value, "block_shape") else None
            tensors[name] = tensor_seen(tensor, storages, block)
        elif isinstance(value, tuple | list):
            for number, one in enumerate(value):
                put(f"{name}.{number}", one)
        else:
            values[name] = told(value)

    for name, value in bound.items():
        if name in constexprs:
            constants[name] = told(value)
        else:
            put(name, value)
    return tensors, values, constants


def tensor_of(value: Any) -> Any:
    """The tensor that an argument is, or that a descriptor or what triton.reinterpret gives holds; None of any other.

    Of what only looks like a tensor, with a pointer into a storage, it is one with the same pointer. Such stands for a
    view that PyTorch has not, as one with negative strides; that is given by its first element.
    """
    import torch

    tensor: Any = value if hasattr(value, "untyped_storage") else getattr(value, "base", None)
    if isinstance(tensor, torch.Tensor):
        return tensor
    if not (hasattr(tensor, "data_ptr") and hasattr(tensor, "untyped_storage")):
        return None
    storage = tensor.untyped_storage()
    offset, rest = divmod(tensor.data_ptr() - storage.data_ptr(), tensor.dtype.itemsize)
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    least = [step * (size - 1) for size, step in zip(shape, stride, strict=True)]
    if rest or offset < 0 or min(least, default=0) < 0:
        shape = stride = (1,)
    with torch.no_grad():
        return torch.empty(0, dtype=tensor.dtype, device=storage.device).set_(storage, offset, shape, stride)


def tensor_seen(tensor: Any, storages: dict[int, int], block: tuple[int, ...] | None = None) -> TensorSeen:
    """What of a tensor counts for a launch. `storages` numbers storages by their addresses."""
    storage = tensor.untyped_storage()
    return TensorSeen(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        storage=storages.setdefault(storage.data_ptr(), len(storages)),
        offset=tensor.storage_offset(),
        storage_bytes=storage.nbytes(),
        aligned=tensor.data_ptr() % 16 == 0,
        block=block,
    )


def before_of(compiled: Any) -> dict[str, Any]:
    """The options that a compiled kernel has, whatever the source asks for; none where nothing was compiled."""
    metadata = getattr(compiled, "metadata", None)
    found = {name: getattr(metadata, name, None) for name in OPTIONS}
    return {name: told(value) for name, value in found.items() if value is not None}


def kernel_seen(kernel: Any, *, hashed: bool = True) -> KernelSeen:
    """Where a kernel stands, and the hash of its code, which takes milliseconds."""
    function = innermost(kernel)
    code = function.__code__
    found: str | None = None
    if hashed:
        # Where its source is not to be had, as that of one made by a program, there is none.
        with contextlib.suppress(OSError, TypeError, SyntaxError, ValueError):
            found = source_hash_of(kernel)
    return KernelSeen(function.__qualname__, function.__module__, code.co_filename, code.co_firstlineno, found)


def proposals_of(tuners: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """The configs of the autotune lists above a launch, constants and options by name."""
    return tuple(
        {name: told(value) for name, value in config.all_kwargs().items()}
        for tuner in tuners
        for config in getattr(tuner, "configs", ())
        if hasattr(config, "all_kwargs")
    )


def user_frame() -> FrameType | None:
    """The frame of the program that launches: the innermost that is neither Triton's nor ours."""
    others = not_the_program_s()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(others):
        frame = frame.f_back
    return frame


@functools.cache
def not_the_program_s() -> tuple[str, ...]:
    """The folders of Triton and of ours, as the files in them begin.

    Many libraries have a folder `triton` of their own.
    """
    import triton

    # By both names: an environment may be a link to another folder.
    folders = (Path(triton.__file__).parent, Path(triton.__file__).resolve().parent, _OURS)
    return tuple(f"{folder}{os.sep}" for folder in folders)
