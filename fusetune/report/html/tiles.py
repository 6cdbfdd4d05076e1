"""The heat map: the best time of each pair of values of two parameters, with its colour bar."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Final

from fusetune.core.values import Value
from fusetune.report.html.data import Point, RunData
from fusetune.report.html.figures import Figure
from fusetune.report.html.parameters import varying_numbers
from fusetune.report.html.plot import Mark, Scale, spread, up

_RAMP: Final = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
"""Viridis at 0, 0.2, ... 1: equal steps to the eye, in print and to the colour-blind (matplotlib, CC0)."""
_OPTIONS: Final = ("num_warps", "num_stages", "num_ctas", "maxnreg")


def tiles(run: RunData, prefix: str) -> Figure | None:
    """The two constants first named, where two vary, else those of the options; None where fewer than two vary."""
    varying = varying_numbers(run.points)
    names = [*(name for name in varying if name not in _OPTIONS), *(name for name in varying if name in _OPTIONS)]
    if len(names) < 2:
        return None
    down, along = names[:2]
    best: dict[tuple[Value, Value], Point] = {}
    for point in run.points:  # The fastest come first.
        if not point.is_library and down in point.values and along in point.values:
            best.setdefault((point.values[down], point.values[along]), point)
    rows, columns = sorted({row for row, _ in best}, key=_number), sorted({at for _, at in best}, key=_number)
    times = [*(point.time_us for point in best.values()), *(mark.value for mark in run.marks)]
    scale = Scale(min(times), max(*times, min(times) * 1.001), log=True)
    numbers = {point.id: number for number, point in enumerate(run.points)}
    cells, frames = [], []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            place = (100 * j / len(columns), 100 * (len(rows) - 1 - i) / len(rows))
            size = (100 / len(columns), 100 / len(rows))
            found = best.get((row, column))
            if found is not None:
                cells.append(_cell(place, size, found, scale, numbers[found.id]))
            frames += [
                _frame(place, size, kind)
                for kind, point in _marked(run)
                if (point.values.get(down), point.values.get(along)) == (row, column)
            ]
    below = "".join(
        f'<text x="{100 * (j + 0.5) / len(columns):.1f}%" y="100%" dy="1.5em">{column}</text>'
        for j, column in enumerate(columns)
    )
    beside = "".join(
        f'<text x="0" dx="-8" y="{100 * (len(rows) - i - 0.5) / len(rows):.1f}%" dy="0.32em">{row}</text>'
        for i, row in enumerate(rows)
    )
    told = f"The best {run.what} of each {down} x {along}, in us. Outlined: where the marked configs stand."
    body = (
        f'<div class="plot map"><svg role="img" aria-label="{html.escape(told)}">{"".join(cells)}{"".join(frames)}'
        f'<g class="ticks xs">{below}</g><g class="ticks ys">{beside}</g>'
        f'<text class="title x" x="50%" y="100%" dy="3em">{html.escape(along)}</text>'
        f'<text class="title" x="0" dx="-3em" y="0" dy="-0.8em">{html.escape(down)}</text>'
        f"{_bar(scale, run.marks, prefix)}</svg></div>"
    )
    return Figure(f"{prefix}tiles", "Tiles", told, body)


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else math.inf


def _marked(run: RunData) -> list[tuple[str, Point]]:
    """What is outlined, the kept one last, so that it lies on top."""
    held = "before" if run.summary.before is not None else "baseline"
    marked = [(held, point) for point in run.points if point.named]
    if run.summary.before is not None:
        times = {mark.value for mark in run.marks if mark.kind == "baseline"}
        marked += [("baseline", point) for point in run.points if point.time_us in times and not point.chosen][:1]
    return [*marked, *(("kept", point) for point in run.points if point.chosen and not point.named)]


def _cell(place: tuple[float, float], size: tuple[float, float], point: Point, scale: Scale, number: int) -> str:
    share = scale.at(point.time_us) / 100
    ink = "light" if share > 0.45 else "ink"
    return (
        f'<rect class="cell" x="{place[0]:.2f}%" y="{place[1]:.2f}%" width="{size[0]:.2f}%" height="{size[1]:.2f}%" '
        f'fill="{_color(share)}" data-i="{number}"/>'
        f'<text class="in-cell {ink}" x="{place[0] + size[0] / 2:.2f}%" y="{place[1] + size[1] / 2:.2f}%" dy="0.32em">'
        f"{_short(point.time_us)}</text>"
    )


def _short(time_us: float) -> str:
    return f"{time_us:.3g}" if time_us < 1000 else f"{time_us:.0f}"


def _frame(place: tuple[float, float], size: tuple[float, float], kind: str) -> str:
    return (
        f'<rect class="frame {kind}" x="{place[0]:.2f}%" y="{place[1]:.2f}%" width="{size[0]:.2f}%" '
        f'height="{size[1]:.2f}%"/>'
    )


def _bar(scale: Scale, marks: Sequence[Mark], prefix: str) -> str:
    """The colours beside the map: times at its ticks on the left, what is marked on the right."""
    stops = "".join(
        f'<stop offset="{100 * number / (len(_RAMP) - 1):.0f}%" stop-color="{color}"/>'
        for number, color in enumerate(_RAMP)
    )
    inside = [mark for mark in marks if scale.low * 0.999 <= mark.value <= scale.high * 1.001]
    ends = {0.0: scale.low, 100.0: scale.high}
    places = [up(scale.at(mark.value)) for mark in inside]
    taken = spread(places)
    labels = "".join(
        f'<text x="26" y="{up(at)}%" dy="0.32em" class="bar">{_short(value)} us</text>'
        for at, value in ends.items()
        if not any(abs(up(at) - place) < 7 for place in taken)
    )
    labels += "".join(
        f'<g class="mark {mark.kind}"><line x1="10" x2="24" y1="{place}%" y2="{label}%"/>'
        f'<text x="26" y="{label}%" dy="0.32em">{html.escape(mark.name)}'
        f'<tspan class="figure-of"> {html.escape(mark.text)}</tspan></text></g>'
        for mark, place, label in zip(inside, places, taken, strict=True)
    )
    return (
        f'<defs><linearGradient id="{prefix}ramp" x1="0" x2="0" y1="0" y2="1">{stops}</linearGradient></defs>'
        f'<svg x="100%" width="100%" height="100%"><rect x="10" y="0" width="10" height="100%" '
        f'fill="url(#{prefix}ramp)"/>{labels}</svg>'
    )


def _color(share: float) -> str:
    """Fast is bright, slow is dark."""
    at = (1 - min(max(share, 0.0), 1.0)) * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    pairs = zip(_channels(_RAMP[low]), _channels(_RAMP[low + 1]), strict=True)
    return "#" + "".join(f"{round(one + (two - one) * (at - low)):02x}" for one, two in pairs)


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
