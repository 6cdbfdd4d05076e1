"""Named values: what problems and configs are made of where no op has types of its own for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

Value = int | float | bool | str | None | tuple[int, ...]
"""A size, a flag, a dtype's name, a factor, an argument that is left out, or strides."""

N = TypeVar("N", bound="NamedValues")


class NamedValues(Mapping[str, Value]):
    """Values by name that never change, in the order in which they were given: equal where names and values are.

    A value is also an attribute, so that `problem.n` is `problem["n"]`. Raises ValueError for a name that is no
    identifier or that begins with an underscore, and for a value of another kind than `Value`.
    """

    __slots__ = ("_hash", "_items")
    _OWN: ClassVar[frozenset[str]] = frozenset()
    """Values that the class has a property for."""

    _items: dict[str, Value]
    _hash: int

    def __init__(self, values: Mapping[str, Any]) -> None:
        items = {name: _checked(name, value) for name, value in values.items()}
        taken = [name for name in items if hasattr(type(self), name) and name not in self._OWN]
        if taken:
            raise ValueError(f"{taken[0]!r} has a meaning of its own; give the value another name")
        object.__setattr__(self, "_items", items)
        object.__setattr__(self, "_hash", hash(self._key()))

    def __getitem__(self, name: str) -> Value:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getattr__(self, name: str) -> Any:
        # Asked for by copy and pickle before there are any items.
        if not name.startswith("_") and name in self._items:
            return self._items[name]
        raise AttributeError(f"there is no {name!r} in {', '.join(self._items) if not name.startswith('_') else 'it'}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} never changes; make another one")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._key() == self._key()

    def __lt__(self: N, other: N) -> bool:
        return self._order() < other._order()

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._items.items())})"

    def to_builtins(self) -> dict[str, Any]:
        """The values as YAML and JSON have them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._items.items()}

    def with_texts(self: N, made: Callable[[str], str]) -> N:
        """The same with other texts; what is no text stays."""
        return _made_again(
            type(self), {name: made(value) if isinstance(value, str) else value for name, value in self._items.items()}
        )

    @classmethod
    def from_builtins(cls: type[N], raw: Any) -> N:
        """The values of a mapping of YAML or JSON. Raises msgspec.ValidationError for what is none."""
        if not isinstance(raw, dict):
            raise msgspec.ValidationError(f"Expected `object`, got `{type(raw).__name__}`")
        try:
            return _made_again(cls, {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
        except (TypeError, ValueError) as error:
            raise msgspec.ValidationError(str(error)) from error

    def _key(self) -> frozenset[tuple[str, str, Value]]:
        """Names and values, whatever their order; 1, 1.0 and True are three."""
        return frozenset((name, type(value).__name__, value) for name, value in self._items.items())

    def _order(self) -> list[tuple[str, str, Any]]:
        """For a fixed order of what is equal otherwise."""
        return sorted(
            (name, type(value).__name__, value if value is not None else 0) for name, value in self._items.items()
        )


def to_builtins(value: Any) -> Any:
    """Msgspec's `enc_hook` for named values. Raises NotImplementedError, as msgspec wants it, for anything else."""
    if isinstance(value, NamedValues):
        return value.to_builtins()
    raise NotImplementedError(f"{type(value).__name__} is not for files")


def _made_again(cls: type[N], items: Mapping[str, Any]) -> N:
    made = cls.__new__(cls)
    NamedValues.__init__(made, items)
    return made


def _checked(name: object, value: Any) -> Value:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"{name!r} is no name of a value; use a word, as BLOCK")
    if isinstance(value, list):
        value = tuple(value)
    of_ints = isinstance(value, tuple) and all(type(item) is int for item in value)
    if not (value is None or of_ints or isinstance(value, bool | int | float | str)):
        raise ValueError(f"{name} is {value!r}; a value is a number, a flag, a word, None or a tuple of whole numbers")
    known: Value = value
    return known
