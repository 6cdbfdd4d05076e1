"""What of a launch's arguments its config may depend on, quickly and so that it can be a key."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any


def kind_of(args: Iterable[Any], named: Mapping[str, Any]) -> tuple[Hashable, ...] | None:
    """Equal for two launches only if look-ups take them for one problem, but for the grid; None where that is not told.

    Tensors count by dtype and alignment, all else by its value.
    """
    found: list[Hashable] = []
    try:
        for value in args:
            found.extend(_parts(value))
        for name, value in named.items():
            found.append(name)
            found.extend(_parts(value))
        hash(tuple(found))
    except TypeError:
        return None
    return tuple(found)


def _parts(value: Any) -> Iterator[Hashable]:
    if hasattr(value, "data_ptr"):
        yield value.dtype
        yield value.data_ptr() % 16
    elif isinstance(value, int | float | str | None):
        yield type(value).__name__  # True is 1
        yield value
    elif isinstance(value, tuple | list):
        yield len(value)
        for one in value:
            yield from _parts(one)
    elif hasattr(base := getattr(value, "base", None), "data_ptr"):  # a descriptor, or what triton.reinterpret gives
        yield from _parts(base)
        yield f"{getattr(value, 'dtype', '')} {getattr(value, 'block_shape', '')}"
    elif type(value).__name__ == "constexpr":
        yield from _parts(value.value)
    else:
        yield value
