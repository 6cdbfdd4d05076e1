"""The distribution-free interval of the median."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.core.stats import median_interval

figures = st.floats(min_value=-1e6, max_value=1e6)
confidences = st.sampled_from([0.6, 0.8, 0.9, 0.95, 0.99, 0.9975, 0.999])


def rank_of_the_lower_end(count: int, confidence: float) -> int:
    """By hand: the largest r with P(fewer than r of `count` fair coins fall heads) <= (1 - confidence) / 2; 0 if none.

    The interval then reaches from the r-th smallest sample to the r-th largest.
    """
    tail, rank = 0.0, 0
    while True:
        tail += math.comb(count, rank) / 2**count
        if tail > (1 - confidence) / 2:
            return rank
        rank += 1


@pytest.mark.parametrize(("confidence", "rank"), [(0.95, 8), (0.99, 6), (0.9975, 5)])
def test_of_25_samples_the_interval_ends_at_the_order_statistics_of_the_binomial(confidence: float, rank: int) -> None:
    """P(X <= 7) = 0.0216 and P(X <= 8) = 0.0539 for 25 fair coins: at 95 % the 8th smallest and the 8th largest."""
    assert rank_of_the_lower_end(25, confidence) == rank
    samples = [float(step * step) for step in range(1, 26)]
    random.Random(4).shuffle(samples)
    found = median_interval(samples, confidence)
    assert (found.low, found.median, found.high) == (rank**2, 13**2, (26 - rank) ** 2)


@given(samples=st.lists(figures, min_size=1, max_size=60), confidence=confidences)
def test_any_number_of_samples_gives_the_order_statistics_that_the_binomial_names(
    samples: list[float], confidence: float
) -> None:
    rank = rank_of_the_lower_end(len(samples), confidence)
    ordered = sorted(samples)
    found = median_interval(samples, confidence)
    assert found.low == (ordered[rank - 1] if rank else -math.inf)
    assert found.high == (ordered[-rank] if rank else math.inf)


@pytest.mark.parametrize(
    ("count", "confidence", "enough"), [(5, 0.95, False), (6, 0.95, True), (7, 0.99, False), (8, 0.99, True)]
)
def test_too_few_samples_for_the_confidence_leave_the_ends_open(count: int, confidence: float, enough: bool) -> None:
    found = median_interval([float(step) for step in range(count)], confidence)
    ends = (0.0, count - 1.0) if enough else (-math.inf, math.inf)
    assert (found.low, found.high) == ends
    assert found.median == (count - 1) / 2


def test_a_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        median_interval([], 0.95)


def test_the_samples_stay_in_their_order() -> None:
    samples = [3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 8.0]
    before = list(samples)
    median_interval(samples, 0.95)
    assert samples == before


def test_an_even_number_of_samples_has_its_median_half_way() -> None:
    assert median_interval([4.0, 1.0, 2.0, 10.0], 0.5).median == 3.0


def test_the_interval_covers_the_median_of_a_skewed_distribution_as_often_as_it_says() -> None:
    """Exactly 95.7 % for the 8th to the 18th of 25; one rank less would cover 89.2 %, one more 98.5 %."""
    rng = random.Random(20261123)
    draws, covered = 2000, 0
    for _ in range(draws):
        found = median_interval([rng.lognormvariate(0.0, 1.5) for _ in range(25)], 0.95)
        covered += found.low <= 1.0 <= found.high
    chance = 3 * math.sqrt(0.95 * 0.05 / draws)
    assert 0.95 - chance <= covered / draws <= 0.957 + chance


@given(samples=st.lists(figures, min_size=1, max_size=60), confidence=confidences)
def test_the_median_lies_within_its_interval(samples: list[float], confidence: float) -> None:
    found = median_interval(samples, confidence)
    assert found.low <= found.median <= found.high


@given(samples=st.lists(figures, min_size=1, max_size=60), one=confidences, other=confidences)
def test_more_confidence_never_takes_a_narrower_interval(samples: list[float], one: float, other: float) -> None:
    less, more = sorted((one, other))
    narrow, wide = median_interval(samples, less), median_interval(samples, more)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
