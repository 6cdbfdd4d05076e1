"""What somebody's kernel, its arguments and its constants are called in files."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import PurePath
from typing import Any, Final

from fusetune.core.config import OPTIONS, NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.core.values import Value
from fusetune.ops.hashing import innermost
from fusetune.ops.sources import jitted

_MOST: Final = 90
_SCRIPT: Final = frozenset({"__main__", "__mp_main__"})
"""What Python calls the module of a script, and in a process that multiprocessing has spawned."""


def kernel_place(module: str, qualname: str, file: str) -> str:
    """`module:qualname`; the module of a script is called as its file."""
    return f"{PurePath(file).stem if module in _SCRIPT else module}:{qualname}"


def op_name(module: str, qualname: str, file: str) -> str:
    """The name of a captured kernel as an op: of `module:qualname`, with nothing but what a file's name may have.

    What the spelling loses is made up for by a few digits of its hash, so that two kernels have two names.
    """
    place = kernel_place(module, qualname, file)
    plain = re.sub(r"[^a-z0-9]+", "_", place.lower()).strip("_")
    lossless = plain == re.sub(r"[.:_]+", "_", place).strip("_") and "<" not in place
    if lossless and len(plain) <= _MOST and plain[:1].isalpha():
        return plain
    digits = hashlib.sha256(place.encode()).hexdigest()[:6]
    return f"k_{plain}"[:_MOST].rstrip("_") + f"_{digits}" if not plain[:1].isalpha() else f"{plain[:_MOST]}_{digits}"


def value_name(name: str) -> str:
    """The name of a parameter as one of a problem's or a config's values: these may not begin with an underscore."""
    plain = name.lstrip("_") or "value"
    taken = (hasattr(NamedConfig, plain) and plain not in OPTIONS) or hasattr(NamedProblem, plain)
    return f"{plain}_" if taken or plain != name else plain


def argument_value(value: Any) -> Value:
    """An argument of a launch as it stands in a problem: a number or a word as it is, a dtype, a function by name.

    A tensor is told by its dtype, with `unaligned` where it does not begin on 16 bytes; a tuple by its parts. Raises
    TypeError for what no file has a word for.
    """
    value = value.value if type(value).__name__ == "constexpr" else value
    if value is None or isinstance(value, bool | int | float | str):
        return _plain_value(value)
    if type(value) in {tuple, list}:
        return ", ".join(str(argument_value(one)) for one in value)
    tensor = value if hasattr(value, "data_ptr") else getattr(value, "base", None)
    if hasattr(tensor, "data_ptr"):
        return _tensor_value(value, tensor)
    function = jitted(value)
    if function is not None:
        return str(innermost(function).__name__)
    if type(value).__name__ == "dtype":
        return str(getattr(value, "name", value))
    raise TypeError(f"{type(value).__name__} is nothing that a problem is made of")


def _plain_value(value: float | str | None) -> Value:
    """As files have it: NumPy's floats and the members of an IntEnum as numbers, what is not finite as a word."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return str.__str__(value)
    return value if value is None or isinstance(value, bool) else int(value)


def _tensor_value(value: Any, tensor: Any) -> str:
    """By the dtype that the launch sees: a descriptor's is its tensor's, one of `triton.reinterpret` another."""
    reinterpreted = tensor is not value and not hasattr(value, "block_shape")
    seen = value.dtype if reinterpreted else tensor.dtype
    name = str(getattr(seen, "name", seen))
    name = name if reinterpreted else name.removeprefix("torch.")
    return name if tensor.data_ptr() % 16 == 0 else f"{name} unaligned"
