"""Problem: what to compute. An op says what that is made of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import msgspec

from fusetune.core.values import NamedValues, Value

P = TypeVar("P", bound="Problem")
_ALIGNED = 16
"""What Triton specializes sizes by: divisible by it, or not."""


class Problem:
    """Base of all problems, which are compared, hashed and never changed.

    An op's own type is a frozen msgspec.Struct beside this base; NamedProblem serves every op that has none.
    """

    __slots__ = ()

    def describe(self) -> str:
        """The problem in one line, for people: `n=4096 float16`."""
        return " ".join(filter(None, (self.size_text(), self.form_text())))

    def size_text(self) -> str:
        """Its numbers: `n=4096`."""
        return " ".join(f"{name}={value}" for name, value in self.to_builtins().items() if _is_number(value))

    def form_text(self) -> str:
        """What it is besides: `float16`, a word by itself and all else by name."""
        rest = {name: value for name, value in self.to_builtins().items() if not _is_number(value)}
        return " ".join(value if isinstance(value, str) else f"{name}={value}" for name, value in rest.items())

    def sizes(self) -> Mapping[str, int]:
        """What may differ, within a power-of-two bucket, between this problem and one whose config it may use."""
        return {}

    def rest(self) -> Hashable:
        """What must not differ between the two."""
        sizes = self.sizes()
        return tuple((name, value) for name, value in self.to_builtins().items() if name not in sizes)

    def order(self) -> tuple[Any, ...]:
        """Where it stands in a file: those that have much in common together."""
        return tuple((name, str(type(value)), value) for name, value in self.to_builtins().items())

    def options(self) -> str:
        """The problem as a command takes it: `--size n=4096`."""
        return " ".join(f"--size {name}={value}" for name, value in self.to_builtins().items())

    def to_builtins(self) -> dict[str, Any]:
        """The fields as YAML and JSON have them."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_builtins(cls: type[P], raw: Any) -> P:
        """A problem of a mapping of YAML or JSON. Raises msgspec.ValidationError for what is none."""
        return msgspec.convert(raw, cls)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class NamedProblem(NamedValues, Problem):
    """A problem of an op without a type of its own: any named values."""

    __slots__ = ()

    def __init__(self, **values: Value) -> None:
        NamedValues.__init__(self, values)

    def sizes(self) -> Mapping[str, int]:
        """Every whole number above 1: at 1 Triton makes other code, and a flag is none."""
        return {name: value for name, value in self._items.items() if type(value) is int and value > 1}

    def rest(self) -> Hashable:
        """All but the sizes, and which of these Triton knows to be divisible by 16."""
        sizes = self.sizes()
        others = frozenset((name, type(value), value) for name, value in self._items.items() if name not in sizes)
        return others, frozenset((name, size % _ALIGNED == 0) for name, size in sizes.items())

    def order(self) -> tuple[Any, ...]:
        """Words first, then sizes, each in the order of names. One may be a number here and a word there."""
        sizes = self.sizes()
        return tuple(sorted(_place(name, value, name in sizes) for name, value in self._items.items()))


def _place(name: str, value: Value, is_size: bool) -> tuple[Any, ...]:
    return is_size, name, type(value).__name__, "" if value is None else value
