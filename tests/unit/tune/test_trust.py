"""What disturbs a GPU does not flip a verdict, and false keeps are no more frequent than the rule says."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest

from fusetune.core.decision import Gain, KeepRule, Outcome
from fusetune.core.progress import SilentProgress
from fusetune.core.stats import Interval, median_interval
from fusetune.errors import NoisyMachineError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.paired import PairResult, compare
from fusetune.measure.protocol import BlockTimes, Failure
from fusetune.store.journal import Block, Comparison, RunEnd, read_journal
from fusetune.tune.request import SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import FakeCompiler, install
from tests.support.killable import RTX4090, WARPS8, request_of
from tests.support.sample import BASELINE, Config

RULE = KeepRule()


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


# --- whole sweeps on a GPU that misbehaves


def swept(folder: Path, gain: float, measurer: type[FakeMeasurer] = FakeMeasurer, **gpu: Any) -> SweepResult:
    """A sweep of BASELINE and one config that truly gains `gain`."""
    table = {BASELINE: 20.0, WARPS8: 20.0 * (1 - gain)}
    request = request_of(folder, WARPS8, seed=gpu.get("seed", 0), fresh=True)
    return sweep(request, measurer(RTX4090, table.__getitem__, **gpu), SilentProgress())


VERDICTS = [(0.0, "revert"), (0.01, "revert"), (0.05, "keep"), (0.3, "keep")]


@pytest.mark.parametrize("period", [61, 500, 4001])
@pytest.mark.parametrize(("gain", "verdict"), VERDICTS)
def test_a_gpu_that_slows_down_by_thirteen_percent_again_and_again_flips_no_verdict(
    tmp_path: Path, gain: float, verdict: str, period: int
) -> None:
    for seed in range(40):
        # A folder each: forty runs within a second or two may draw the same name.
        entry = swept(tmp_path / str(seed), gain, drift=0.13, drift_period=period, noise=0.002, seed=seed).entry
        assert (entry.verdict, entry.config) == (verdict, WARPS8 if verdict == "keep" else BASELINE)
        assert entry.gain is not None
        assert entry.gain.low <= entry.gain.median <= entry.gain.high
        assert entry.gain.median == pytest.approx(gain, abs=0.005)


class Throttling(FakeMeasurer):
    """In a throttled interval the candidate looks four times as fast, so that one that counted would be seen."""

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        times = super().block(baseline, config, config_first=config_first)
        if isinstance(times, Failure) or times.discarded is None:
            return times
        return msgspec.structs.replace(times, us=times.us / 4)


@pytest.mark.parametrize("every", [2, 3, 10])
@pytest.mark.parametrize(("gain", "verdict"), VERDICTS)
def test_throttled_intervals_are_discarded_and_flip_no_verdict(
    tmp_path: Path, gain: float, verdict: str, every: int
) -> None:
    for seed in range(3):
        result = swept(tmp_path, gain, Throttling, discard_every=every, noise=0.003, seed=seed)
        assert result.entry.verdict == verdict
        assert result.entry.gain is not None
        assert result.entry.gain.median == pytest.approx(gain, abs=0.003)
        records = list(read_journal(result.journal))
        thrown = sum(record.discarded is not None for record in records if isinstance(record, Block))
        assert thrown == sum(record.discarded_blocks for record in records if isinstance(record, Comparison))
        assert thrown == sum(isinstance(record, Block) for record in records) // every


def test_a_gpu_that_is_throttled_all_the_time_ends_as_noisy_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoisyMachineError, match="all 600 blocks were discarded; let the GPU cool down") as caught:
        swept(tmp_path, 0.3, Throttling, discard_every=1)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "configs").exists()


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_a_noisy_machine_ends_in_an_error_and_leaves_every_file_as_it_was(tmp_path: Path, gain: float) -> None:
    swept(tmp_path, 0.1)
    (before,) = (tmp_path / "configs").rglob("*.yaml")
    text = before.read_bytes()
    for seed in range(5):
        folder = tmp_path if seed == 0 else tmp_path / str(seed)
        with pytest.raises(NoisyMachineError, match=r"where 0 within 0.5% is needed; nothing was written") as caught:
            swept(folder, gain, noise=0.1, seed=seed)
        assert caught.value.exit_code == 3
        ends = [list(read_journal(path))[-1] for path in (folder / "runs").glob("*.jsonl")]
        (end,) = [end for end in ends if isinstance(end, RunEnd) and end.entry is None]
        assert (end.file, end.message) == (None, str(caught.value))
        assert folder == tmp_path or not (folder / "configs").exists()
    assert before.read_bytes() == text


# --- thousands of decisions


@functools.cache
def places(count: int, confidence: float) -> tuple[int | None, int | None]:
    """Which of the sorted samples are the ends of the interval, asked of the real one."""
    interval = median_interval(range(count), confidence)
    return tuple(int(end) if math.isfinite(end) else None for end in (interval.low, interval.high))


def quick_interval(samples: Sequence[float], confidence: float) -> Interval:
    """`median_interval` many times as fast: its ends depend on the number of samples and the confidence only."""
    ordered = sorted(samples)
    low, high = places(len(ordered), confidence)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Interval(
        median=median,
        low=-math.inf if low is None else ordered[low],
        high=math.inf if high is None else ordered[high],
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.core.decision.median_interval", quick_interval)


def test_the_quick_interval_is_the_real_one() -> None:
    rng = random.Random(1)
    for count in (3, 5, 24, 25, 50, 100, 200, 400):
        for comparisons in (1, 4):
            samples = [rng.gauss(0, 1) for _ in range(count)]
            confidence = RULE.look_confidence(comparisons)
            assert quick_interval(samples, confidence) == median_interval(samples, confidence)


Draw = Callable[[numpy.random.Generator, int], Any]
NOISES: dict[str, Draw] = {
    "normal": lambda rng, size: rng.normal(0, 0.01, size),
    "heavy tails": lambda rng, size: 0.01 * rng.standard_t(2, size),
    "skewed": lambda rng, size: 0.01 * (rng.exponential(1, size) - math.log(2)),
    "skewed the other way": lambda rng, size: 0.01 * (math.log(2) - rng.exponential(1, size)),
}
"""Noise of one block's log ratio; the median of each is 0."""


class Drawn(FakeMeasurer):
    """Blocks with the log ratios that it is given."""

    def __init__(self, log_ratios: Sequence[float]) -> None:
        super().__init__(RTX4090, lambda _: 10.0)
        self._ratios = iter(log_ratios)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        return BlockTimes(baseline_us=10.0, us=10.0 * math.exp(next(self._ratios)))


def decision(
    measurer: FakeMeasurer, *, seed: int = 0, comparisons: int = 1, decided: Callable[[Gain], bool] | None = None
) -> PairResult:
    result = compare(
        measurer,
        BASELINE,
        WARPS8,
        RULE,
        comparisons=comparisons,
        rng=random.Random(seed),
        on_block=lambda _: None,
        decided=decided,
    )
    assert isinstance(result, PairResult)
    return result


def drawn(gain: float, noise: str, count: int, seed: int = 0) -> Iterator[Drawn]:
    """Measurers for `count` decisions on a config that truly gains `gain`."""
    rng = numpy.random.default_rng(seed)
    for _ in range(count):
        yield Drawn((math.log1p(-gain) + NOISES[noise](rng, RULE.looks[-1])).tolist())


ALMOST = RULE.min_gain - 1e-6
"""The gain that is kept falsely most often of all that must not be kept."""


def share(outcomes: Sequence[Outcome], outcome: Outcome) -> float:
    return outcomes.count(outcome) / len(outcomes)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("noise", NOISES)
def test_a_gain_of_two_percent_less_a_hair_is_kept_no_more_often_than_the_rule_says(noise: str) -> None:
    outcomes = [decision(measurer).outcome for measurer in drawn(ALMOST, noise, 1000)]
    # The two ends share the error, so that the rule promises half of 5 %; the rest is the luck of a thousand draws.
    assert 0 < share(outcomes, "keep") <= (1 - RULE.confidence) / 2 + 0.01
    assert share(outcomes, "revert") <= (1 - RULE.confidence) / 2 + 0.01


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("noise", NOISES)
def test_a_config_that_gains_nothing_is_never_kept_in_a_thousand_decisions(noise: str) -> None:
    outcomes = [decision(measurer).outcome for measurer in drawn(0.0, noise, 1000)]
    assert share(outcomes, "keep") == 0
    assert share(outcomes, "revert") > 0.99


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("noise", NOISES)
def test_all_intervals_of_a_decision_together_cover_the_true_gain_as_often_as_it_says(noise: str) -> None:
    covered = 0
    for measurer in drawn(0.1, noise, 400, seed=1):
        seen: list[Gain] = []
        decision(measurer, decided=lambda gain, seen=seen: bool(seen.append(gain)))
        assert [gain.blocks for gain in seen] == list(RULE.looks)
        covered += all(gain.low <= 0.1 <= gain.high for gain in seen)
    assert covered / 400 >= RULE.confidence


class Outliers(FakeMeasurer):
    """Every so often a single arm takes 13 % longer: somebody else's kernel, an interrupt."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hit = random.Random(options["seed"])

    def sample(self, config: Config) -> float | Failure:
        time_us = super().sample(config)
        assert isinstance(time_us, float)
        return time_us * 1.13 if self._hit.random() < 0.13 else time_us


def disturbed(gain: float, seeds: Sequence[int]) -> list[PairResult]:
    table = {BASELINE: 20.0, WARPS8: 20.0 * (1 - gain)}
    return [
        decision(Outliers(RTX4090, table.__getitem__, noise=0.01, drift=0.13, seed=seed), seed=seed) for seed in seeds
    ]


@pytest.mark.usefixtures("quick")
def test_outliers_of_thirteen_percent_in_single_arms_cause_no_false_keeps_beyond_the_stated_rate() -> None:
    outcomes = [result.outcome for result in disturbed(ALMOST, range(800))]
    assert 0 < share(outcomes, "keep") <= 1 - RULE.confidence
    assert share([result.outcome for result in disturbed(0.0, range(300))], "keep") == 0


@pytest.mark.usefixtures("quick")
def test_outliers_of_thirteen_percent_in_single_arms_do_not_hide_a_gain_of_five_percent() -> None:
    results = disturbed(0.05, range(100))
    assert share([result.outcome for result in results], "keep") > 0.95
    assert sum(result.gain.median for result in results) / len(results) == pytest.approx(0.05, abs=0.003)


# --- several finalists


def test_several_finalists_share_the_error_budget() -> None:
    confidences = [RULE.look_confidence(comparisons) for comparisons in (1, 2, 3, 4, 10)]
    assert confidences == sorted(set(confidences))
    for comparisons, confidence in zip((1, 2, 3, 4, 10), confidences, strict=True):
        assert (1 - confidence) * comparisons * len(RULE.looks) == pytest.approx(1 - RULE.confidence)


@pytest.mark.usefixtures("quick")
def test_of_four_finalists_less_a_hair_any_is_kept_no_more_often_than_one_alone() -> None:
    measurers = list(drawn(ALMOST, "normal", 1600, seed=3))
    families = [measurers[start : start + 4] for start in range(0, 1600, 4)]
    kept = sum(
        "keep" in [decision(measurer, comparisons=4).outcome for measurer in family] for family in families
    ) / len(families)
    assert kept <= (1 - RULE.confidence) / 2 + 0.01
