"""The problem of a captured kernel, as it stands in files."""

from __future__ import annotations

from typing import Any

from fusetune.capture.kept import FloatKept, FunctionKept, Kept, PlainKept, TupleKept, TypeKept
from fusetune.core.config import OPTIONS
from fusetune.core.problem import NamedProblem
from fusetune.ops.naming import value_name


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
