"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.units import (
    format_bytes,
    format_gain,
    format_interval,
    format_slower,
    format_speedup,
    format_us,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (5.31, "5.31 us"),
        (13.2, "13.2 us"),
        (482.0, "482 us"),
        (482.4, "482 us"),
        (3521.0, "3.52 ms"),
        (53_000.0, "53.0 ms"),
        (1_000_000.0, "1.00 s"),
        (71_400_000.0, "71.4 s"),
        (0.0, "0 us"),
        (0.05, "0.0500 us"),
        (1.0, "1.00 us"),
    ],
)
def test_a_time_has_three_digits_and_the_unit_that_suits_it(time_us: float, text: str) -> None:
    assert format_us(time_us) == text


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (9.994, "9.99 us"),
        (9.996, "10.0 us"),
        (99.96, "100 us"),
        (999.4, "999 us"),
        (999.6, "1.00 ms"),
        (999_600.0, "1.00 s"),
    ],
)
def test_a_time_that_rounds_up_to_the_next_power_of_ten_keeps_three_digits(time_us: float, text: str) -> None:
    assert format_us(time_us) == text


@given(st.floats(min_value=1e-3, max_value=9.99e8))
def test_a_printed_time_is_within_half_of_its_last_digit(time_us: float) -> None:
    figure, unit = format_us(time_us).split()
    assert float(figure) * {"us": 1, "ms": 1e3, "s": 1e6}[unit] == pytest.approx(time_us, rel=0.00501)
    assert len(figure.replace(".", "").lstrip("0")) == 3


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_where_there_is_no_figure_there_is_a_dash(nothing: float | None) -> None:
    assert format_us(nothing) == format_gain(nothing) == format_speedup(nothing) == "-"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (232, "232 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (49152, "48.0 KiB"),
        (101376, "99.0 KiB"),
        (75497472, "72.0 MiB"),
        (24 << 30, "24.0 GiB"),
        (3 << 40, "3072.0 GiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes_are_binary(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("gain", "text"),
    [(0.598, "+59.8 %"), (0.02, "+2.0 %"), (-0.13, "-13.0 %"), (0.0, "+0.0 %"), (0.0199, "+2.0 %")],
)
def test_a_gain_is_a_signed_percentage(gain: float, text: str) -> None:
    assert format_gain(gain) == text


def test_an_interval_is_its_two_ends_low_first() -> None:
    assert format_interval(0.596, 0.601) == "[+59.6, +60.1] %"
    assert format_interval(-0.02, 0.003) == "[-2.0, +0.3] %"


def test_an_open_end_shows_as_open() -> None:
    assert format_interval(-math.inf, 1.0) == "[-inf, +100.0] %"


@pytest.mark.parametrize(("low", "high"), [(None, 0.1), (0.1, None), (None, None)])
def test_an_interval_without_an_end_is_a_dash(low: float | None, high: float | None) -> None:
    assert format_interval(low, high) == "-"


@pytest.mark.parametrize(
    ("gain", "text"), [(0.598, "2.49x"), (0.5, "2.00x"), (0.0, "1.00x"), (-1.0, "0.50x"), (0.02, "1.02x")]
)
def test_a_speedup_is_baseline_over_candidate(gain: float, text: str) -> None:
    assert format_speedup(gain) == text


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_a_time_of_nothing_has_no_speedup(gain: float) -> None:
    assert format_speedup(gain) == "-"


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (1.34, "34 % slower"),
        (0.971, "2.9 % faster"),
        (1.0996, "10 % slower"),
        (2.5, "150 % slower"),
        (1.0004, "as fast"),
        (0.9996, "as fast"),
        (0.999, "0.1 % faster"),
        (math.inf, "not comparable"),
    ],
)
def test_a_ratio_of_times_is_told_in_words(ratio: float, text: str) -> None:
    assert format_slower(ratio) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("500MB", 500_000_000), (" 1.5 g ", 3 << 29), ("100", 100), ("2 kb", 2000), ("7B", 7)],
)
def test_a_size_is_read_with_its_unit(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "3 parsecs", "9" * 40])
def test_what_is_no_size_is_told(text):
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)
