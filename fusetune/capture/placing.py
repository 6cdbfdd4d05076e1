"""What a program would launch with other constants, asked while it lives: grid, derived arguments, heuristics."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fusetune.capture.grids import GridRule
from fusetune.capture.kept import Placed
from fusetune.capture.knobs import Knob

MOST: Final = 4096
"""Combinations that are asked for."""
_SECONDS: Final = 10.0
"""How long a program's own functions are asked at most, for one case."""


def placed_of(
    grid: Any,
    resolved: tuple[int, ...],
    bound: Mapping[str, Any],
    rule: GridRule,
    knobs: Sequence[Knob],
    heuristics: Mapping[str, Any] = {},
) -> tuple[Placed, ...]:
    """The launches with all values of the constants that vary, and twice and half of these, together at most MOST.

    Where that is more, those with one or two other constants.
    """
    own = rule.constants
    tried = {knob.name: _wider(knob) for knob in knobs if knob.varies and type(own.get(knob.name)) is int}
    heuristics = {name: one for name, one in heuristics.items() if name in bound}
    found = []
    until = time.monotonic() + _SECONDS
    for changed in itertools.islice(_combinations(tried, own), MOST):
        if time.monotonic() > until:
            break
        found.append(placed_at(changed, grid, resolved, bound, rule, heuristics))
    return tuple(found)


def _wider(knob: Knob) -> list[int]:
    values = sorted({one for one in knob.values if type(one) is int and one > 0})
    return sorted({*values, values[-1] * 2, max(1, values[0] // 2)}) if values else []


def _combinations(tried: Mapping[str, list[int]], own: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    others = {name: [one for one in values if one != own[name]] for name, values in tried.items()}
    whole = math.prod(len(values) + 1 for values in others.values())
    for count in range(1, (len(others) if whole <= MOST else 2) + 1):
        for names in itertools.combinations(others, count):
            for values in itertools.product(*(others[name] for name in names)):
                yield dict(zip(names, values, strict=True))


def placed_at(
    changed: dict[str, Any],
    grid: Any,
    resolved: tuple[int, ...],
    bound: Mapping[str, Any],
    rule: GridRule,
    heuristics: Mapping[str, Any] = {},
) -> Placed:
    """The launch with these constants changed; its grid is None where it is not known, or there is none."""
    nowhere = Placed(changed, None)
    arguments = rule.arguments_at(changed)
    if arguments is None or changed.keys() & rule.suspects:
        return nowhere
    merged = {**bound, **changed, **arguments}
    try:
        for name, heuristic in heuristics.items():
            merged[name] = heuristic(dict(merged))
    except Exception:  # noqa: BLE001 - somebody's function, which says so that there is no such launch
        return nowhere
    follow = {name: merged[name] for name in merged if name not in changed and _unequal(merged[name], bound.get(name))}
    if not all(_is_plain(value) for value in follow.values()):
        return nowhere
    if any(merged[one] != merged[other] for one, group in rule.tied.items() for other in group):
        return nowhere
    known = rule.at({**changed, **{name: one for name, one in follow.items() if name in rule.constants}})
    if callable(grid):
        try:
            asked = _as_grid(grid(dict(merged)))
        except Exception:  # noqa: BLE001 - somebody's function, which says so that there is no such launch
            return nowhere
        # A callable around the caller's own variable gives the same always, and its source tells more.
        known = known if asked == resolved and known is not None else asked
    return Placed(changed, known, follow)


def _unequal(value: Any, other: Any) -> bool:
    return value is not other and (not _is_plain(value) or type(value) is not type(other) or value != other)


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value))


def _as_grid(found: Any) -> tuple[int, ...] | None:
    axes = tuple(int(one) for one in (found if isinstance(found, tuple | list) else (found,)))
    return axes if axes and all(one > 0 for one in axes) else None
