"""One launch as Triton's JIT takes it: its arguments by name, what of them counts, its grid, and where it stands."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from fusetune.capture.cases import KernelSeen, TensorSeen
from fusetune.capture.sources import source_hash_of
from fusetune.core.config import OPTIONS
from fusetune.ops.hashing import innermost

_OURS: Final = str(Path(__file__).resolve().parents[1])


def bind(
    kernel: Any, args: Sequence[Any], named: Mapping[str, Any], *, partly: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a launch by name, defaults and all, and its options. Raises TypeError where they do not fit.

    With `partly` some may be missing.
    """
    signature = signature_of(kernel)
    names = signature.parameters.keys()
    own = {name: value for name, value in named.items() if name in names}
    bound = signature.bind_partial(*args, **own) if partly else signature.bind(*args, **own)
    bound.apply_defaults()
    ignored = {"debug", "instrumentation_mode", "sanitize_overflow"}
    return dict(bound.arguments), {name: value for name, value in named.items() if name not in {*names, *ignored}}


def signature_of(kernel: Any) -> inspect.Signature:
    """The parameters of a kernel; those of the interpreter's functions are those of Python's."""
    found = getattr(kernel, "signature", None)
    return found if isinstance(found, inspect.Signature) else inspect.signature(kernel.fn)


def constexprs_of(kernel: Any) -> frozenset[str]:
    """The names of a kernel's constants; of the interpreter's functions by their annotations."""
    if hasattr(kernel, "params"):
        return frozenset(one.name for one in kernel.params if one.is_constexpr)
    parameters = signature_of(kernel).parameters.values()
    told_by = {one.name: getattr(one.annotation, "__name__", str(one.annotation)) for one in parameters}
    return frozenset(name for name, told_of in told_by.items() if told_of.endswith("constexpr"))


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
        # A descriptor and what triton.reinterpret gives hold their tensors.
        tensor = value if hasattr(value, "untyped_storage") else getattr(value, "base", None)
        if hasattr(tensor, "data_ptr") and hasattr(tensor, "untyped_storage"):
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


def told(value: Any) -> Any:
    """A value as JSON has it: numbers, flags, words and None as they are, lists of these, all else as a word."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [told(one) for one in value]
    name = getattr(value, "__name__", None)
    return str(name if name is not None and callable(value) else value)[:200]


def resolved_grid(grid: Any, bound: Mapping[str, Any]) -> tuple[int, ...]:
    """The grid of a launch, of one to three axes."""
    found = grid(dict(bound)) if callable(grid) else grid
    return tuple(int(axis) for axis in (found if isinstance(found, tuple | list) else (found,)))


def before_of(compiled: Any) -> dict[str, Any]:
    """The options that a compiled kernel has, whatever the source asks for; none where nothing was compiled."""
    metadata = getattr(compiled, "metadata", None)
    found = {name: getattr(metadata, name, None) for name in OPTIONS}
    return {name: told(value) for name, value in found.items() if value is not None}


def kernel_seen(kernel: Any) -> KernelSeen:
    """Where a kernel stands, and the hash of its code."""
    function = innermost(kernel)
    code = function.__code__
    try:
        hashed: str | None = source_hash_of(kernel)
    except (OSError, TypeError, SyntaxError, ValueError):  # its source is not to be had: made by a program
        hashed = None
    return KernelSeen(function.__qualname__, function.__module__, code.co_filename, code.co_firstlineno, hashed)


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
    import triton

    # By both names: an environment may be a link to another folder.
    theirs = (str(Path(triton.__file__).parent), str(Path(triton.__file__).resolve().parent))
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((*theirs, _OURS)):
        frame = frame.f_back
    return frame
