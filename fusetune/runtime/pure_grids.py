"""Grids that need not be asked again: of functions that only count, as `lambda META: (cdiv(n, META["BLOCK"]),)`.

Triton's own `cdiv` takes microseconds on the host, more than all else of a launch. A function of one argument that
names nothing but what counts, and whose variables are whole numbers, gives for the same arguments, constants and
variables the same grid. Which arguments it asks for is seen while it is asked; these have to be the same in all
launches of one key, and are, but for tensors and floats.
"""

from __future__ import annotations

import builtins
import inspect
import math
import sys
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

MOST_GRIDS: Final = 64
"""So many are kept of one kernel with one key; a program has one or two."""
_BUILT_IN: Final = frozenset({"min", "max", "int"})
_OTHER: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE

_counting: dict[int, tuple[Any, bool]] = {}
"""Whether a code counts tiles and does nothing else, by its id, which is its own as long as it is kept here."""
_MOST_CODES: Final = 4096

Shapes = dict[Any, Any]
"""Grids by the id of the code that gave them and the numbers that its variables had."""


def asked(grid: Any, meta: Mapping[str, Any], told: Container[str], shapes: Shapes) -> Any:
    """What a grid is for the arguments `meta` by name; kept in `shapes` where it may be.

    `told` are the arguments that are the same in every launch that `shapes` is for.
    """
    if not callable(grid):
        return grid
    if not inspect.isfunction(grid) or not _counts(grid):
        return grid(meta)
    variables = [cell.cell_contents for cell in grid.__closure__ or ()]
    seen = _Seen(meta)
    found = grid(seen)
    if (
        type(found) is tuple
        and len(shapes) < MOST_GRIDS
        and all(type(one) is int for one in variables)
        and seen.asked is not None
        and all(name in told for name in seen.asked)
    ):
        key = (id(grid.__code__), *variables)
        shapes[key] = found
    return found


def shape_of(grid: Any, shapes: Shapes) -> Any:
    """What is kept of a grid; None where it has to be asked."""
    try:
        return shapes.get((id(grid.__code__), *[one.cell_contents for one in grid.__closure__ or ()]))
    except (AttributeError, TypeError, ValueError):
        return None


def counts(grid: Any) -> bool:
    """Whether a grid is a function that only counts, and asks for no more of a tensor than another one gives."""
    return inspect.isfunction(grid) and _counts(grid)


def _counts(grid: Callable[..., Any]) -> bool:
    code = grid.__code__
    found = _counting.get(id(code))
    if found is None:
        if len(_counting) >= _MOST_CODES:
            return False
        found = _counting[id(code)] = (code, _names_counting_alone(grid))
    return found[1]


def _names_counting_alone(grid: Callable[..., Any]) -> bool:
    """Whether the code of a function names triton's cdiv and the like, and nothing else that could change."""
    code = grid.__code__
    if code.co_argcount != 1 or code.co_kwonlyargcount or code.co_flags & _OTHER or grid.__defaults__:
        return False
    if any(inspect.iscode(one) for one in code.co_consts):
        return False
    triton = sys.modules["triton"]
    known = {"triton": triton, "math": math, "cdiv": triton.cdiv, "next_power_of_2": triton.next_power_of_2}
    around = grid.__globals__
    for name in code.co_names:
        if name in _BUILT_IN:
            if around.get(name, getattr(builtins, name)) is not getattr(builtins, name):
                return False
        elif name == "ceil":
            if name in around:
                return False
        elif name not in known or around.get(name, known[name]) is not known[name]:
            return False
    return all(name in around for name in ("triton", "math") if name in code.co_names)


class _Seen(dict[str, Any]):
    """Arguments by name, with those that were asked for; `asked` is None once all of them were looked through."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        super().__init__(meta)
        self.asked: set[str] | None = set()

    def __getitem__(self, name: str) -> Any:
        if self.asked is not None:
            self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked = None
        return super().__contains__(name)

    def __iter__(self) -> Any:
        self.asked = None
        return super().__iter__()
