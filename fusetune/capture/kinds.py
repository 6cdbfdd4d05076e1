"""What of a launch's arguments its config may depend on, quickly and so that it can be a key."""

from __future__ import annotations

import functools
from collections.abc import Container, Hashable, Iterable, Mapping
from itertools import islice
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any, Final

_PLAIN: Final = frozenset({int, bool, float, str, type(None)})
_DEPTH: Final = 2
"""How far objects are looked into: a grid may be computed from `self.config.size`."""
_MOST_WITHIN: Final = 100
"""Elements of a list, a dict or an object that are looked at."""
Kind = tuple[Hashable, ...]


def kind_of(args: Iterable[Any], named: Mapping[str, Any], *, shapes: bool = False) -> Kind | None:
    """Equal for two launches only if look-ups take them for one problem, but for the grid; None where that is not told.

    Tensors count by dtype and alignment, and with `shapes` by their shape and strides; all else by its value.
    """
    found: list[Any] = [*named]
    try:
        for value in (*args, *named.values()):
            kind = type(value)
            if kind in _PLAIN:
                found += (kind, value)  # True is 1
            else:
                _add(found, value, shapes=shapes)
    except TypeError:  # from a hash
        return None
    return tuple(found)


def without_floats(bound: Mapping[str, Any], but: Container[str]) -> Mapping[str, Any]:
    """Arguments by name with the type in the place of each float, for which nothing is compiled; not of those in `but`.

    A program may give another one at each launch.
    """
    return {name: float if type(one) is float and name not in but else one for name, one in bound.items()}


def kind_around(frame: FrameType | None, names: Iterable[str]) -> Kind | None:
    """The place of a launch, and what `names` mean there that a grid may be computed from.

    Plain values and tuples, the shapes of tensors, and these in lists, dicts and other objects. None where it cannot be
    a key.
    """
    if frame is None:
        return ()
    around, more = frame.f_locals, frame.f_globals
    found: list[Any] = [frame.f_code, frame.f_lasti]
    found += [meant(around[name] if name in around else more.get(name)) for name in names]
    return _hashed(found)


def kind_of_grid(grid: Any) -> Kind | None:
    """What a grid goes by beside the arguments of a launch: of a function its code and its variables."""
    if isinstance(grid, functools.partial):
        inner = kind_of_grid(grid.func)
        return None if inner is None else _hashed([*inner, *map(meant, (*grid.args, *grid.keywords.items()))])
    code = getattr(grid, "__code__", None)
    if code is None:
        return ()
    cells = (of_cell(one) for one in grid.__closure__ or ())
    read = (grid.__globals__.get(name) for name in code.co_names)
    return _hashed([code, *map(meant, (*cells, *read))])


def of_cell(cell: CellType) -> Any:
    """What a variable of a function is; None of one that is not assigned."""
    try:
        return cell.cell_contents
    except ValueError:  # nothing is assigned to it yet
        return None


def meant(value: Any, depth: int = _DEPTH) -> Any:
    """What of a value a grid may be computed from."""
    if type(value) in _PLAIN or isinstance(value, tuple):
        return (type(value), value)
    if hasattr(value, "data_ptr"):
        return tuple(value.shape)
    if not depth or isinstance(value, ModuleType | FunctionType | type):
        return None
    held = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    several = held.items() if isinstance(held, dict) else enumerate(value) if isinstance(value, list) else ()
    return tuple((name, meant(one, depth - 1)) for name, one in islice(several, _MOST_WITHIN))


def _hashed(found: list[Any]) -> Kind | None:
    key = tuple(found)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _add(found: list[Any], value: Any, *, shapes: bool) -> None:
    kind = type(value)
    if kind in _PLAIN:
        found += (kind, value)
    elif hasattr(value, "data_ptr"):
        found += (value.dtype, value.data_ptr() % 16)
        if shapes:
            found += (tuple(value.shape), tuple(value.stride()))
    elif isinstance(value, tuple | list):
        found.append(len(value))
        for one in value:
            _add(found, one, shapes=shapes)
    elif hasattr(base := getattr(value, "base", None), "data_ptr"):  # a descriptor, or what triton.reinterpret gives
        _add(found, base, shapes=shapes)
        found.append(f"{getattr(value, 'dtype', '')} {getattr(value, 'block_shape', '')}")
    elif kind.__name__ == "constexpr":
        _add(found, value.value, shapes=shapes)
    else:
        hash(value)
        found.append(value)
