"""Who can still win: what cannot, by what was measured of others, is left out, and what may is not."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping

import pytest

from fusetune.core.config import NamedConfig
from fusetune.core.space import Rejection
from fusetune.core.stats import chances_below
from fusetune.tune.outlook import (
    AGAIN,
    CHANCE,
    EQUAL,
    FIRST,
    FIRST_CONSERVATIVE,
    FIRST_OF_KIND,
    LEAST_MEASURED,
    Outlook,
    pilots_of,
)


def configs(count: int, *, kind: str = "a", num_warps: int = 8, num_stages: int = 3) -> list[NamedConfig]:
    return [NamedConfig(kind=kind, size=n, num_warps=num_warps, num_stages=num_stages) for n in range(count)]


def kind_of(config: NamedConfig) -> object:
    return config.constants()["kind"]


def by_prediction(predicted: Mapping[NamedConfig, float]) -> list[NamedConfig]:
    return sorted(predicted, key=lambda config: predicted[config])


def judged(
    predicted: Mapping[NamedConfig, float],
    times: Mapping[NamedConfig, float],
    waiting: Collection[NamedConfig],
    never: Collection[NamedConfig] = (),
) -> dict[NamedConfig, Rejection]:
    pilots = pilots_of(by_prediction(predicted), kind_of)
    return Outlook(predicted, pilots, kind_of, never).hopeless(waiting, lambda: times, len(times))


def raced(
    predicted: Mapping[NamedConfig, float], true: Mapping[NamedConfig, float]
) -> tuple[dict[NamedConfig, float], set[NamedConfig]]:
    """What is measured where candidates come one by one, the pilots first, and what is dropped on the way."""
    order = by_prediction(predicted)
    pilots = pilots_of(order, kind_of)
    outlook = Outlook(predicted, pilots, kind_of)
    waiting = dict.fromkeys((*pilots, *order))
    times: dict[NamedConfig, float] = {}
    dropped: set[NamedConfig] = set()
    while waiting:
        config = next(iter(waiting))
        del waiting[config]
        times[config] = true[config]
        now = outlook.hopeless(waiting, lambda: times, len(times))
        dropped |= now.keys()
        for one in now:
            del waiting[one]
    return times, dropped


SPREAD_OUT = {config: 10.0 * 1.01**n for n, config in enumerate(configs(300))}
"""The best predicted takes 10 us, the last 198 us."""


def test_what_is_predicted_far_slower_by_a_model_that_is_right_is_dropped_and_what_is_near_is_not() -> None:
    pilots = pilots_of(by_prediction(SPREAD_OUT), kind_of)
    waiting = [config for config in SPREAD_OUT if config not in pilots]
    dropped = judged(SPREAD_OUT, {config: SPREAD_OUT[config] for config in pilots}, waiting)
    assert min(SPREAD_OUT[config] for config in dropped) > 10.0
    assert {config for config in waiting if SPREAD_OUT[config] > 20.0} <= dropped.keys()
    assert {why.reason for why in dropped.values()} == {"cannot_win"}
    detail = next(iter(dropped.values())).detail
    assert f"by {len(pilots)} others of its kind that were timed" in detail


def test_nothing_is_dropped_while_the_pilots_are_not_there_but_for_a_few() -> None:
    pilots = pilots_of(by_prediction(SPREAD_OUT), kind_of)
    others = [config for config in SPREAD_OUT if config not in pilots]
    for there, drops in ((len(pilots) // 2, False), (len(pilots) - 1, True)):
        times = {config: SPREAD_OUT[config] for config in pilots[:there]}
        assert bool(judged(SPREAD_OUT, times, (*pilots[there:], *others))) is drops


def test_without_pilots_nothing_is_dropped() -> None:
    half = by_prediction(SPREAD_OUT)[:150]
    outlook = Outlook(SPREAD_OUT, (), kind_of)
    waiting = [config for config in SPREAD_OUT if config not in half]
    assert outlook.hopeless(waiting, lambda: {config: SPREAD_OUT[config] for config in half}, 150) == {}


def test_the_same_times_are_not_judged_twice() -> None:
    pilots = pilots_of(by_prediction(SPREAD_OUT), kind_of)
    outlook = Outlook(SPREAD_OUT, pilots, kind_of)
    waiting = [config for config in SPREAD_OUT if config not in pilots]
    times = {config: SPREAD_OUT[config] for config in pilots}
    asked = 0

    def counted() -> dict[NamedConfig, float]:
        nonlocal asked
        asked += 1
        return times

    for more in range(AGAIN + 1):
        outlook.hopeless(waiting, counted, len(times) + more)
    assert asked == 2


def test_a_kind_that_the_model_flatters_less_is_not_dropped_with_one_that_it_flatters() -> None:
    """All of the first kind take half as long again as predicted; the second kind, predicted behind them, wins."""
    predicted = {**SPREAD_OUT, **{config: 12.0 * 1.01**n for n, config in enumerate(configs(60, kind="b"))}}
    rng = random.Random(1)
    true = {c: us * (1.5 if kind_of(c) == "a" else 1.0) * math.exp(rng.gauss(0, 0.04)) for c, us in predicted.items()}
    times, dropped = raced(predicted, true)
    assert kind_of(min(true, key=lambda config: true[config])) == "b"
    assert min(times.values()) == min(true.values())
    assert len([config for config in dropped if kind_of(config) == "a"]) > 200


def test_a_kind_of_which_too_few_were_measured_is_left_alone() -> None:
    predicted = {**SPREAD_OUT, **{config: 100.0 + n for n, config in enumerate(configs(30, kind="b"))}}
    pilots = pilots_of(by_prediction(predicted), kind_of)
    measured = [config for config in pilots if kind_of(config) == "b"][: LEAST_MEASURED - 1]
    times = {config: predicted[config] for config in (*(c for c in pilots if kind_of(c) == "a"), *measured)}
    dropped = judged(predicted, times, [config for config in predicted if config not in pilots])
    assert {kind_of(config) for config in dropped} == {"a"}


def test_what_must_be_tried_is_never_dropped() -> None:
    pilots = pilots_of(by_prediction(SPREAD_OUT), kind_of)
    times = {config: SPREAD_OUT[config] for config in pilots[:-1]}
    waiting = [config for config in SPREAD_OUT if config not in times]
    assert pilots[-1] not in judged(SPREAD_OUT, times, waiting)
    last = waiting[-1] if waiting[-1] != pilots[-1] else waiting[-2]
    assert last in judged(SPREAD_OUT, times, waiting)
    dropped = judged(SPREAD_OUT, times, waiting, never=(last,))
    assert last not in dropped
    assert dropped


def test_a_four_warp_two_stage_candidate_is_held_against_the_fastest_of_its_own() -> None:
    safe = configs(100, kind="b", num_warps=4, num_stages=2)
    predicted = {**SPREAD_OUT, **{config: 60.0 * 1.02**n for n, config in enumerate(safe)}}
    times, dropped = raced(predicted, dict(predicted))
    assert safe[0] in times, "six times as slow as the best, and the fastest with 4 warps and 2 stages"
    kept = [config for config in safe if config not in dropped]
    assert FIRST_CONSERVATIVE <= len(kept) < len(safe)
    assert all(predicted[config] > 60.0 for config in dropped if config.is_conservative)


@pytest.mark.parametrize("spread", [0.03, 0.08, 0.15])
def test_the_winner_of_simulated_races_is_dropped_as_rarely_as_promised(spread: float) -> None:
    """The model errs at random; its own order of the candidates then flatters those in front."""
    lost = compiled = 0
    for seed in range(16):
        rng = random.Random(seed)
        true = {config: 10.0 * math.exp(rng.uniform(0.0, 0.9)) for config in configs(300)}
        predicted = {config: us * math.exp(rng.gauss(0.1, spread)) for config, us in true.items()}
        times, dropped = raced(predicted, true)
        lost += min(times.values()) > min(true.values()) / (1 - EQUAL)
        compiled += len(times)
        assert len(times) + len(dropped) == 300
    assert lost <= 16 * 2 * CHANCE
    assert compiled <= 16 * 300 * (0.5 if spread < 0.1 else 0.8)


def test_the_pilots_are_the_best_predicted_some_of_each_kind_and_some_of_the_rest() -> None:
    rare = {config: 500.0 + n for n, config in enumerate(configs(20, kind="b"))}
    safe = {config: 300.0 + n for n, config in enumerate(configs(50, num_warps=4, num_stages=2))}
    predicted = {**SPREAD_OUT, **safe, **rare}
    order = by_prediction(predicted)
    pilots = pilots_of(order, kind_of)
    assert list(pilots) == [config for config in order if config in set(pilots)]
    assert pilots[:FIRST] == tuple(order[:FIRST])
    assert set(by_prediction(safe)[:FIRST_CONSERVATIVE]) <= set(pilots)
    assert set(by_prediction(rare)[:FIRST_OF_KIND]) <= set(pilots)
    between = [place for place, config in enumerate(order) if config in set(pilots) and place >= FIRST]
    assert any(FIRST + 50 < place < 280 for place in between)
    assert len(pilots) < len(order) / 2


def test_chances_follow_student_s_t_around_a_level_line() -> None:
    known = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]  # Rising, so that the line is level at 2, with a spread of 1.
    even, low = chances_below(known, [(5.0, 2.0), (5.0, 2.0 - 2.920 * math.sqrt(4 / 3))], least_spread=0.01)
    assert even == pytest.approx(0.5)
    assert low == pytest.approx(0.05, abs=1e-4), "two degrees of freedom: 5 % lie below -2.920"


def test_a_falling_line_is_followed_and_is_less_certain_far_away() -> None:
    known = [(0.0, 1.0), (1.0, 0.9), (2.0, 0.8), (3.0, 0.7), (4.0, 0.6)]
    near, far = chances_below(known, [(2.0, 0.78), (9.0, 0.08)], least_spread=0.02)
    assert 0.1 < near < far < 0.5, "both limits lie 0.02 below the line"


def test_points_that_fit_too_well_do_not_make_it_certain() -> None:
    known = [(float(n), 0.0) for n in range(20)]
    (chance,) = chances_below(known, [(1.0, -0.03)], least_spread=0.03)
    assert 0.1 < chance < 0.2


def test_two_points_are_no_line() -> None:
    with pytest.raises(ValueError, match="three points"):
        chances_below([(0.0, 1.0), (1.0, 1.0)], [(0.0, 1.0)], least_spread=0.1)
