"""What a captured kernel, its problem and its constants are called in files."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from typing import Any, Final

from fusetune.capture.kept import FloatKept, FunctionKept, Kept, PlainKept, TupleKept, TypeKept
from fusetune.core.config import OPTIONS, NamedConfig
from fusetune.core.problem import NamedProblem

_MOST: Final = 90
_SCRIPT: Final = "__main__"


def kernel_place(module: str, qualname: str, file: str) -> str:
    """`module:qualname`; the module of a script is called as its file."""
    return f"{PurePath(file).stem if module == _SCRIPT else module}:{qualname}"


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


def problem_of(kept: Kept, knobs: frozenset[str], grid: tuple[int, ...] | None = None) -> NamedProblem:
    """The problem of a capture: dtypes of its tensors, its numbers and words, the constants that stay, and the grid.

    What goes with a knob is no part of it. The grid is Before's, or the one given: it says the size where no argument
    does.
    """
    values: dict[str, Any] = {}
    varying = knobs | kept.following(knobs)
    for name, one in kept.arguments.items():
        if name not in varying and name not in OPTIONS:
            values[value_name(name)] = _told(name, one, kept)
    for axis, programs in enumerate(kept.case.grid if grid is None else grid):
        if programs > 1:
            values.setdefault(f"grid_{axis}", programs)
    return NamedProblem(**values)


def _told(name: str, one: Any, kept: Kept) -> Any:
    if isinstance(one, PlainKept):
        return one.value
    if isinstance(one, TypeKept | FunctionKept):
        return one.name
    if isinstance(one, FloatKept):
        return one.text
    if isinstance(one, TupleKept):
        return ", ".join(str(_told(f"{name}.{number}", item, kept)) for number, item in enumerate(one.items))
    seen = kept.case.tensors.get(name)
    return one.read_as or one.dtype if seen is None or seen.aligned else f"{one.read_as or one.dtype} unaligned"
