"""What of a launch's arguments its config may depend on, quickly and so that it can be a key."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from types import FrameType
from typing import Any, Final

_PLAIN: Final = frozenset({int, bool, float, str, type(None)})
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


def kind_around(frame: FrameType | None) -> Kind | None:
    """The place of a launch and what its grid may be computed from there: plain values, and the shapes of tensors."""
    if frame is None:
        return ()
    found: list[Any] = [frame.f_code, frame.f_lineno]
    for name, value in frame.f_locals.items():
        if type(value) in _PLAIN or isinstance(value, tuple):
            found += [name, type(value), value]
        elif hasattr(value, "data_ptr"):
            found += [name, tuple(value.shape)]
    try:
        hash(key := tuple(found))
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
