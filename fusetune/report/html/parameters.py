"""Which parameter mattered: the best time that each of its values allows, whatever the others are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fusetune.core.values import Value
from fusetune.report.html.data import Point

MOST_VALUES: Final = 16
"""About so many values of a parameter are shown."""


class Parameter(msgspec.Struct, frozen=True):
    """A parameter with its values in order, and the best time in us of the candidates that have each.

    `kept` and `reference` are the values of what was chosen and of what all are held against, None where they have
    none.
    """

    name: str
    values: tuple[Value, ...]
    best_us: tuple[float, ...]
    kept: Value
    reference: Value

    @property
    def worth(self) -> float:
        """The time of its worst value over that of its best, each with the best of all others: 1 matters nothing."""
        return max(self.best_us) / min(self.best_us)

    @property
    def costs(self) -> float | None:
        """What the reference's value costs: the best time with it over the best of all; None where it has none."""
        if self.reference not in self.values:
            return None
        return self.best_us[self.values.index(self.reference)] / min(self.best_us)


def parameters(points: Sequence[Point]) -> list[Parameter]:
    """Those of which the candidates have several values, the one that matters most first."""
    ours = [point for point in points if not point.is_library]
    kept = next((point.values for point in ours if point.chosen), {})
    reference = next((point.values for point in ours if point.named), {})
    best: dict[str, dict[Value, float]] = {}
    for point in ours:  # The fastest come first.
        for name, value in point.values.items():
            best.setdefault(name, {}).setdefault(value, point.time_us)
    found = []
    for name, times in best.items():
        if len(times) < 2:
            continue
        values = _few(sorted(times, key=_order), times, kept.get(name), reference.get(name))
        found.append(
            Parameter(name, tuple(values), tuple(times[value] for value in values), kept.get(name), reference.get(name))
        )
    return sorted(found, key=lambda one: -one.worth)


def _few(ordered: Sequence[Value], times: Mapping[Value, float], *always: Value) -> list[Value]:
    """Those that a panel has room for: the best, the worst, those that are asked for, and some between."""
    step = -(-len(ordered) // MOST_VALUES)
    ends = {min(times, key=times.__getitem__), max(times, key=times.__getitem__), *always}
    return [value for number, value in enumerate(ordered) if number % step == 0 or value in ends]


def varying_numbers(points: Sequence[Point]) -> list[str]:
    """The parameters that are numbers and of which the candidates have several values, in the order of configs."""
    seen: dict[str, set[Value]] = {}
    for point in points:
        if not point.is_library:
            for name, value in point.values.items():
                if type(value) is int:
                    seen.setdefault(name, set()).add(value)
    return [name for name, values in seen.items() if len(values) > 1]


def _order(value: Value) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, str(value)
