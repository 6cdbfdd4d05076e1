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
