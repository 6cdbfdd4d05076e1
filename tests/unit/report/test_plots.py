"""Where values stand in a plot, which ticks it has, and which parameter is told to have mattered."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.report.html.data import Point
from fusetune.report.html.gains import GainScale
from fusetune.report.html.parameters import parameters, varying_numbers
from fusetune.report.html.plot import Scale, around, spread, time_axis
from fusetune.units import format_factor


def point(time_us: float, *, chosen: bool = False, named: str = "", **values: object) -> Point:
    return Point(
        id=0,
        label="x",
        values=values,  # type: ignore[arg-type]
        is_library=False,
        status="checked",
        time_us=time_us,
        registers=None,
        stack_bytes=None,
        shared_bytes=None,
        chosen=chosen,
        named=named,
    )


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=20))
def test_every_value_stands_within_the_scale_around_them(values: list[float]) -> None:
    scale = around(values, log=True)
    assert all(0 <= scale.at(value) <= 100 for value in values)
    ordered = sorted(values)
    assert [scale.at(value) for value in ordered] == sorted(scale.at(value) for value in ordered)


@given(st.floats(1e-3, 1e6), st.floats(1.0001, 1e6), st.booleans())
def test_ticks_are_few_round_and_within_the_scale(low: float, factor: float, log: bool) -> None:
    ticks = Scale(low, low * factor, log=log).ticks()
    assert 1 <= len(ticks) <= 12
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)


@given(st.lists(st.floats(0, 100), max_size=8))
def test_labels_keep_their_order_and_do_not_stand_on_each_other(places: list[float]) -> None:
    made = spread(places, gap=7)
    pairs = sorted(zip(places, made, strict=True))
    assert all(two - one >= 6.9 for (_, one), (_, two) in pairwise(pairs))
    assert all(one <= 100 for one in made)


def test_an_axis_of_times_has_the_unit_that_suits_them() -> None:
    assert [time_axis(times, "t").title for times in ((3.0, 90.0), (900.0, 4e3), (5e6, 9e6))] == [
        "t, us",
        "t, ms",
        "t, s",
    ]


@given(st.lists(st.floats(-5, 0.999), min_size=1, max_size=10))
def test_a_scale_of_gains_shows_every_gain_and_the_needed_one_apart_from_zero(gains: list[float]) -> None:
    scale = GainScale(gains, 0.02)
    assert all(0 <= scale.at(gain) <= 100 for gain in (*gains, 0.0, 0.02))
    assert scale.at(0.02) >= scale.at(0.0)
    assert len(scale.ticks()) <= 10


def test_a_gain_of_half_and_a_quarter_left_are_as_far_apart() -> None:
    scale = GainScale([0.0, 0.75], 0.02)
    assert scale.at(0.75) - scale.at(0.5) == pytest.approx(scale.at(0.5) - scale.at(0.0), abs=0.2)


def test_an_interval_that_few_blocks_left_open_goes_to_the_ends() -> None:
    drawn = GainScale([0.5], 0.02).interval(0.5, -math.inf, math.inf, "inconclusive")
    assert 'x1="0.0%" x2="100.0%"' in drawn


def test_the_parameter_that_costs_most_comes_first_with_what_the_references_value_costs() -> None:
    points = [
        point(10.0, BLOCK=64, num_warps=4, chosen=True),
        point(11.0, BLOCK=64, num_warps=8),
        point(30.0, BLOCK=32, num_warps=4, named="BASELINE"),
    ]
    first, second = parameters(points)
    assert (first.name, first.worth, first.costs, first.kept, first.reference) == ("BLOCK", 3.0, 3.0, 64, 32)
    assert (second.name, second.best_us, second.costs) == ("num_warps", (10.0, 11.0), 1.0)
    assert varying_numbers(points) == ["BLOCK", "num_warps"]


def test_a_parameter_with_one_value_is_not_told() -> None:
    assert parameters([point(1.0, BLOCK=1), point(2.0, BLOCK=1)]) == []


@pytest.mark.parametrize(
    ("ratio", "told"), [(6.917, "6.9x"), (1.537, "1.54x"), (0.918, "0.92x"), (26.3, "26x"), (1.999, "2.0x"), (0.0, "-")]
)
def test_a_factor_is_told_with_the_digits_that_it_is_worth(ratio: float, told: str) -> None:
    assert format_factor(ratio) == told
