from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusetune.core.decision import KeepRule
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.errors import MeasurementError
from fusetune.measure.fake import TrueTime
from fusetune.measure.protocol import Failure
from fusetune.store.journal import (
    JOURNAL_VERSION,
    Candidate,
    JournalWriter,
    Note,
    PhaseTime,
    Record,
    RunStart,
    Sample,
    read_journal,
)
from fusetune.tune.log import RunLog
from fusetune.tune.race import FINALISTS, REFERENCE_EVERY, REFERENCE_TRIES, ROUNDS, FirstRound, RaceResult, race
from tests.support.fake_compiler import BreakingMeasurer
from tests.support.sample import BASELINE, SPEC, Config, candidates, depth_of, make_problem, reject_reason

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
START = RunStart(
    journal=JOURNAL_VERSION,
    run="run",
    started="2026-11-23T10:15:00Z",
    fusetune="0.1.0",
    op=SPEC.name,
    problem=PROBLEM,
    target=TargetIdentity(RTX4090.name, RTX4090.capability, RTX4090.sms),
    evidence="measured",
    environment=Environment(triton="3.7.1", kernel_hash="0" * 16),
    space="standard",
    seed=0,
    rule=KeepRule(),
)
FIELD = [config for config in candidates(SPEC.space, "standard") if reject_reason(config, PROBLEM, RTX4090) is None]
PLACE_OF = {config: place for place, config in enumerate(FIELD)}
CRASH = Failure("crash", "the worker died", fatal=True)


class Raced:
    """A race with its journal; its candidates are numbered in the order of FIELD, so BASELINE has number 0."""

    def __init__(self, result: RaceResult, log: RunLog, measurer: BreakingMeasurer) -> None:
        self.result, self.measurer, self._journal, self._id_of = result, measurer, log.journal.path, log.id_of

    @functools.cached_property
    def records(self) -> list[Record]:
        return [
            record
            for record in read_journal(self._journal)
            if not isinstance(record, RunStart)
            and not (isinstance(record, Candidate) and record.status == "compiled")  # what named them, before the race
        ]

    def of_kind(self, kind: type) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]

    def samples(self, config: Config) -> list[Sample]:
        return [record for record in self.of_kind(Sample) if record.id == self._id_of(config)]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Raced]:
    """Runs a race over `field` with true times; further options are the simulated GPU's."""
    runs = 0

    def run(
        true_us: TrueTime,
        field: list[Config] | None = None,
        *,
        rough: Any = None,
        gpu: type[BreakingMeasurer] = BreakingMeasurer,
        **options: Any,
    ) -> Raced:
        nonlocal runs
        runs += 1
        measurer = gpu(RTX4090, true_us, **options)
        rough_us = {config: true_us(config) + 30 for config in (FIELD if field is None else field)}
        rough_us.update(rough or {})
        with JournalWriter(tmp_path / f"{runs}.jsonl") as writer:
            writer.write(START)
            log = RunLog(writer, "run", SilentProgress(), BASELINE)
            named = FIELD if field is None else sorted(field, key=PLACE_OF.__getitem__)
            for config in named:
                log.candidate(config, "compiled")  # as a run names them before it times any
            first = FirstRound(measurer, list(rough_us), log)
            for config, time_us in rough_us.items():
                first.add(config, time_us)
            result = race(measurer, first, options.get("seed", 0), log)
        return Raced(result, log, measurer)

    return run


def scattered(seed: int, *, ahead: float) -> tuple[TrueTime, Config, Config]:
    """True times from 10 to 20 us, with the best config and the best conservative one `ahead` of those behind them."""
    rng = random.Random(seed)
    table = {config: 10 + 10 * rng.random() for config in FIELD}
    conservative = rng.choice([config for config in FIELD if config.is_conservative and config != BASELINE])
    best = rng.choice([config for config in FIELD if not config.is_conservative])
    rest = min(time_us for config, time_us in table.items() if config.is_conservative)
    table[conservative] = min(rest, 11.0) * (1 - ahead)
    table[best] = min(table.values()) * (1 - ahead)
    return table.__getitem__, best, conservative


class OpeningAhead(BreakingMeasurer):
    """While the next session is opened, every second sample takes far longer."""

    opening = 0

    def open_ahead(self) -> None:
        self.opening = 30

    def sample(self, config: Config) -> float | Failure:
        time_us = super().sample(config)
        assert isinstance(time_us, float)
        self.opening -= 1
        return time_us * self._random.choice((1.0, 1.0, 1.5, 3.0)) if self.opening >= 0 else time_us


class Disturbed(OpeningAhead):
    """And one sample in fifty takes up to twice as long."""

    def sample(self, config: Config) -> float | Failure:
        time_us = super().sample(config)
        assert isinstance(time_us, float)
        return time_us * (1 + self._random.random() * (self._random.random() < 0.02))


def close_field(seed: int) -> tuple[TrueTime, list[Config]]:
    """BASELINE and 150 candidates, of which ten lie within 2 % of the best and the others at least 3 % behind it."""
    rng = random.Random(seed)
    field = [BASELINE, *rng.sample(FIELD[1:], 150)]
    table = {config: rng.uniform(6.18, 20) for config in field}
    near = rng.sample(field[1:], 10)
    table |= {config: 6 * (1 + 0.02 * place / 9) for place, config in enumerate(near)}
    return table.__getitem__, field


@pytest.mark.parametrize("gpu", [BreakingMeasurer, Disturbed])
@pytest.mark.parametrize(("noise", "drift"), [(0.005, 0.05), (0.01, 0.13)])
def test_the_best_finalist_is_within_one_percent_of_the_best_in_99_of_100_races(
    start: Callable[..., Raced], gpu: type[BreakingMeasurer], noise: float, drift: float
) -> None:
    missed = 0
    for seed in range(200):
        true_us, field = close_field(seed)
        raced = start(true_us, field, gpu=gpu, noise=noise, drift=drift, drift_period=300, seed=seed)
        missed += min(map(true_us, raced.result.finalists)) > 6 * 1.01
    assert missed <= 2


def test_a_config_that_stands_out_is_found_although_the_next_session_is_opened_beside_the_race(
    start: Callable[..., Raced],
) -> None:
    for seed in range(50):
        true_us, best, conservative = scattered(seed, ahead=0.04)
        raced = start(true_us, gpu=OpeningAhead, noise=0.005, drift=0.05, drift_period=300, seed=seed)
        assert best in raced.result.finalists
        assert raced.result.conservative == conservative


@pytest.mark.parametrize("number", range(11))
def test_one_disturbed_sample_of_baseline_flatters_nobody(start: Callable[..., Raced], number: int) -> None:
    class Slow(BreakingMeasurer):
        def sample(self, config: Config) -> float | Failure:
            time_us = super().sample(config)
            assert isinstance(time_us, float)
            return time_us * 3 if (config, self.asked[config]) == (BASELINE, number + 1) else time_us

    field = FIELD[:151]
    table = {config: 10 + place / 30 for place, config in enumerate(field)} | {BASELINE: 20.0}
    raced = start(table.__getitem__, field, gpu=Slow, noise=0.0)
    assert list(raced.result.finalists) == field[1 : FINALISTS + 1]
    for standing in raced.result.standings:
        assert standing.ratio == pytest.approx(table[standing.config] / 20, rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_config_is_among_the_finalists_despite_noise_and_drift(start: Callable[..., Raced], seed: int) -> None:
    true_us, best, conservative = scattered(seed, ahead=0.04)
    raced = start(true_us, noise=0.01, drift=0.13, drift_period=300, seed=seed)
    assert best in raced.result.finalists
    assert raced.result.conservative == conservative
    assert len(raced.result.finalists) == FINALISTS
    assert raced.result.standings[0].config in raced.result.finalists


def test_standings_give_times_at_the_speed_of_baseline_beside_them(start: Callable[..., Raced]) -> None:
    field = FIELD[:40]
    table = {config: 10.0 + place for place, config in enumerate(field)}
    # Slower and slower, to half the speed at the end.
    standings = start(table.__getitem__, field, noise=0.0, drift=5.0, drift_period=5000).result.standings
    assert {standing.config for standing in standings} == set(field)
    for standing in standings:
        assert standing.ratio == pytest.approx(table[standing.config] / 10, rel=1e-3)
    assert [standing.config for standing in standings[:4]] == field[:4]
    # All times are told at one speed, somewhere between that of the fast and that of the slow GPU.
    speeds = {round(standing.time_us / standing.ratio, 6) for standing in standings}
    assert len(speeds) == 1
    assert 10 < speeds.pop() < 20


def test_baseline_is_timed_again_throughout(start: Callable[..., Raced]) -> None:
    raced = start(lambda config: 10.0 + config.num_warps)
    samples = raced.of_kind(Sample)
    gap = longest = 0
    for sample in samples:
        gap = 0 if sample.id == 0 else gap + 1
        longest = max(longest, gap)
    assert longest <= REFERENCE_EVERY
    others = len(samples) - len(raced.samples(BASELINE))
    assert len(raced.samples(BASELINE)) > others / REFERENCE_EVERY
    assert samples[0].id == samples[-1].id == 0


def test_the_fewer_are_left_the_more_often_each_is_timed(start: Callable[..., Raced]) -> None:
    raced = start(scattered(1, ahead=0.04)[0])
    taken = Counter(len(raced.samples(config)) for config in FIELD if config != BASELINE)
    rounds = [sum(stage.samples for stage in ROUNDS[:count]) for count in range(1, len(ROUNDS) + 1)]
    assert sorted(taken) == rounds
    left = [sum(count for samples, count in taken.items() if samples >= least) for least in rounds]
    assert left == sorted(set(left), reverse=True)
    assert all(len(raced.samples(config)) == rounds[-1] for config in raced.result.finalists)


def test_the_order_of_a_pass_is_random_and_follows_the_seed(start: Callable[..., Raced]) -> None:
    def order(seed: int) -> list[int]:
        return [s.id for s in start(lambda _: 10.0, noise=0.0, seed=seed).of_kind(Sample) if s.round == 2][:60]

    orders = [order(seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_the_order_of_the_first_round_is_that_of_arrival(start: Callable[..., Raced]) -> None:
    arriving = [BASELINE, *reversed(FIELD[1:50])]
    raced = start(lambda _: 10.0, arriving)
    first = [sample.id for sample in raced.of_kind(Sample) if sample.round == 1 and sample.id != 0]
    assert first == [FIELD.index(config) for config in arriving[1:]]


def test_conservative_candidates_survive_every_cut_however_slow(start: Callable[..., Raced]) -> None:
    safe = [config for config in FIELD if config.is_conservative and config != BASELINE]

    def true_us(config: Config) -> float:
        return 10.0 if not config.is_conservative else 30.0 if config == safe[7] else 31.0 + depth_of(config) / 100

    raced = start(true_us)
    assert raced.result.conservative == safe[7]
    assert not any(config.is_conservative for config in raced.result.finalists)


def test_baseline_is_the_conservative_one_where_nothing_of_its_kind_is_faster_and_never_a_finalist(
    start: Callable[..., Raced],
) -> None:
    raced = start(lambda config: 10.0 if config == BASELINE else 12.0 + config.num_warps)
    assert raced.result.conservative == BASELINE
    assert BASELINE not in raced.result.finalists
    assert len(raced.result.finalists) == FINALISTS
    assert start(lambda _: 10.0, [BASELINE]).result.finalists == ()


def test_a_hopeless_candidate_is_not_screened_and_baseline_always_is(start: Callable[..., Raced]) -> None:
    slow, other = FIELD[5], FIELD[6]
    rough = {slow: 3 * 42 + 101.0, other: 3 * 42 + 99.0, BASELINE: 10_000.0}
    raced = start(lambda _: 12.0, rough=rough)
    assert raced.samples(slow) == []
    assert raced.samples(other)
    assert raced.samples(BASELINE)


@pytest.mark.parametrize("survives", [0, 2, 5])
def test_a_candidate_that_fails_in_the_middle_of_the_race_is_out(start: Callable[..., Raced], survives: int) -> None:
    true_us, best, _ = scattered(2, ahead=0.1)
    raced = start(true_us, fail_sample=lambda config, number: CRASH if (config, number) == (best, survives) else None)
    assert best not in raced.result.finalists
    assert best not in {standing.config for standing in raced.result.standings}
    assert len(raced.samples(best)) == survives
    assert raced.measurer.asked[best] == survives + 1
    failed = [record for record in raced.of_kind(Candidate) if record.status == "failed"]
    assert [(record.config, record.reason, record.detail) for record in failed] == [(best, "crash", "the worker died")]
    assert len(raced.result.finalists) == FINALISTS


def test_where_every_candidate_fails_only_baseline_is_left(start: Callable[..., Raced]) -> None:
    raced = start(lambda _: 10.0, fail_sample=lambda config, _: None if config == BASELINE else CRASH)
    assert raced.result.finalists == ()
    assert raced.result.conservative == BASELINE
    assert [standing.config for standing in raced.result.standings] == [BASELINE]


@pytest.mark.parametrize("number", [0, 1, 7, 40])
def test_a_sample_of_baseline_that_fails_once_is_taken_again(start: Callable[..., Raced], number: int) -> None:
    true_us, best, _ = scattered(3, ahead=0.1)

    def fail_once(config: Config, before: int) -> Failure | None:
        return CRASH if config == BASELINE and before == number else None

    undisturbed = start(true_us, noise=0.0)
    raced = start(true_us, noise=0.0, fail_sample=fail_once)
    assert best in raced.result.finalists
    assert len(raced.samples(BASELINE)) == len(undisturbed.samples(BASELINE))
    assert [note.text for note in raced.of_kind(Note)] == ["BASELINE could not be timed (crash: the worker died)"]
    assert not raced.of_kind(Candidate)


def test_baseline_that_cannot_be_timed_at_all_ends_the_race(start: Callable[..., Raced], tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"BASELINE could not be timed \(crash: .*3 times in a row") as caught:
        start(lambda _: 10.0, fail_sample=lambda config, before: CRASH if config == BASELINE and before > 4 else None)
    assert caught.value.exit_code == 4
    notes = [record for record in read_journal(tmp_path / "1.jsonl") if isinstance(record, Note)]
    assert len(notes) == REFERENCE_TRIES


def test_the_race_tells_how_long_it_took(start: Callable[..., Raced]) -> None:
    (phase,) = start(lambda _: 10.0, FIELD[:20]).of_kind(PhaseTime)
    assert phase.name == "screen"
