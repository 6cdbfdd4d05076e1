"""Gains as intervals: all on one scale, which shows the gain that is needed, and each on a scale of its own."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

from fusetune.report import wording
from fusetune.report.html.data import Pair, RunData
from fusetune.report.html.figures import Figure
from fusetune.report.html.plot import Scale
from fusetune.report.model import GainFigures, ProblemRow
from fusetune.units import format_factor, format_gain, format_interval

_TICKS: Final = (-3.0, -1.0, -0.5, -0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_TICK_ROOM: Final = 11.0
"""Per cent of the width that a tick's words take."""
BEYOND: Final = ' class="beyond"'
_MOST_BLOCKS: Final = 400
_NEAR: Final = 4.0
"""The needed gain is on a pair's own scale where it is nearer than so many of its spreads."""


class GainScale:
    """Gains by the ratio of times that they mean: from 50 to 75 % is as far as from 0 to 50 %, each twice as fast.

    Large gains have room on it for their intervals, and small ones for the line of what is needed.
    """

    def __init__(self, gains: Iterable[float], min_gain: float) -> None:
        held = [gain for gain in gains if math.isfinite(gain) and gain < 1]
        low, high = min([*held, 0.0]), max([*held, 2.5 * min_gain, 0.05])
        margin = 0.06 * (_log(high) - _log(low))
        self.scale = Scale(_log(low) - margin, _log(high) + margin)
        self.min_gain = min_gain

    def at(self, gain: float) -> float:
        """The place of a gain from the left, in per cent."""
        return self.scale.at(_log(gain))

    def ticks(self) -> list[tuple[float, str]]:
        """Round gains with room between them, 0 first of all."""
        places = [(self.at(gain), gain) for gain in _TICKS if self.scale.low <= _log(gain) <= self.scale.high]
        kept: list[tuple[float, float]] = []
        for at, gain in sorted(places, key=lambda one: abs(one[1])):
            if all(abs(at - other) >= _TICK_ROOM for other, _ in kept):
                kept.append((at, gain))
        return [(at, _percent(gain)) for at, gain in sorted(kept)]

    def lines(self) -> str:
        """No gain, and the gain that is needed."""
        return "".join(
            f'<line class="{kind}" x1="{self.at(gain)}%" x2="{self.at(gain)}%" y1="0" y2="100%"/>'
            for kind, gain in (("zero", 0.0), ("needed", self.min_gain))
        )

    def interval(self, median: float, low: float, high: float, kind: str) -> str:
        """An interval with its median; one that too few blocks left open goes to the scale's end."""
        ends = [self.at(gain) if math.isfinite(gain) else end for gain, end in ((low, 0.0), (high, 100.0))]
        return (
            f'<line class="interval {kind}" x1="{ends[0]}%" x2="{ends[1]}%" y1="50%" y2="50%"/>'
            f'<circle class="median {kind}" cx="{self.at(median)}%" cy="50%" r="4.5"/>'
        )

    def axis(self) -> str:
        """The ticks in words, for the last row."""
        ticks = "".join(f'<text x="{at}%" y="0" dy="1em">{label}</text>' for at, label in self.ticks())
        return (
            f'<svg class="track axis" aria-hidden="true"><g class="ticks xs">{ticks}</g>'
            f'<text class="needed-text" x="{self.at(self.min_gain)}%" y="0" dy="2.3em">'
            f"{self.min_gain * 100:g} % needed</text></svg>"
        )


def _log(gain: float) -> float:
    return -math.log1p(-min(gain, 1 - 1e-9))


def _percent(gain: float) -> str:
    return f"{gain * 100:+.3g} %" if gain else "0"


def gains(run: RunData, prefix: str) -> Figure:
    """The comparisons of a run, each on the scale of all and on its own, with its blocks."""
    scale = GainScale([value for pair in run.pairs for value in (pair.median, pair.low, pair.high)], _needed(run))
    rows = "".join(_row(pair, scale) for pair in run.pairs)
    body = (
        '<div class="rows gains"><div class="row heads" aria-hidden="true"><span class="name"></span>'
        '<span>all on one scale</span><span>its blocks, on its own scale</span><span class="value"></span></div>'
        f'{rows}<div class="row"><span class="name"></span>{scale.axis()}<span></span><span></span></div></div>'
    )
    told = (
        f"Bars: intervals of the median at {run.summary.rule.confidence * 100:g} % in all; dashed: the "
        f"{_needed(run) * 100:g} % that a gain must surely have. Time saved, so that 50 % is twice as fast. "
        "Hollow: a block beyond its scale."
    )
    return Figure(f"{prefix}gains", "Gains, in paired blocks", told, body, wide=True)


def _needed(run: RunData) -> float:
    return run.summary.rule.min_gain


def _row(pair: Pair, scale: GainScale) -> str:
    gain = wording.gain_text(GainFigures(pair.median, pair.low, pair.high))
    named = f"{pair.phase}: {pair.config} over {pair.over}"
    kind = pair.outcome if pair.outcome in {"keep", "revert", "inconclusive"} else "beside"
    return (
        f'<div class="row"><span class="name"><b>{html.escape(pair.phase)}</b> {html.escape(pair.config)} '
        f"over {html.escape(pair.over)}</span>"
        f'<svg class="track" role="img" aria-label="{html.escape(f"{named}: {gain}")}">{_grid(scale)}{scale.lines()}'
        f"{scale.interval(pair.median, pair.low, pair.high, kind)}</svg>{_zoom(pair, scale.min_gain, kind)}"
        f'<span class="value"><b>{html.escape(gain)}</b> {wording.plural(len(pair.gains), "block")}, '
        f"{html.escape(pair.outcome)}</span></div>"
    )


def _grid(scale: GainScale) -> str:
    lines = "".join(f'<line x1="{at}%" x2="{at}%" y1="0" y2="100%"/>' for at, _ in scale.ticks())
    return f'<g class="grid">{lines}</g>'


def _zoom(pair: Pair, needed: float, kind: str) -> str:
    """The blocks of a pair as dots over its interval, on a scale that they fill."""
    held = [gain for gain in pair.gains if math.isfinite(gain)]
    if not held:
        return "<span></span>"
    low, high = _middle(held, pair)
    if abs(pair.median - needed) < _NEAR * (high - low):
        low, high = min(low, needed), max(high, needed)
    margin = 0.06 * (high - low) or 1e-4
    scale = Scale(low - margin, high + margin)
    step = -(-len(held) // _MOST_BLOCKS)
    dots = "".join(
        f'<circle cx="{min(max(scale.at(gain), 0), 100)}%" cy="{20 + 48 * ((number * 0.618) % 1):.0f}%" r="2"'
        f"{'' if low <= gain <= high else BEYOND}/>"
        for number, gain in enumerate(held[::step])
    )
    ends = [scale.at(gain) if math.isfinite(gain) else end for gain, end in ((pair.low, 0.0), (pair.high, 100.0))]
    line = f'<line class="needed" x1="{scale.at(needed)}%" x2="{scale.at(needed)}%" y1="0" y2="78%"/>'
    return (
        f'<svg class="track zoom" aria-hidden="true"><rect class="{kind}" x="{ends[0]}%" y="10%" '
        f'width="{max(ends[1] - ends[0], 0.5):.1f}%" height="66%"/>{line if low <= needed <= high else ""}{dots}'
        f'<text x="0" y="100%">{format_gain(low)}</text><text x="100%" y="100%" class="end">{format_gain(high)}</text>'
        "</svg>"
    )


def _middle(held: Sequence[float], pair: Pair) -> tuple[float, float]:
    """The ends of a scale for blocks: their interval and most of them, so that one odd block does not flatten all."""
    ordered = sorted(held)
    ninth = len(ordered) // 9
    inner = ordered[ninth : len(ordered) - ninth]
    room = inner[-1] - inner[0]
    ends = [gain for gain in (pair.low, pair.high) if math.isfinite(gain)]
    within = [gain for gain in held if inner[0] - room <= gain <= inner[-1] + room]
    return min([*within, *ends]), max([*within, *ends])


def comparison(rows: Sequence[ProblemRow], min_gain: float, links: dict[str, str]) -> Figure:
    """The gain of each problem that was measured, on one scale, with a link to its run's page."""
    held = [(row, row.gain) for row in rows if row.gain is not None]
    scale = GainScale([value for _, gain in held for value in (gain.median, gain.low, gain.high)], min_gain)
    drawn = "".join(
        f'<div class="row"><span class="name">{_linked(row, links)}</span>'
        f'<svg class="track" role="img" aria-label="{html.escape(f"{row.verdict}: {wording.gain_text(gain)}")}">'
        f"{_grid(scale)}{scale.lines()}{scale.interval(gain.median, gain.low, gain.high, row.verdict)}</svg>"
        f'<span class="value">{format_factor(1 / (1 - gain.median))} '
        f"{html.escape(format_interval(gain.low, gain.high))}</span></div>"
        for row, gain in held
    )
    body = f'<div class="rows many">{drawn}<div class="row"><span></span>{scale.axis()}<span></span></div></div>'
    told = (
        f"Each problem's median gain over {wording.reference_header(rows)} with its interval; where nothing is kept, "
        f"that of the best candidate. Dashed: the {min_gain * 100:g} % needed."
    )
    return Figure("comparison", "Gains side by side", told, body, wide=True)


def _linked(row: ProblemRow, links: dict[str, str]) -> str:
    name = html.escape(f"{row.title} {row.problem.describe()}, {row.gpu}")
    return f'<a href="{html.escape(quote(links[row.run]))}">{name}</a>' if row.run in links else name
