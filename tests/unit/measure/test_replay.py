"""A recording in the place of a GPU comes to the recorded answer, and says where it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.decision import KeepRule
from fusetune.core.progress import SilentProgress
from fusetune.errors import MeasurementError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import BlockTimes, Checked, Failure, SamplingFacts
from fusetune.measure.replay import ReplayMeasurer
from fusetune.store.journal import Block, Candidate, Record, RunStart, Sample, Sampling, read_journal
from fusetune.tune.request import SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import BreakingMeasurer, FakeCompiler
from tests.support.killable import (
    BROKEN,
    FAILURES,
    FAST,
    OTHER,
    RTX4090,
    SAFE,
    TRUE_US,
    WARPS8,
    install_compiler,
    request_of,
)
from tests.support.sample import BASELINE, Config, tile

NEVER_SWEPT = tile(rows=16, columns=32, depth=64)


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install_compiler(monkeypatch)


def recorded(folder: Path, measurer: FakeMeasurer | None = None, **changes: Any) -> SweepResult:
    return sweep(request_of(folder / "recorded", **changes), measurer or gpu(), SilentProgress())


def gpu(**changes: Any) -> FakeMeasurer:
    """A simulated GPU with everything that a recording has to get right."""
    options = {"noise": 0.004, "drift": 0.1, "drift_period": 130, "discard_every": 7, "failures": FAILURES}
    true_us = changes.pop("true_us", TRUE_US)
    return BreakingMeasurer(RTX4090, true_us.__getitem__, **{**options, **changes})


def records_of(result: SweepResult) -> list[Record]:
    return list(read_journal(result.journal))


def replayed(folder: Path, result: SweepResult, **changes: Any) -> SweepResult:
    request = request_of(folder / "replayed", **{"fresh": True, **changes})
    return sweep(request, ReplayMeasurer(records_of(result)), SilentProgress())


def assert_same(result: SweepResult, other: SweepResult) -> None:
    same = {"run": "", "date": ""}
    assert msgspec.structs.replace(result.entry, **same) == msgspec.structs.replace(other.entry, **same)
    assert result.best == other.best


@pytest.mark.parametrize("seed", range(4))
def test_a_replayed_sweep_comes_to_the_same_config_verdict_and_gains(tmp_path: Path, seed: int) -> None:
    one = recorded(tmp_path, gpu(seed=seed), seed=seed)
    assert (one.entry.config, one.entry.verdict) == (FAST, "keep")
    two = replayed(tmp_path, one, seed=seed)
    assert two.run != one.run
    assert_same(two, one)


@pytest.mark.parametrize(
    ("true_us", "reason"),
    [
        ({**TRUE_US, FAST: 19.9, SAFE: 20.5, WARPS8: 21, OTHER: 22}, "gain_below_minimum"),
        ({**TRUE_US, FAST: 10.05, WARPS8: 12, OTHER: 12}, "gain_confirmed"),
    ],
    ids=["nothing is kept", "the conservative config is kept"],
)
def test_a_sweep_that_keeps_another_config_is_replayed_too(
    tmp_path: Path, true_us: dict[Config, float], reason: str
) -> None:
    one = recorded(tmp_path, gpu(true_us=true_us))
    assert one.entry.config != FAST
    assert one.entry.reason == reason
    assert_same(replayed(tmp_path, one), one)


def test_a_revalidation_that_disagreed_disagrees_again(tmp_path: Path) -> None:
    one = recorded(tmp_path, gpu(later_us={**TRUE_US, FAST: 19.9}.__getitem__))
    assert one.entry.reason == "revalidation_disagrees"
    assert_same(replayed(tmp_path, one), one)


def test_the_journal_of_a_replay_can_itself_be_replayed(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    two = replayed(tmp_path, one)
    assert_same(replayed(tmp_path / "again", two), one)


def test_what_a_run_took_over_from_another_is_replayed_with_it(tmp_path: Path) -> None:
    recorded(tmp_path)
    second = recorded(tmp_path, gpu(seed=1))
    assert any(isinstance(record, Sample) and record.reused for record in records_of(second))
    assert_same(replayed(tmp_path, second), second)


def test_a_recording_can_be_judged_by_another_rule(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    strict = replayed(tmp_path, one, rule=KeepRule(min_gain=0.7))
    assert (strict.entry.config, strict.entry.verdict) == (BASELINE, "revert")
    assert strict.entry.gain is not None
    assert strict.entry.gain.median == pytest.approx(0.6, abs=0.003)


CRASH = Failure("crash", "the worker died", fatal=True)


@pytest.mark.parametrize("survives", [0, 4])
def test_a_candidate_that_broke_in_the_race_breaks_there_again(tmp_path: Path, survives: int) -> None:
    breaking = gpu(fail_sample=lambda config, number: CRASH if (config, number) == (FAST, survives) else None)
    one = recorded(tmp_path, breaking)
    assert one.entry.config == SAFE
    two = replayed(tmp_path, one)
    assert_same(two, one)
    failed = [r for r in records_of(two) if isinstance(r, Candidate) and r.config == FAST and r.status == "failed"]
    assert [(record.reason, record.detail) for record in failed] == [("crash", "the worker died")]


@pytest.mark.parametrize("processes", [1, 2], ids=["in the final", "in the revalidation"])
def test_a_candidate_that_broke_in_its_blocks_breaks_there_again(tmp_path: Path, processes: int) -> None:
    def breaks(_: Config, config: Config, prepared: int) -> Failure | None:
        return CRASH if (config, prepared) == (FAST, processes) else None

    one = recorded(tmp_path, gpu(fail_block=breaks))
    assert one.entry.config == (SAFE if processes == 1 else BASELINE)
    assert_same(replayed(tmp_path, one), one)


# --- where a recording ends


def test_a_candidate_that_was_never_recorded_is_an_error_that_names_it(tmp_path: Path) -> None:
    one = recorded(tmp_path, None)
    with pytest.raises(MeasurementError, match="the recording holds no check of 16x32x64") as caught:
        sweep(
            request_of(tmp_path / "replayed", FAST, SAFE, NEVER_SWEPT, fresh=True),
            ReplayMeasurer(records_of(one)),
            SilentProgress(),
        )
    assert caught.value.exit_code == 4
    assert not (tmp_path / "replayed" / "configs").exists()


def test_a_rule_that_asks_for_more_blocks_than_were_recorded_is_an_error(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    with pytest.raises(MeasurementError, match=r"the recording holds no further block of .+ against .+"):
        replayed(tmp_path, one, rule=KeepRule(looks=(300,)))


def short_recording() -> list[Record]:
    return [
        Candidate(0, BASELINE, "checked", error=1e-4, rough_us=50.0),
        Candidate(1, FAST, "compiled"),
        Candidate(1, FAST, "checked", error=2e-4, rough_us=40.0),
        Candidate(2, BROKEN, "failed", reason="nan", detail="planted"),
        Sampling(3, 8, 100, 50, seed=0, timer="events", tick_us=0.5),
        Sample(0, 1, 20.0),
        Sample(1, 1, 8.0),
        Sample(1, 1, 8.5),
        Block("control", 0, 0, 20.0, 20.1),
        Block("confirm", 0, 1, 20.0, 8.0, discarded="thermal throttling", flags=("software power cap",)),
        Block("revalidate", 0, 1, 21.0, 9.0, sm_mhz=1980, power_w=420.5, temperature_c=61, launches=(2, 8)),
    ]


@pytest.fixture
def replay(tmp_path: Path) -> ReplayMeasurer:
    start = next(record for record in records_of(recorded(tmp_path)) if isinstance(record, RunStart))
    return ReplayMeasurer([start, *short_recording()])


def test_measurements_come_once_each_in_the_order_in_which_they_were_taken(replay: ReplayMeasurer) -> None:
    assert [replay.sample(FAST), replay.sample(FAST), replay.sample(BASELINE)] == [8.0, 8.5, 20.0]
    assert replay.block(BASELINE, BASELINE, config_first=True) == BlockTimes(20.0, 20.1)
    assert [replay.block(BASELINE, FAST, config_first=first) for first in (True, False)] == [
        BlockTimes(20.0, 8.0, discarded="thermal throttling", flags=("software power cap",)),
        BlockTimes(21.0, 9.0, sm_mhz=1980, power_w=420.5, temperature_c=61, launches=(2, 8)),
    ]
    assert replay.prepare(99) == SamplingFacts(3, 8, 100, 50, "events", 0.5)


def test_checks_can_be_asked_for_again(replay: ReplayMeasurer) -> None:
    for _ in range(2):
        assert replay.check(FAST) == Checked(2e-4, 40.0)
        assert replay.check(BROKEN) == Failure("nan", "planted")


def test_each_kind_of_measurement_ends_with_its_own_message(replay: ReplayMeasurer) -> None:
    replay.prepare(0)
    replay.sample(BASELINE)
    replay.block(BASELINE, BASELINE, config_first=False)
    with pytest.raises(MeasurementError, match="the recording holds no further process"):
        replay.prepare(1)
    with pytest.raises(MeasurementError, match="no further sample of 64x64x32"):
        replay.sample(BASELINE)
    with pytest.raises(MeasurementError, match=r"no further block of 64x64x32.* against 64x64x32"):
        replay.block(BASELINE, BASELINE, config_first=False)
    with pytest.raises(MeasurementError, match=r"no further block of 64x64x32.* against 64x16x128"):
        replay.block(FAST, BASELINE, config_first=False)
    with pytest.raises(MeasurementError, match="no check of 16x32x64"):
        replay.check(NEVER_SWEPT)


def test_a_journal_without_its_first_line_cannot_be_replayed() -> None:
    with pytest.raises(MeasurementError, match="this journal has no `run` line"):
        ReplayMeasurer(short_recording())


def test_a_journal_of_an_unknown_gpu_cannot_be_replayed(replay: ReplayMeasurer) -> None:
    target = msgspec.structs.replace(replay.start.target, name="NVIDIA Nonesuch", sms=7)
    other = ReplayMeasurer([msgspec.structs.replace(replay.start, target=target)])
    with pytest.raises(MeasurementError, match="no NVIDIA Nonesuch with 7 SMs"):
        other.facts()


def test_the_recorded_gpu_and_environment_are_the_replayed_ones(replay: ReplayMeasurer) -> None:
    facts = replay.facts()
    assert (facts.identity, facts.target, facts.environment) == (replay.start.target, RTX4090, replay.start.environment)
    assert facts.environment.ptxas is not None
    assert facts.uuid is None  # So that a replay waits for nobody.


class Interrupted(FakeMeasurer):
    """Ctrl-C at the given sample, of which a block has four."""

    def __init__(self, samples: int, **options: Any) -> None:
        super().__init__(RTX4090, TRUE_US.__getitem__, noise=0.001, failures=FAILURES, **options)
        self._left = samples

    def sample(self, config: Config) -> float | Failure:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().sample(config)


@pytest.mark.parametrize("samples", [10, 40, 70, 200, 500])
def test_a_run_that_was_cut_off_and_went_on_is_replayed_too(tmp_path: Path, samples: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path, Interrupted(samples))
    one = recorded(tmp_path, Interrupted(10_000, seed=1))
    assert len(list(one.journal.parent.glob("*.jsonl"))) == 1
    two = replayed(tmp_path, one)
    assert (two.entry.config, two.entry.verdict) == (one.entry.config, one.entry.verdict)
    assert two.entry.gain == one.entry.gain
