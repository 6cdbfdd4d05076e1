"""Plots as SVG that fills whatever width it is given: places in per cent, letters and dots in pixels.

No script is needed to see one, it prints as it is, and its colours are the page's own, light or dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

MOST_TICKS: Final = 6
_LABEL_GAP: Final = 7.0
"""Per cent of a plot's height that a line of small letters takes."""
_LEAST: Final = 1e-300
"""Below it a logarithm has no place."""
_NESTED: Final = '<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
"""What is drawn inside counts to 100 both ways; strokes keep their width by the page's style."""


class Scale(msgspec.Struct, frozen=True):
    """Where values stand between 0 and 100."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value, in per cent; within a little more than the scale, whatever the value is."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(max(low, _LEAST)), math.log(max(high, _LEAST)), math.log(max(value, _LEAST))
        share = 0.5 if high <= low else (value - low) / (high - low)
        return round(100 * min(max(share, -0.05), 1.05), 1)

    def ticks(self, most: int = MOST_TICKS) -> list[float]:
        """Round values within the scale, at most about `most`."""
        if self.log and self.low > 0 and self.high / self.low > 4:
            return _log_ticks(self.low, self.high, most)
        return _linear_ticks(self.low, self.high, most)


def around(values: Iterable[float], *, log: bool = False, least: float | None = None) -> Scale:
    """A scale that holds all values with a margin; `least` is what it begins at."""
    held = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(held), max(held)) if held else (1.0, 10.0)
    if log:
        margin = max((high / low) ** 0.06, 1.02)
        return Scale(least or low / margin, high * margin, log=True)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return Scale(low - margin if least is None else least, high + margin)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    rough = span / max(most - 1, 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if size * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in decades for factor in factors]
        found = [float(f"{tick:.12g}") for tick in found if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


class Axis(msgspec.Struct, frozen=True):
    """A scale with its title, and its ticks as places and words."""

    scale: Scale
    title: str
    ticks: tuple[tuple[float, str], ...]


def axis(scale: Scale, title: str, *, most: int = MOST_TICKS, unit: float = 1.0) -> Axis:
    """An axis with round ticks; what is shown is the value over `unit`."""
    shown = Scale(scale.low / unit, scale.high / unit, scale.log)
    return Axis(scale, title, tuple((shown.at(tick), f"{tick:.6g}") for tick in shown.ticks(most)))


def time_axis(times: Iterable[float], what: str) -> Axis:
    """An axis of times that are given in microseconds, in the unit that suits them."""
    scale = around(times, log=True)
    name, unit = next((n, u) for n, u in (("s", 1e6), ("ms", 1e3), ("us", 1.0)) if scale.high >= 2 * u or u == 1.0)
    return axis(scale, f"{what}, {name}", unit=unit)


class Mark(msgspec.Struct, frozen=True):
    """A value that every plot shows: its short name, what its figure is in words, and its class of style."""

    name: str
    value: float
    text: str
    kind: str


def plot(
    x: Axis, y: Axis, body: str, *, described: str, marks: Sequence[Mark] = (), bands: str = "", size: str = ""
) -> str:
    """A plot with its axes; `body` stands in per cent of its area, `marks` are lines across it with names beside it.

    `bands` is drawn first, below all; `size` is a class of style that says how high it is.
    """
    grid = "".join(f'<line x1="{at}%" x2="{at}%" y1="0" y2="100%"/>' for at, _ in x.ticks)
    across = "".join(f'<line x1="0" x2="100%" y1="{up(at)}%" y2="{up(at)}%"/>' for at, _ in y.ticks)
    below = "".join(f'<text x="{at}%" y="100%" dy="1.5em">{_text(label)}</text>' for at, label in x.ticks)
    beside = "".join(f'<text x="0" dx="-8" y="{up(at)}%" dy="0.32em">{_text(label)}</text>' for at, label in y.ticks)
    return (
        f'<div class="plot {size}"><svg role="img" aria-label="{_text(described)}">{bands}'
        f'<g class="grid xs">{grid}</g><g class="grid">{across}</g>'
        f'<g class="ticks xs">{below}</g><g class="ticks ys">{beside}</g>'
        f'<text class="title x" x="50%" y="100%" dy="3em">{_text(x.title)}</text>'
        f'<text class="title" x="0" dx="-3em" y="0" dy="-0.8em">{_text(y.title)}</text>'
        f"{body}{_marks(marks, y.scale)}</svg></div>"
    )


def up(at: float) -> float:
    """The place from the top of what is `at` from below."""
    return round(100 - at, 1)


def dot(x: float | None, y: float, kind: str = "", *, radius: float = 3.5, point: int | None = None) -> str:
    """A dot at a place from the left and from below; `point` is the candidate that a pointer is told of."""
    number = "" if point is None else f' data-i="{point}"'
    style = f' class="{kind}"' if kind else ""
    hidden = ' visibility="hidden"' if x is None else ""
    return f'<circle cx="{x or 0}%" cy="{up(y)}%" r="{radius:g}"{style}{number}{hidden}/>'


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through places from the left and from below."""
    path = " ".join(f"{x:g},{up(y):g}" for x, y in points)
    return f'{_NESTED}<polyline class="{kind}" points="{path}"/></svg>'


def band(begin: float, end: float, kind: str, name: str = "", *, low: bool = False) -> str:
    """A part of the width, from the one place to the other, with its name on top, or `low` down."""
    at = 'y="100%" dy="-0.5em"' if low else 'y="0" dy="1.1em"'
    told = f'<text class="note" x="{begin}%" dx="4" {at}>{_text(name)}</text>' if name else ""
    return f'<rect class="{kind}" x="{begin}%" width="{max(end - begin, 0):.1f}%" y="0" height="100%"/>{told}'


def spread(places: Sequence[float], gap: float = _LABEL_GAP) -> list[float]:
    """Places of labels that do not stand on each other, each as near to its own as that allows."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    made = list(places)
    for before, number in pairwise(order):
        made[number] = max(made[number], made[before] + gap)
    most = 100.0
    for number in reversed(order):
        made[number] = min(made[number], most)
        most = made[number] - gap
    return [round(place, 1) for place in made]


def _marks(marks: Sequence[Mark], scale: Scale) -> str:
    at = [up(min(max(scale.at(mark.value), 0), 100)) for mark in marks]
    made = []
    for mark, place, label in zip(marks, at, spread(at), strict=True):
        made.append(
            f'<g class="mark {mark.kind}"><line x1="0" x2="100%" y1="{place}%" y2="{place}%"/>'
            f'<svg x="100%" width="100%" height="100%"><line x1="0" x2="9" y1="{place}%" y2="{label}%"/></svg>'
            f'<text x="100%" dx="12" y="{label}%" dy="0.32em">{_text(mark.name)}'
            f'<tspan class="figure-of"> {_text(mark.text)}</tspan></text></g>'
        )
    return "".join(made)


def _text(text: str) -> str:
    return html.escape(text)
