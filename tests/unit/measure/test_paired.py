from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fusetune.core.decision import Gain, KeepRule
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.paired import NOISE_LIMIT, PairResult, compare, is_quiet
from fusetune.measure.protocol import BlockTimes, Failure
from tests.support.sample import BASELINE, Config, tile

RTX4090 = find_target("rtx4090")
OTHER = tile(depth=64)
THROTTLED = BlockTimes(baseline_us=10.0, us=1.0, discarded="thermal throttling")


class Scripted(FakeMeasurer):
    """Gives the blocks of a script, one after another, and remembers how it was asked."""

    def __init__(self, script: Iterator[BlockTimes | Failure]) -> None:
        super().__init__(RTX4090, lambda _: 10.0)
        self._script = script
        self.asked: list[tuple[Config, Config, bool]] = []

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        self.asked.append((baseline, config, config_first))
        return next(self._script)


def blocks(*gains: float, baseline_us: float = 10.0) -> Iterator[BlockTimes]:
    """Blocks whose gains repeat for ever."""
    while True:
        for gain in gains:
            yield BlockTimes(baseline_us=baseline_us, us=baseline_us * (1 - gain))


def decide_on(
    script: Iterator[BlockTimes | Failure], rule: KeepRule | None = None, **options: Any
) -> tuple[PairResult | Failure, Scripted, list[BlockTimes]]:
    measurer, seen = Scripted(script), []
    chosen: dict[str, Any] = {"comparisons": 1, "rng": random.Random(0), **options}
    return compare(measurer, BASELINE, OTHER, rule or KeepRule(), on_block=seen.append, **chosen), measurer, seen


def simulated(gain: float, *, seeds: Sequence[int], rule: KeepRule | None = None, noise: float) -> list[PairResult]:
    """One decision a seed on a simulated GPU where OTHER truly gains `gain` over BASELINE."""
    table = {BASELINE: 10.0, OTHER: 10.0 * (1 - gain)}
    results = []
    for seed in seeds:
        measurer = FakeMeasurer(RTX4090, table.__getitem__, noise=noise, seed=seed)
        result = compare(
            measurer,
            BASELINE,
            OTHER,
            rule or KeepRule(),
            comparisons=1,
            rng=random.Random(seed),
            on_block=lambda _: None,
        )
        assert isinstance(result, PairResult)
        results.append(result)
    return results


@pytest.mark.parametrize(("gain", "outcome"), [(0.1, "keep"), (0.02, "keep"), (0.0199, "revert"), (-0.3, "revert")])
def test_it_stops_at_the_first_look_that_decides(gain: float, outcome: str) -> None:
    result, measurer, seen = decide_on(blocks(gain))
    assert isinstance(result, PairResult)
    assert result.outcome == outcome
    assert result.gain.blocks == len(seen) == len(measurer.asked) == 25
    assert result.gain.median == pytest.approx(gain)


def test_it_uses_all_looks_and_no_more_where_none_decides() -> None:
    result, measurer, _ = decide_on(blocks(0.0, 0.04))
    assert isinstance(result, PairResult)
    assert result.outcome == "inconclusive"
    assert result.gain.blocks == len(measurer.asked) == 400
    assert (result.gain.low, result.gain.high) == pytest.approx((0.0, 0.04))


def test_it_looks_only_when_the_rule_says() -> None:
    # The fourth block would decide; the rule looks after ten.
    result, measurer, _ = decide_on(blocks(0.5), KeepRule(confidence=0.8, looks=(10, 30)))
    assert isinstance(result, PairResult)
    assert len(measurer.asked) == 10


def test_a_later_look_decides_what_an_earlier_one_did_not() -> None:
    def settling() -> Iterator[BlockTimes]:
        undecided, clear = blocks(0.0, 0.04), blocks(0.1)
        yield from (next(undecided) for _ in range(25))
        yield from clear

    result, measurer, _ = decide_on(settling())
    assert isinstance(result, PairResult)
    assert result.outcome == "keep"
    assert len(measurer.asked) == 50


def test_five_blocks_prove_nothing_however_clear_they_are() -> None:
    result, _, _ = decide_on(blocks(0.5), KeepRule(looks=(5,)))
    assert isinstance(result, PairResult)
    assert result.outcome == "inconclusive"
    assert (result.gain.low, result.gain.high) == (-math.inf, 1.0)


def test_which_of_the_two_leads_is_random_and_follows_the_seed() -> None:
    leads = []
    for seed in (0, 0, 1):
        _, measurer, _ = decide_on(blocks(0.0, 0.04), rng=random.Random(seed))
        assert {pair[:2] for pair in measurer.asked} == {(BASELINE, OTHER)}
        leads.append([config_first for *_, config_first in measurer.asked])
    assert leads[0] == leads[1] != leads[2]
    assert 160 < sum(leads[0]) < 240
    changes = sum(one != two for one, two in itertools.pairwise(leads[0]))
    assert 160 < changes < 240


def test_who_leads_does_not_matter_where_the_gpu_slows_down_steadily() -> None:
    gpu = {"drift": 0.5, "drift_period": 1000, "noise": 0.0}
    measurer = FakeMeasurer(RTX4090, {BASELINE: 10.0, OTHER: 9.0}.__getitem__, **gpu)
    for config_first in (False, True):
        times = measurer.block(BASELINE, OTHER, config_first=config_first)
        assert isinstance(times, BlockTimes)
        assert times.us / times.baseline_us == pytest.approx(0.9, rel=1e-6)


def test_discarded_blocks_are_seen_and_counted_and_taken_again() -> None:
    def every_third() -> Iterator[BlockTimes]:
        good = blocks(0.1)
        while True:
            yield from (next(good), next(good), THROTTLED)

    result, measurer, seen = decide_on(every_third())
    assert isinstance(result, PairResult)
    assert (result.gain.blocks, result.discarded_blocks) == (25, 12)
    assert len(measurer.asked) == len(seen) == 37
    assert seen.count(THROTTLED) == 12
    assert result.gain.high == pytest.approx(0.1)  # 0.9, if one of the throttled ones had counted
    assert result.config_us == pytest.approx(9.0)


def test_where_all_blocks_are_discarded_it_gives_up_after_half_the_budget_more() -> None:
    result, measurer, seen = decide_on(iter([THROTTLED] * 1000), KeepRule(looks=(20, 40)))
    assert isinstance(result, Failure)
    assert result.reason == "throttled"
    assert "all 60 blocks were discarded" in result.detail
    assert len(measurer.asked) == len(seen) == 60


def test_where_most_blocks_are_discarded_the_few_that_count_are_told() -> None:
    def most() -> Iterator[BlockTimes]:
        good = blocks(0.0, 0.04)
        while True:
            yield from (next(good), THROTTLED, THROTTLED)

    result, measurer, _ = decide_on(most(), KeepRule(looks=(20, 40)))
    assert isinstance(result, PairResult)
    assert (result.gain.blocks, result.discarded_blocks) == (20, 40)
    assert result.outcome == "inconclusive"
    assert len(measurer.asked) == 60


@pytest.mark.parametrize("before", [0, 7, 30])
def test_a_block_that_fails_ends_it_with_that_failure(before: int) -> None:
    failure = Failure("crash", "the worker died", fatal=True)

    def breaking() -> Iterator[BlockTimes | Failure]:
        good = blocks(0.0, 0.04)
        yield from (next(good) for _ in range(before))
        yield failure

    result, measurer, seen = decide_on(breaking())
    assert result is failure
    assert len(seen) == before
    assert len(measurer.asked) == before + 1


def test_times_are_the_medians_of_the_blocks() -> None:
    script = [BlockTimes(baseline_us=float(n), us=2.0 * n if n < 21 else 100.0) for n in range(25)][1:]
    result, _, _ = decide_on(iter(script), KeepRule(looks=(24,)))
    assert isinstance(result, PairResult)
    assert (result.baseline_us, result.config_us) == (12.5, 25.0)


def test_the_question_can_be_another_than_the_keep_rule() -> None:
    asked: list[Gain] = []

    def third_time(gain: Gain) -> bool:
        asked.append(gain)
        return len(asked) == 3

    result, _, _ = decide_on(blocks(0.5), decided=third_time)
    assert isinstance(result, PairResult)
    assert [gain.blocks for gain in asked] == [25, 50, 100]
    assert result.gain == asked[-1]


def test_more_comparisons_make_each_interval_wider() -> None:
    spread = [0.001 * number for number in range(25)]
    one, _, _ = decide_on(blocks(*spread), KeepRule(looks=(25,)), comparisons=1)
    many, _, _ = decide_on(blocks(*spread), KeepRule(looks=(25,)), comparisons=20)
    assert isinstance(one, PairResult)
    assert isinstance(many, PairResult)
    assert many.gain.low < one.gain.low < one.gain.high < many.gain.high
    assert many.gain.median == one.gain.median


@pytest.mark.parametrize(
    ("low", "high", "quiet"),
    [
        (-0.001, 0.001, True),
        (-NOISE_LIMIT, NOISE_LIMIT, True),
        (-0.0051, 0.0, False),
        (0.0, 0.0051, False),
        (-math.inf, 0.0, False),
        (0.006, 0.007, False),
    ],
)
def test_quiet_means_that_the_whole_interval_lies_within_the_limit(low: float, high: float, quiet: bool) -> None:
    assert is_quiet(Gain((low + high) / 2, low, high, confidence=0.95, min_gain=0.02, blocks=25)) is quiet


def test_a_config_against_itself_is_never_kept() -> None:
    # So noisy that most intervals of the first look reach beyond the minimum gain.
    results = simulated(0.0, seeds=range(300), noise=0.05)
    assert sum(result.gain.blocks > 25 for result in results) > 150
    assert sum(result.outcome == "keep" for result in results) == 0


def test_a_gain_just_below_the_minimum_is_kept_no_more_often_than_the_confidence_allows() -> None:
    results = simulated(0.01999, seeds=range(300), noise=0.02, rule=KeepRule(confidence=0.9))
    assert 0 < sum(result.outcome == "keep" for result in results) <= 0.05 * len(results)


def test_the_interval_covers_the_true_gain_as_often_as_it_says() -> None:
    results = simulated(0.1, seeds=range(300), noise=0.02, rule=KeepRule(confidence=0.8, looks=(40,)))
    covering = sum(result.gain.low <= 0.1 <= result.gain.high for result in results)
    assert 0.8 <= covering / len(results) < 0.95


def test_more_looks_keep_gains_that_one_look_leaves_open() -> None:
    one = simulated(0.03, seeds=range(40), noise=0.04, rule=KeepRule(looks=(25,)))
    many = simulated(0.03, seeds=range(40), noise=0.04)
    kept = [sum(result.outcome == "keep" for result in results) for results in (one, many)]
    assert kept[0] < 10
    assert kept[1] > 30
