"""The keep rule: what gain is, what an interval of it proves, and which of three configs stays."""

import itertools
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.core.decision import (
    LOOKS,
    REASON_TEXT,
    Decision,
    Gain,
    KeepRule,
    Outcome,
    Reason,
    choose,
    decide,
    gain,
    gain_from_log_ratio,
    inverted,
    summarize,
)

# Pairs of times in microseconds that are exactly two percent apart on paper, and not quite so in binary.
EXACTLY_TWO_PERCENT = [(9.8, 10.0), (12.936, 13.2), (890.82, 909.0), (0.98, 1.0), (3.038, 3.1), (4704.0, 4800.0)]
JUST_UNDER_TWO_PERCENT = [(9.801, 10.0), (12.93732, 13.2), (890.9109, 909.0)]  # a gain of 1.99 %
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

times = st.floats(min_value=1e-2, max_value=1e7)


def interval(low: float, high: float, min_gain: float = 0.02) -> Gain:
    return Gain((low + high) / 2, low, high, confidence=0.95, min_gain=min_gain, blocks=25)


def blocks(time_us: float, baseline_us: float, count: int = 25) -> list[float]:
    """Paired blocks without noise."""
    return [math.log(time_us / baseline_us)] * count


def test_a_gain_is_the_share_of_the_baseline_s_time_that_is_saved() -> None:
    assert gain(5.0, 10.0) == 0.5
    assert gain(10.0, 10.0) == 0.0
    assert gain(12.0, 10.0) == pytest.approx(-0.2)
    assert gain(98.0, 100.0) == pytest.approx(0.02)


@given(time_us=times, baseline_us=times)
def test_a_log_ratio_tells_the_same_gain_as_the_two_times(time_us: float, baseline_us: float) -> None:
    assert gain_from_log_ratio(math.log(time_us / baseline_us)) == pytest.approx(
        gain(time_us, baseline_us), rel=1e-9, abs=1e-9
    )


def test_a_tiny_log_ratio_keeps_its_digits() -> None:
    """1 - exp(x) would round a gain of 1e-17 to nothing."""
    assert gain_from_log_ratio(-1e-17) == 1e-17


@pytest.mark.parametrize(("time_us", "baseline_us"), EXACTLY_TWO_PERCENT)
def test_a_gain_of_exactly_two_percent_is_kept(time_us: float, baseline_us: float) -> None:
    assert decide(summarize(blocks(time_us, baseline_us), KeepRule())) == "keep"
    figure = gain(time_us, baseline_us)
    assert decide(interval(figure, figure)) == "keep"
    assert decide(interval(figure, 0.5)) == "keep"


def test_rounding_really_takes_something_from_exactly_two_percent() -> None:
    """Without this the test above would pass whatever `decide` does about rounding."""
    assert any(gain(time_us, baseline_us) < 0.02 for time_us, baseline_us in EXACTLY_TWO_PERCENT)
    assert any(
        summarize(blocks(time_us, baseline_us), KeepRule()).low < 0.02 for time_us, baseline_us in EXACTLY_TWO_PERCENT
    )


@pytest.mark.parametrize(("time_us", "baseline_us"), JUST_UNDER_TWO_PERCENT)
def test_a_gain_of_1_99_percent_is_not_kept(time_us: float, baseline_us: float) -> None:
    assert gain(time_us, baseline_us) == pytest.approx(0.0199)
    assert decide(summarize(blocks(time_us, baseline_us), KeepRule())) == "revert"
    figure = gain(time_us, baseline_us)
    assert decide(interval(figure, figure)) == "revert"


def test_a_millionth_of_a_percent_too_little_is_too_little() -> None:
    """What is forgiven is rounding, not a shortfall that a clock could ever see."""
    assert decide(interval(0.02 - 1e-8, 0.02 - 1e-8)) == "revert"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.021, 0.40, "keep"),
        (0.019, 0.40, "inconclusive"),
        (-0.50, 0.0199, "revert"),
        (-0.50, -0.40, "revert"),
        (-0.50, 0.02, "inconclusive"),
        (-0.50, 1 - 9.8 / 10.0, "inconclusive"),
        (-math.inf, 1.0, "inconclusive"),
        (-math.inf, 0.0, "revert"),
    ],
)
def test_the_whole_interval_has_to_lie_on_one_side_of_the_minimum(low: float, high: float, outcome: Outcome) -> None:
    assert decide(interval(low, high)) == outcome


def test_the_minimum_is_the_one_that_was_asked_for() -> None:
    assert decide(interval(0.04, 0.06, min_gain=0.05)) == "inconclusive"
    assert decide(interval(0.04, 0.06, min_gain=0.03)) == "keep"
    assert decide(interval(0.04, 0.06, min_gain=0.07)) == "revert"
    five = summarize(blocks(97.0, 100.0), KeepRule(min_gain=0.05))
    assert (five.min_gain, decide(five)) == (0.05, "revert")


def test_a_median_beyond_the_minimum_proves_nothing_while_the_interval_straddles_it() -> None:
    measured = summarize([math.log(0.84 + 0.01 * step) for step in range(25)], KeepRule())
    assert measured.median == pytest.approx(0.04)
    assert measured.low < 0.02 < measured.high
    assert decide(measured) == "inconclusive"


def test_the_ends_of_a_gain_are_not_swapped_on_the_way_from_log_ratios() -> None:
    measured = summarize([math.log(0.90 + 0.001 * step) for step in range(25)], KeepRule())
    assert measured.low < measured.median < measured.high
    assert measured.median == pytest.approx(1 - 0.912)
    assert (measured.blocks, measured.confidence, measured.min_gain) == (25, 0.95, 0.02)


def test_a_handful_of_blocks_settles_nothing_however_large_the_gain() -> None:
    assert decide(summarize(blocks(5.0, 10.0, count=4), KeepRule())) == "inconclusive"


def test_one_look_at_one_pair_spends_a_fifth_of_the_error_budget() -> None:
    assert len(LOOKS) == 5
    assert KeepRule().look_confidence(1) == pytest.approx(0.99)


@given(
    confidence=st.floats(min_value=0.51, max_value=0.999),
    looks=st.integers(min_value=1, max_value=10),
    comparisons=st.integers(min_value=1, max_value=20),
)
def test_all_looks_at_all_pairs_together_spend_the_error_budget_and_no_more(
    confidence: float, looks: int, comparisons: int
) -> None:
    rule = KeepRule(confidence=confidence, looks=tuple(range(25, 25 + looks)))
    spent = looks * comparisons * (1 - rule.look_confidence(comparisons))
    assert spent == pytest.approx(1 - confidence, rel=1e-6)


def test_more_comparisons_need_a_wider_interval() -> None:
    samples = [math.log(0.90 + 0.001 * step) for step in range(25)]
    one, many = summarize(samples, KeepRule(), comparisons=1), summarize(samples, KeepRule(), comparisons=8)
    assert many.low < one.low < one.high < many.high
    assert many.confidence == one.confidence == 0.95


# best over BASELINE, best over conservative, conservative over BASELINE -> which config stays, and the verdict.
TRUTH_TABLE = """
    keep         keep         keep          best          keep
    keep         keep         revert        best          keep
    keep         keep         inconclusive  best          keep
    keep         revert       keep          conservative  keep
    keep         inconclusive keep          conservative  keep
    revert       keep         keep          conservative  keep
    revert       revert       keep          conservative  keep
    revert       inconclusive keep          conservative  keep
    inconclusive keep         keep          conservative  keep
    inconclusive revert       keep          conservative  keep
    inconclusive inconclusive keep          conservative  keep
    keep         revert       revert        baseline      revert
    revert       keep         revert        baseline      revert
    revert       revert       revert        baseline      revert
    revert       inconclusive revert        baseline      revert
    inconclusive revert       revert        baseline      revert
    keep         inconclusive revert        baseline      inconclusive
    inconclusive keep         revert        baseline      inconclusive
    inconclusive inconclusive revert        baseline      inconclusive
    keep         revert       inconclusive  baseline      inconclusive
    keep         inconclusive inconclusive  baseline      inconclusive
    revert       keep         inconclusive  baseline      inconclusive
    revert       revert       inconclusive  baseline      inconclusive
    revert       inconclusive inconclusive  baseline      inconclusive
    inconclusive keep         inconclusive  baseline      inconclusive
    inconclusive revert       inconclusive  baseline      inconclusive
    inconclusive inconclusive inconclusive  baseline      inconclusive
"""
ROWS = [line.split() for line in TRUTH_TABLE.split("\n") if line.strip()]


def test_the_truth_table_below_is_whole() -> None:
    assert sorted(tuple(row[:3]) for row in ROWS) == sorted(itertools.product(OUTCOMES, repeat=3))


@pytest.mark.parametrize(("over_baseline", "over_conservative", "conservative", "choice", "verdict"), ROWS)
def test_a_config_with_other_warps_or_stages_stays_only_if_it_gains_on_both_readings_of_the_baseline(
    over_baseline: Outcome, over_conservative: Outcome, conservative: Outcome, choice: str, verdict: str
) -> None:
    decision = choose(over_baseline, over_conservative, conservative)
    assert (decision.choice, decision.verdict) == (choice, verdict)


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        ("keep", Decision("conservative", "keep", "gain_confirmed")),
        ("revert", Decision("baseline", "revert", "gain_below_minimum")),
        ("inconclusive", Decision("baseline", "inconclusive", "budget_exhausted")),
    ],
)
def test_a_best_config_that_is_the_conservative_one_answers_to_baseline_alone(
    outcome: Outcome, decision: Decision
) -> None:
    assert choose(outcome, None, outcome) == decision


@pytest.mark.parametrize(("best", "conservative"), list(itertools.product(OUTCOMES, ["revert", "inconclusive"])))
def test_nothing_is_kept_that_did_not_gain_on_baseline_itself(best: Outcome, conservative: Outcome) -> None:
    assert choose(best, None, conservative).choice == "baseline"


def possible_choices(*outcomes: Outcome) -> set[str]:
    """What the rule would say in every way that the doubts can still resolve."""
    resolved = [("keep", "revert") if outcome == "inconclusive" else (outcome,) for outcome in outcomes]
    return {
        "best" if best == over == "keep" else "conservative" if conservative == "keep" else "baseline"
        for best, over, conservative in itertools.product(*resolved)
    }


@pytest.mark.parametrize("outcomes", list(itertools.product(OUTCOMES, repeat=3)))
def test_baseline_stays_for_certain_just_where_no_doubt_left_could_change_it(
    outcomes: tuple[Outcome, Outcome, Outcome],
) -> None:
    decision = choose(*outcomes)
    assert decision.choice in possible_choices(*outcomes)
    assert (decision.verdict == "revert") == (possible_choices(*outcomes) == {"baseline"})


@pytest.mark.parametrize("outcomes", list(itertools.product(OUTCOMES, [*OUTCOMES, None], OUTCOMES)))
def test_the_reason_goes_with_the_verdict_and_the_config_that_stays(
    outcomes: tuple[Outcome, Outcome | None, Outcome],
) -> None:
    decision = choose(*outcomes)
    meant = {
        ("best", "keep"): "gain_confirmed",
        ("conservative", "keep"): "gain_confirmed" if outcomes[1] is None else "conservative_gain_confirmed",
        ("baseline", "revert"): "gain_below_minimum",
        ("baseline", "inconclusive"): "budget_exhausted",
    }
    assert decision.reason == meant[decision.choice, decision.verdict]


def test_every_reason_can_be_told_in_words() -> None:
    assert set(REASON_TEXT) == set(get_args(Reason))
    assert all(len(text.split()) >= 4 for text in REASON_TEXT.values())
    assert len(set(REASON_TEXT.values())) == len(REASON_TEXT)


@given(st.lists(st.floats(-2, 2), min_size=25, max_size=40))
def test_a_gain_seen_from_the_other_side_is_that_of_the_same_blocks_the_other_way_round(ratios: list[float]) -> None:
    there, back = inverted(summarize(ratios, KeepRule())), summarize([-ratio for ratio in ratios], KeepRule())
    assert (there.median, there.low, there.high) == pytest.approx((back.median, back.low, back.high), abs=1e-9)
    assert (there.blocks, there.min_gain, there.confidence) == (back.blocks, back.min_gain, back.confidence)


def test_an_unbounded_gain_stays_unbounded_on_the_other_side() -> None:
    few = inverted(summarize([0.1, 0.2], KeepRule()))
    assert (few.low, few.high) == (-math.inf, 1.0)
