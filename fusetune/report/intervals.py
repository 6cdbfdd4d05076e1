"""Intervals of gains drawn with characters, on one scale, against the minimum that they have to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusetune.core.decision import Gain

MIN_WIDTH = 20


def draw_intervals(gains: Sequence[Gain], min_gain: float, *, width: int) -> list[str]:
    """One line of `width` characters a gain: `[` and `]` its interval's ends, `o` its median, `|` the minimum.

    The scale begins at zero, or below it where an interval does, and ends a little above the largest end.
    """
    if not gains:
        return []
    width = max(width, MIN_WIDTH)
    ends = [end for gain in gains for end in (gain.low, gain.high) if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([2 * min_gain, *ends])
    span = (high - low) or 1.0

    def column(value: float) -> int:
        share = min(1.0, max(0.0, (value - low) / span))  # An interval of too few blocks has no end.
        return round(share * (width - 1))

    lines = []
    for gain in gains:
        letters = ["."] * width
        first, last = column(gain.low), column(gain.high)
        letters[first : last + 1] = "-" * (last + 1 - first)
        letters[first], letters[last] = "[", "]"
        letters[column(gain.median)] = "o"
        letters[column(min_gain)] = "|"
        lines.append("".join(letters))
    return lines
