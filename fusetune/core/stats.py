"""Statistics of paired blocks. SciPy is loaded on use, so that reading a file costs nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec


def preload() -> None:
    """Load SciPy now: where an interval will be needed later, a thread can do it while something else is waited for."""
    import scipy.stats  # noqa: F401


class Interval(msgspec.Struct, frozen=True):
    """A median between the two ends of its confidence interval."""

    median: float
    low: float
    high: float


def median_interval(samples: Sequence[float], confidence: float) -> Interval:
    """The exact distribution-free confidence interval of the median, from order statistics.

    Source: Conover, Practical Nonparametric Statistics, as scipy.stats.quantile_test implements it. Where there are
    too few samples for the confidence asked, an end is infinite: nothing is proved. The median is the usual one,
    the mean of the two middle samples when their number is even.
    """
    from scipy.stats import quantile_test

    if not samples:
        raise ValueError("a median needs at least one sample")
    test = quantile_test(list(samples), p=0.5, alternative="two-sided")
    interval = test.confidence_interval(confidence_level=confidence)
    low, high = float(interval.low), float(interval.high)
    return Interval(
        median=statistics.median(samples),
        low=-math.inf if math.isnan(low) else low,
        high=math.inf if math.isnan(high) else high,
    )


def chances_below(
    known: Sequence[tuple[float, float]], asked: Sequence[tuple[float, float]], *, least_spread: float
) -> list[float]:
    """The chance that y lies below its limit, of each x with a limit in `asked`, by the points x, y that are `known`.

    From the prediction interval of a straight line by least squares, with Student's t: what is far from the known
    points is less certain. The line is level or falls, never rises. Points are taken to lie around it by
    `least_spread` (one standard deviation) at least. Raises ValueError for fewer than three points.
    """
    import numpy
    from scipy.special import stdtr

    if len(known) < 3:
        raise ValueError("a line and its spread need at least three points")
    x, y = numpy.asarray(known, dtype=float).T
    at, limits = numpy.asarray(asked, dtype=float).reshape(-1, 2).T
    mean, across = x.mean(), x - x.mean()
    squares = float(across @ across)
    slope = min(float(across @ y) / squares, 0.0) if squares > 0 else 0.0
    left = y - y.mean() - slope * across
    freedom = len(x) - (2 if slope < 0 else 1)
    spread = max(math.sqrt(float(left @ left) / freedom), least_spread)
    away = (at - mean) ** 2 / squares if slope < 0 else 0.0
    line = y.mean() + slope * (at - mean)
    chances: list[float] = stdtr(freedom, (limits - line) / (spread * numpy.sqrt(1 + 1 / len(x) + away))).tolist()
    return chances
