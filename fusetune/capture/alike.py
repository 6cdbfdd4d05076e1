"""Which launches are one case, and when many that differ in numbers alone become one.

Two launches of a kernel are one case where the grid, the constants, the options, the run-time values and the tensors
are the same. Where a tensor begins in its storage does not count, as long as it begins on 16 bytes or not as before:
views of one storage in turn are one case. What lies in one storage keeps how its parts overlap.

Numbers given at run time tell cases apart, since a loop may be as long as they say. But where a kernel gets more than
MOST_ALIKE different sets of them, alike in all else and each number of the type and the specialization that it had
before (equal to 1, divisible by 16, as Triton's JIT compiles them), they count steps and are no sizes: all of these
launches are one case, the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from msgspec import structs

from fusetune.capture.cases import TensorSeen
from fusetune.ops.arguments import specialized

MOST_ALIKE: Final = 8
"""So many launches that differ in run-time numbers alone are cases by themselves."""


class Identity(NamedTuple):
    """What makes a launch a case of its own, and what it shares with those that differ in run-time numbers alone."""

    exact: tuple[Any, ...]
    but_numbers: tuple[Any, ...]


def identity_of(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Mapping[str, TensorSeen],
    values: Mapping[str, Any],
    constants: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Identity:
    """The identity of a launch by what was seen of it; `kernel` is the JITFunction."""
    shared = (id(kernel), grid, _without_places(tensors), repr(constants), repr(options))
    parameters = {one.name: one for one in getattr(kernel, "params", ())}
    kinds = tuple((name, specialized(value, parameters.get(name.partition(".")[0]))) for name, value in values.items())
    return Identity((*shared, repr(values)), (*shared, kinds))


class Differing:
    """What differed between the launches that one case stands for: values by the name of the argument."""

    def __init__(self) -> None:
        self._numbers: dict[str, set[Any]] = {}
        self._places: dict[str, set[int]] = {}

    def note(self, tensors: Mapping[str, TensorSeen], values: Mapping[str, Any]) -> None:
        """Count a launch's."""
        for name, tensor in tensors.items():
            self._places.setdefault(name, set()).add(tensor.offset)
        for name, value in values.items():
            if type(value) in {int, float}:
                self._numbers.setdefault(name, set()).add(value)

    def add(self, other: Differing) -> None:
        """Count all of another's."""
        for mine, theirs in ((self._numbers, other._numbers), (self._places, other._places)):
            for name, found in theirs.items():
                mine.setdefault(name, set()).update(found)

    def names(self) -> tuple[str, ...]:
        """The arguments that had more than one number."""
        return tuple(name for name, some in self._numbers.items() if len(some) > 1)

    def told(self) -> tuple[str, ...]:
        """A sentence for the numbers, and one for the places; none where there was but one of each."""
        numbers = ", ".join(f"{len(some)} values of `{name}`" for name, some in self._numbers.items() if len(some) > 1)
        places = ", ".join(
            f"`{name}` at {len(some)} places of its storage" for name, some in self._places.items() if len(some) > 1
        )
        return tuple(f"launched with {what}; kept with the first" for what in (numbers, places) if what)


def _without_places(tensors: Mapping[str, TensorSeen]) -> tuple[Any, ...]:
    """The tensors without where each begins, but with how those of one storage lie to each other."""
    names = list(tensors)
    between = [
        (name, other, _between(tensors[name], tensors[other]))
        for index, name in enumerate(names)
        for other in names[index + 1 :]
        if tensors[name].storage == tensors[other].storage
    ]
    alone = tuple((name, repr(structs.replace(one, offset=0))) for name, one in tensors.items())
    return (alone, tuple(between))


def _between(one: TensorSeen, other: TensorSeen) -> Any:
    """How two tensors of one storage lie: apart, or by how many elements the second begins behind the first."""
    if one.dtype != other.dtype:
        return (one.offset, other.offset)  # Counted in elements of two sizes.
    if one.offset + _span(one) <= other.offset or other.offset + _span(other) <= one.offset:
        return "apart"
    return other.offset - one.offset


def _span(tensor: TensorSeen) -> int:
    """From a tensor's first element to behind its last, in elements."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
