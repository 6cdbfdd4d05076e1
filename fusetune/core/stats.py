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
