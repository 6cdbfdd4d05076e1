"""Statistics of paired blocks. SciPy is loaded on use, so that reading a file costs nothing."""

from __future__ import annotations

import functools
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
    if not samples:
        raise ValueError("a median needs at least one sample")
    low, high = _ends(len(samples), confidence)
    in_order = sorted(samples)
    return Interval(
        median=statistics.median(in_order),
        low=-math.inf if low is None else float(in_order[low]),
        high=math.inf if high is None else float(in_order[high]),
    )


def chance_below(limit: float, centre: float, spread: float, freedom: float) -> float:
    """The chance that y lies below a limit: Student's t of so many degrees of freedom, `spread` wide about `centre`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, (limit - centre) / spread))


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


@functools.lru_cache(maxsize=1024)
def _ends(count: int, confidence: float) -> tuple[int | None, int | None]:
    """Which of so many samples in order, counted from 0, the interval ends with; None where too few prove nothing.

    It is the same for all samples, and SciPy takes two milliseconds to find it: a run asks some hundred times.
    """
    from scipy.stats import quantile_test

    test = quantile_test(list(range(count)), p=0.5, alternative="two-sided")
    interval = test.confidence_interval(confidence_level=confidence)
    low, high = (None if math.isnan(end) else int(end) for end in (interval.low, interval.high))
    return low, high
