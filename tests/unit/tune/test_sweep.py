"""The whole workflow on a simulated GPU: true times are known, so the right verdict is too."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.decision import Gain, KeepRule, summarize
from fusetune.core.progress import Progress, SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.errors import (
    CompileError,
    ConfigFileError,
    JournalError,
    MeasurementError,
    NoisyMachineError,
    NoUsableGpuError,
    UnsupportedProblemError,
)
from fusetune.measure.fake import FakeMeasurer, TrueTime
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts
from fusetune.store.journal import (
    Block,
    Candidate,
    Comparison,
    Note,
    PhaseTime,
    Record,
    RunEnd,
    RunStart,
    Sample,
    Sampling,
    read_journal,
)
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import PTXAS, BreakingMeasurer, FakeCompiler, ListedSpec, install
from tests.support.sample import BASELINE, OP, SPEC, TRAINING, Config, make_problem, tile

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
FAST = tile(rows=64, columns=16, depth=128, num_stages=3)
WARPS8 = tile(rows=64, columns=64, depth=32, num_warps=8)
OTHER = tile(rows=32, columns=32, depth=64, num_stages=4)
SAFE = tile(rows=64, columns=16, depth=128)


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


def times(**by_name: float) -> tuple[tuple[Config, ...], TrueTime]:
    """The configs of a test and their true microseconds, BASELINE 20 unless given."""
    named = {"BASELINE": BASELINE, "FAST": FAST, "WARPS8": WARPS8, "OTHER": OTHER, "SAFE": SAFE}
    table = {BASELINE: 20.0, **{named[name]: time_us for name, time_us in by_name.items()}}
    return tuple(config for config in table if config != BASELINE), table.__getitem__


def request_of(tmp_path: Path, *configs: Config, **changes: Any) -> SweepRequest:
    request = SweepRequest(
        spec=ListedSpec(*configs),
        problem=PROBLEM,
        output=tmp_path / "configs",
        runs=tmp_path / "runs",
        space="full",
        fresh=True,
    )
    return msgspec.structs.replace(request, **changes)


def tune(tmp_path: Path, *, rule: KeepRule | None = None, seed: int = 0, fake: Any = None, **by_name: float) -> Entry:
    """The entry of a sweep over the named configs; `fake` are options of the simulated GPU."""
    return swept(tmp_path, rule=rule, seed=seed, fake=fake, **by_name).entry


def swept(
    tmp_path: Path, *, rule: KeepRule | None = None, seed: int = 0, fake: Any = None, **by_name: float
) -> SweepResult:
    configs, true_us = times(**by_name)
    measurer = FakeMeasurer(RTX4090, true_us, **{"seed": seed, **(fake or {})})
    request = request_of(tmp_path, *configs, rule=rule or KeepRule(), seed=seed)
    return sweep(request, measurer, SilentProgress())


def records_of(result: SweepResult) -> list[Record]:
    return list(read_journal(result.journal))


def of_kind(records: list[Record], kind: type) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]


def last_words(records: list[Record]) -> dict[Config, Candidate]:
    """What finally became of each candidate."""
    return {record.config: record for record in of_kind(records, Candidate)}


# --- the keep rule, from end to end


def test_a_clearly_faster_config_is_kept_with_its_gains_over_both_references(tmp_path: Path) -> None:
    result = swept(tmp_path, SAFE=10, FAST=8, OTHER=15)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason, entry.evidence) == (FAST, "keep", "gain_confirmed", "measured")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0.6, abs=0.001)
    assert 0.598 < entry.gain.low <= 0.6 <= entry.gain.high < 0.602
    assert (entry.gain.confidence, entry.gain.min_gain, entry.gain.blocks) == (0.95, 0.02, 25)
    over = entry.gain_over_conservative
    assert over is not None
    assert over.config == SAFE
    assert over.median == pytest.approx(0.2, abs=0.001)
    assert 0.198 < over.low <= 0.2 <= over.high < 0.202
    assert entry.time_us is not None
    assert entry.time_us.baseline == pytest.approx(20, rel=1e-3)
    assert entry.time_us.conservative == pytest.approx(10, rel=1e-3)
    assert entry.time_us.config == pytest.approx(8, rel=1e-3)

    assert result.file == config_path(tmp_path / "configs", "NVIDIA GeForce RTX 4090", OP)
    file = read_config_file(result.file)
    assert file.entries == (entry,)
    assert (file.op, file.target.name, file.target.sms) == (OP, "NVIDIA GeForce RTX 4090", 128)
    assert entry.run == result.run == result.journal.stem
    assert entry.environment.ptxas == PTXAS
    assert entry.predicted_us is None


def test_the_best_candidates_are_shown_in_order_with_their_times(tmp_path: Path) -> None:
    best = swept(tmp_path, SAFE=10, FAST=8, OTHER=15).best
    assert [ranked.config for ranked in best] == [FAST, SAFE, OTHER, BASELINE]
    assert [ranked.time_us for ranked in best] == pytest.approx([8, 10, 15, 20], rel=5e-3)


def test_a_config_that_is_one_and_a_half_percent_faster_is_reverted_and_baseline_is_stored(tmp_path: Path) -> None:
    result = swept(tmp_path, WARPS8=20 * 0.985)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "revert", "gain_below_minimum")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0.015, abs=0.001)
    assert entry.gain.high < 0.02
    assert entry.time_us is not None
    assert entry.time_us.baseline == entry.time_us.conservative == entry.time_us.config
    assert entry.time_us.baseline == pytest.approx(20, rel=1e-3)
    assert result.file is not None
    assert read_config_file(result.file).entries == (entry,)


def test_the_conservative_config_is_measured_even_where_three_others_are_faster(tmp_path: Path) -> None:
    entry = tune(tmp_path, FAST=8, OTHER=8.5, WARPS8=9, SAFE=10)
    assert (entry.config, entry.reason) == (FAST, "gain_confirmed")
    assert entry.gain_over_conservative is not None
    assert entry.gain_over_conservative.config == SAFE
    assert entry.gain_over_conservative.median == pytest.approx(0.2, abs=0.001)


def test_the_minimum_gain_that_was_asked_for_is_the_one_that_holds(tmp_path: Path) -> None:
    lenient = tune(tmp_path, rule=KeepRule(min_gain=0.01), WARPS8=20 * 0.985)
    assert (lenient.config, lenient.verdict) == (WARPS8, "keep")
    strict = tune(tmp_path, rule=KeepRule(min_gain=0.7), SAFE=10, FAST=8)
    assert (strict.config, strict.verdict) == (BASELINE, "revert")
    assert lenient.gain is not None
    assert strict.gain is not None
    assert (lenient.gain.min_gain, strict.gain.min_gain) == (0.01, 0.7)


def test_a_config_that_adds_one_percent_to_the_conservative_one_loses_to_it(tmp_path: Path) -> None:
    entry = tune(tmp_path, SAFE=10, WARPS8=10 * 0.99 / 1.002, OTHER=12)
    assert (entry.config, entry.verdict, entry.reason) == (SAFE, "keep", "conservative_gain_confirmed")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0.5, abs=0.001)
    assert entry.gain_over_conservative is None
    assert entry.time_us is not None
    assert entry.time_us.conservative == entry.time_us.config == pytest.approx(10, rel=1e-3)


def test_the_fastest_config_is_kept_for_itself_where_it_runs_with_four_warps_and_two_stages(tmp_path: Path) -> None:
    entry = tune(tmp_path, SAFE=8, WARPS8=9)
    assert (entry.config, entry.verdict, entry.reason) == (SAFE, "keep", "gain_confirmed")
    assert entry.gain_over_conservative is None


def test_baseline_is_the_conservative_reference_where_no_other_such_config_is_faster(tmp_path: Path) -> None:
    entry = tune(tmp_path, WARPS8=10, SAFE=30)
    assert (entry.config, entry.reason) == (WARPS8, "gain_confirmed")
    over = entry.gain_over_conservative
    assert over is not None
    assert over.config == BASELINE
    assert over.median == pytest.approx(0.5, abs=0.001)


def test_a_gain_on_the_threshold_with_few_looks_is_inconclusive_and_baseline_stays(tmp_path: Path) -> None:
    entry = tune(tmp_path, rule=KeepRule(looks=(25,)), fake={"noise": 0.004}, WARPS8=20 * 0.98)
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "inconclusive", "budget_exhausted")
    assert entry.gain is not None
    assert entry.gain.low < 0.02 <= entry.gain.high
    assert entry.gain.blocks == 25
    assert read_config_file(config_path(tmp_path / "configs", RTX4090.name, OP)).entries == (entry,)


# --- ties


def planted_resources(light: Config, heavy: Config) -> dict[Config, Resources | Rejection]:
    return {light: Resources(48, 0, 16384), heavy: Resources(168, 0, 65536)}


@pytest.mark.parametrize(("light", "heavy"), [(OTHER, FAST), (FAST, OTHER)], ids=["one way", "the other way"])
def test_of_two_equals_the_lighter_one_wins_whatever_the_seed(
    tmp_path: Path, compiler: FakeCompiler, light: Config, heavy: Config
) -> None:
    compiler.planted = planted_resources(light, heavy)
    for seed in range(6):
        assert tune(tmp_path, seed=seed, OTHER=10, FAST=10, WARPS8=14).config == light


def test_of_two_equals_the_one_that_leaves_more_room_is_lighter(tmp_path: Path, compiler: FakeCompiler) -> None:
    """FAST has fewer registers, but takes most of an SM's shared memory."""
    compiler.planted = {OTHER: Resources(168, 0, 32768), FAST: Resources(48, 0, 98304)}
    assert tune(tmp_path, OTHER=10, FAST=10).config == OTHER


def test_two_equals_with_the_same_resources_fall_the_same_way_whatever_the_seed(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    compiler.planted = {OTHER: Resources(64, 0, 16384), FAST: Resources(64, 0, 16384)}
    assert {tune(tmp_path, seed=seed, OTHER=10, FAST=10).config for seed in range(6)} == {min(OTHER, FAST)}


def test_a_config_that_is_three_percent_faster_is_no_equal_however_heavy(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    compiler.planted = planted_resources(OTHER, FAST)
    assert tune(tmp_path, OTHER=10, FAST=9.7).config == FAST


# --- candidates that break


@pytest.mark.parametrize("reason", ["wrong_result", "nan", "crash", "hang", "out_of_memory", "launch_error"])
def test_a_candidate_that_breaks_is_recorded_with_its_reason_and_never_wins(tmp_path: Path, reason: str) -> None:
    planted = Failure(reason, "planted", fatal=reason == "crash")
    result = swept(tmp_path, fake={"failures": {FAST: planted}}, FAST=1, WARPS8=10)
    assert result.entry.config == WARPS8
    records = records_of(result)
    found = last_words(records)[FAST]
    assert (found.status, found.reason, found.detail) == ("failed", reason, "planted")
    assert found.resources is not None
    assert all(sample.id != found.id for sample in of_kind(records, Sample))
    assert all(block.id != found.id for block in of_kind(records, Block))
    assert FAST not in {ranked.config for ranked in result.best}


def test_where_every_finalist_breaks_baseline_stays_and_its_own_control_is_the_evidence(tmp_path: Path) -> None:
    result = broken(lambda _, config, __: config != BASELINE, tmp_path, FAST=1, WARPS8=2)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "revert", "no_candidate_left")
    control = next(record for record in of_kind(records_of(result), Comparison) if record.phase == "control")
    assert entry.gain is not None
    assert entry.gain.median == round(control.gain.median, 4)


def broken(fail_block: Callable[[Config, Config, int], bool], tmp_path: Path, **by_name: float) -> SweepResult:
    """A sweep in which the blocks fail for which `fail_block(baseline, config, processes so far)` holds."""
    configs, true_us = times(**by_name)
    crash = Failure("crash", "the worker died")
    measurer = BreakingMeasurer(RTX4090, true_us, fail_block=lambda *pair: crash if fail_block(*pair) else None)
    return sweep(request_of(tmp_path, *configs), measurer, SilentProgress())


def test_a_finalist_that_crashes_in_its_blocks_leaves_the_win_to_the_next(tmp_path: Path) -> None:
    result = broken(lambda _, config, __: config == FAST, tmp_path, FAST=8, WARPS8=10)
    assert result.entry.config == WARPS8
    found = last_words(records_of(result))[FAST]
    assert (found.status, found.reason) == ("failed", "crash")


def test_a_best_config_that_crashes_against_the_conservative_one_leaves_the_win_to_the_next(tmp_path: Path) -> None:
    result = broken(lambda baseline, config, _: (baseline, config) == (SAFE, FAST), tmp_path, FAST=8, WARPS8=9, SAFE=10)
    assert result.entry.config == WARPS8
    assert result.entry.verdict == "keep"
    assert last_words(records_of(result))[FAST].status == "failed"


def test_where_all_others_crash_against_the_conservative_one_it_stays(tmp_path: Path) -> None:
    result = broken(lambda baseline, _, __: baseline == SAFE, tmp_path, FAST=8, WARPS8=9, SAFE=10)
    assert (result.entry.config, result.entry.verdict) == (SAFE, "keep")


def test_where_all_finalists_crash_in_their_blocks_baseline_stays(tmp_path: Path) -> None:
    result = broken(lambda _, config, __: config != BASELINE, tmp_path, FAST=8, SAFE=10)
    assert (result.entry.config, result.entry.reason) == (BASELINE, "no_candidate_left")


def test_a_winner_that_crashes_in_the_fresh_process_is_reverted(tmp_path: Path) -> None:
    result = broken(lambda _, config, processes: processes == 2 and config == FAST, tmp_path, FAST=8, SAFE=10)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "revert", "revalidation_disagrees")
    assert any("failed in a fresh process" in note.text for note in of_kind(records_of(result), Note))


def test_baseline_that_fails_its_second_check_stops_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="BASELINE was right at first") as caught:
        swept(tmp_path, fake={"failures": {BASELINE: Failure("nan", "planted")}}, FAST=8)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "configs").exists()


# --- what the compiler rejects


def test_what_spills_or_does_not_compile_is_recorded_and_never_measured(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted = {
        FAST: Resources(255, 120, 4096),
        OTHER: Rejection("compile_error", "ptxas said no"),
        SAFE: Resources(64, 0, RTX4090.shared_bytes_per_cta + 1),
    }
    result = swept(tmp_path, FAST=1, OTHER=1, SAFE=1, WARPS8=10)
    assert result.entry.config == WARPS8
    found = last_words(records_of(result))
    assert {config: found[config].reason for config in (FAST, OTHER, SAFE)} == {
        FAST: "spills",
        OTHER: "compile_error",
        SAFE: "shared_memory",
    }
    assert all(found[config].status == "rejected" for config in (FAST, OTHER, SAFE))
    assert found[FAST].resources == Resources(255, 120, 4096)


def test_baseline_that_does_not_compile_stops_the_sweep(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted = {BASELINE: Rejection("compile_error", "ptxas said no")}
    with pytest.raises(CompileError, match="BASELINE does not compile for NVIDIA GeForce RTX 4090: ptxas said no"):
        swept(tmp_path, FAST=8)
    assert not (tmp_path / "configs").exists()


def test_baseline_that_spills_is_measured_and_can_stay(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted = {config: Resources(255, 80, 4096) for config in (BASELINE, SAFE)}
    result = swept(tmp_path, SAFE=1, FAST=20)
    assert (result.entry.config, result.entry.verdict) == (BASELINE, "revert")
    found = last_words(records_of(result))
    assert {found[config].status for config in (BASELINE, FAST)} == {"checked"}
    assert found[BASELINE].resources == Resources(255, 80, 4096)
    assert found[SAFE].reason == "spills"


def test_a_run_that_ended_because_baseline_spilled_goes_on(tmp_path: Path, compiler: FakeCompiler) -> None:
    """As it was once: BASELINE's spill was a rejection, and no last line was written."""
    configs, true_us = times(FAST=8)
    request = request_of(tmp_path, *configs, fresh=False)
    compiler.planted = {BASELINE: Rejection("spills", "80 bytes of stack a thread")}
    with pytest.raises(CompileError):
        sweep(request, FakeMeasurer(RTX4090, true_us), SilentProgress())
    (cut_off,) = request.runs.glob("*.jsonl")
    compiler.planted = {BASELINE: Resources(255, 80, 4096)}
    again = sweep(request, FakeMeasurer(RTX4090, true_us), SilentProgress())
    assert again.journal == cut_off, "the same run went on"
    assert again.entry.config == FAST
    assert last_words(records_of(again))[BASELINE].status == "checked"


def test_every_candidate_of_the_real_space_has_an_outcome_and_one_number(tmp_path: Path) -> None:
    measurer = FakeMeasurer(RTX4090, lambda config: 10.0 + config.num_warps)
    request = request_of(tmp_path, spec=SPEC, space="standard")
    records = records_of(sweep(request, measurer, SilentProgress()))
    found = last_words(records)
    ids = {record.config: record.id for record in of_kind(records, Candidate)}
    assert len(found) > 500
    assert sorted(ids.values()) == list(range(len(found)))
    assert {record.status for record in found.values()} == {"rejected", "skipped", "checked"}
    assert all(record.reason for record in found.values() if record.status in {"rejected", "skipped"})
    assert found[BASELINE].id == 0


# --- noise, drift, throttling, the fresh process


def test_a_machine_too_noisy_for_its_own_control_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoisyMachineError, match="nothing was written") as caught:
        swept(tmp_path, fake={"noise": 0.2}, FAST=8)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "configs").exists()
    (journal,) = (tmp_path / "runs").glob("*.jsonl")
    records = list(read_journal(journal))
    end = records[-1]
    assert isinstance(end, RunEnd)
    assert (end.entry, end.file) == (None, None)
    assert end.message == str(caught.value)
    assert all(block.phase == "control" for block in of_kind(records, Block))
    assert len(of_kind(records, Block)) == 400


def test_a_noisy_run_leaves_the_entry_of_an_earlier_one_as_it_is(tmp_path: Path) -> None:
    earlier = swept(tmp_path, FAST=8)
    with pytest.raises(NoisyMachineError):
        swept(tmp_path, fake={"noise": 0.2}, FAST=9)
    assert earlier.file is not None
    assert read_config_file(earlier.file).entries == (earlier.entry,)


def test_a_gain_that_a_fresh_process_does_not_show_is_reverted(tmp_path: Path) -> None:
    result = swept(tmp_path, fake={"later_us": {BASELINE: 20.0, FAST: 19.9, SAFE: 10.0}.__getitem__}, FAST=8, SAFE=10)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "revert", "revalidation_disagrees")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0.005, abs=0.001)  # of the fresh process, not the 60 % seen before
    assert [sampling.seed for sampling in of_kind(records_of(result), Sampling)] == [0, 1]
    assert result.file is not None
    assert read_config_file(result.file).entries == (entry,)


def test_a_gain_over_the_conservative_config_has_to_show_in_the_fresh_process_too(tmp_path: Path) -> None:
    entry = tune(tmp_path, fake={"later_us": {BASELINE: 20.0, FAST: 8.0, SAFE: 8.1}.__getitem__}, FAST=8, SAFE=10)
    assert (entry.config, entry.reason) == (BASELINE, "revalidation_disagrees")


def test_a_conservative_config_that_the_fresh_process_does_not_confirm_is_reverted_with_its_own_figures(
    tmp_path: Path,
) -> None:
    later = {BASELINE: 20.0, SAFE: 19.9, WARPS8: 9.9}.__getitem__
    entry = tune(tmp_path, fake={"later_us": later}, SAFE=10, WARPS8=9.88)
    assert (entry.config, entry.reason) == (BASELINE, "revalidation_disagrees")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0.005, abs=0.001)


def test_the_figures_of_a_kept_entry_are_those_of_the_fresh_process(tmp_path: Path) -> None:
    later = {BASELINE: 22.0, FAST: 11.0, SAFE: 16.5}.__getitem__
    entry = tune(tmp_path, fake={"later_us": later}, FAST=8, SAFE=10)
    assert (entry.config, entry.verdict) == (FAST, "keep")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0.5, abs=0.001)
    assert entry.gain_over_conservative is not None
    assert entry.gain_over_conservative.median == pytest.approx(1 / 3, abs=0.001)
    assert entry.time_us is not None
    assert [entry.time_us.baseline, entry.time_us.conservative, entry.time_us.config] == pytest.approx(
        [22.0, 16.5, 11.0], rel=1e-3
    )


@pytest.mark.parametrize("period", [60, 500])
@pytest.mark.parametrize("seed", range(3))
def test_a_drift_of_thirteen_percent_does_not_change_the_verdict(tmp_path: Path, seed: int, period: int) -> None:
    drifting = {"drift": 0.13, "drift_period": period, "noise": 0.001}
    reverted = tune(tmp_path, seed=seed, fake=drifting, WARPS8=20 * 0.985, OTHER=20.5)
    assert (reverted.config, reverted.verdict) == (BASELINE, "revert")
    kept = tune(tmp_path, seed=seed, fake=drifting, WARPS8=20 * 0.96, OTHER=20.5)
    assert (kept.config, kept.verdict) == (WARPS8, "keep")
    assert kept.gain is not None
    assert kept.gain.median == pytest.approx(0.04, abs=0.002)


class ThrottlingMeasurer(FakeMeasurer):
    """Throttled blocks show the candidate four times as slow, so that one that counted would be seen."""

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        times = super().block(baseline, config, config_first=config_first)
        if isinstance(times, Failure) or times.discarded is None:
            return times
        return msgspec.structs.replace(times, us=times.us * 4)


def test_throttled_blocks_are_discarded_and_counted(tmp_path: Path) -> None:
    configs, true_us = times(FAST=8, SAFE=10)
    measurer = ThrottlingMeasurer(RTX4090, true_us, discard_every=3)
    result = sweep(request_of(tmp_path, *configs), measurer, SilentProgress())
    assert result.entry.config == FAST
    assert result.entry.gain is not None
    assert result.entry.gain.low == pytest.approx(0.6, abs=0.002)
    assert result.entry.gain.blocks == 25
    records = records_of(result)
    comparisons = of_kind(records, Comparison)
    assert {comparison.phase for comparison in comparisons} == {"control", "confirm", "revalidate"}
    for comparison in comparisons:
        blocks = blocks_of(records, comparison.phase, comparison.baseline_id, comparison.id)
        discarded = [block for block in blocks if block.discarded == "thermal throttling"]
        assert comparison.discarded_blocks == len(discarded) >= 12
        assert comparison.gain.blocks == len(blocks) - len(discarded) == 25


# --- the journal


def blocks_of(records: list[Record], phase: str, baseline_id: int, number: int) -> list[Block]:
    return [b for b in of_kind(records, Block) if (b.phase, b.baseline_id, b.id) == (phase, baseline_id, number)]


def recomputed(blocks: list[Block], rule: KeepRule, comparisons: int) -> Gain:
    counted = [block for block in blocks if block.discarded is None]
    gain = summarize([math.log(block.us / block.baseline_us) for block in counted], rule, comparisons)
    rounded = {name: round(getattr(gain, name), 4) for name in ("median", "low", "high")}
    return msgspec.structs.replace(gain, **rounded)


def median_us(blocks: list[Block], name: str) -> float:
    return round(statistics.median([getattr(block, name) for block in blocks if block.discarded is None]), 3)


def test_every_figure_of_a_kept_entry_can_be_recomputed_from_the_blocks_of_the_journal(tmp_path: Path) -> None:
    fake = {"noise": 0.004, "drift": 0.05, "discard_every": 7}
    result = swept(tmp_path, fake=fake, rule=KeepRule(confidence=0.9), FAST=8, SAFE=8.3)
    entry, records = result.entry, records_of(result)
    assert entry.config == FAST
    begin = records[0]
    assert isinstance(begin, RunStart)
    ids = {record.config: record.id for record in of_kind(records, Candidate)}
    comparisons = [record for record in of_kind(records, Comparison) if record.phase == "revalidate"]
    over_baseline = blocks_of(records, "revalidate", ids[BASELINE], ids[FAST])
    over_conservative = blocks_of(records, "revalidate", ids[SAFE], ids[FAST])
    assert entry.gain == recomputed(over_baseline, begin.rule, len(comparisons))
    again = recomputed(over_conservative, begin.rule, len(comparisons))
    shown = entry.gain_over_conservative
    assert shown is not None
    assert (shown.median, shown.low, shown.high, shown.blocks) == (again.median, again.low, again.high, again.blocks)
    assert entry.time_us is not None
    assert entry.time_us.baseline == median_us(over_baseline, "baseline_us")
    assert entry.time_us.config == median_us(over_baseline, "us")
    assert entry.time_us.conservative == median_us(over_conservative, "baseline_us")


def test_every_figure_of_a_reverted_entry_can_be_recomputed_from_the_blocks_of_the_journal(tmp_path: Path) -> None:
    result = swept(tmp_path, fake={"noise": 0.003}, rule=KeepRule(confidence=0.8), WARPS8=20 * 0.99, OTHER=21)
    entry, records = result.entry, records_of(result)
    assert entry.verdict == "revert"
    begin = records[0]
    assert isinstance(begin, RunStart)
    ids = {record.config: record.id for record in of_kind(records, Candidate)}
    blocks = blocks_of(records, "confirm", ids[BASELINE], ids[WARPS8])
    # Both finalists against BASELINE, and one comparison kept for the best against the conservative config.
    assert entry.gain == recomputed(blocks, begin.rule, 3)
    assert entry.time_us is not None
    assert entry.time_us.baseline == entry.time_us.config == median_us(blocks, "baseline_us")


def test_the_journal_tells_the_run_in_order_and_ends_with_the_entry(tmp_path: Path) -> None:
    result = swept(tmp_path, FAST=8, SAFE=10)
    records = records_of(result)
    begin, end = records[0], records[-1]
    assert isinstance(begin, RunStart)
    assert (begin.run, begin.evidence, begin.space, begin.problem) == (result.run, "measured", "full", PROBLEM)
    # The journal is of all kernels, the entry of those of its config.
    of_entry = SPEC.source_hash(result.entry.config)
    assert msgspec.structs.replace(begin.environment, kernel_hash=of_entry) == result.entry.environment
    assert isinstance(end, RunEnd)
    assert (end.entry, end.file, end.message) == (result.entry, str(result.file), "keep")
    phases = [record.name for record in of_kind(records, PhaseTime)]
    assert phases[:2] == ["start", "libraries"]
    assert sorted(phases[2:6]) == ["check", "compile", "first_round", "prepare"]
    assert phases[6:] == ["screen", "settle", "control", "confirm", "prepare", "revalidate"]


def test_the_decision_rests_on_fresh_blocks_only(tmp_path: Path) -> None:
    records = records_of(swept(tmp_path, FAST=8, SAFE=10))
    last_sample = max(index for index, record in enumerate(records) if isinstance(record, Sample))
    first_block = min(index for index, record in enumerate(records) if isinstance(record, Block))
    assert last_sample < first_block


def test_the_gpu_is_warmed_up_before_the_screening_and_before_each_comparison(tmp_path: Path) -> None:
    happened: list[str] = []

    class Listing(FakeMeasurer):
        def prepare(self, seed: int) -> SamplingFacts:
            happened.append("prepare")
            return super().prepare(seed)

        def warm_up(self) -> None:
            happened.append("warm up")

        def sample(self, config: Config) -> float | Failure:
            happened.append("sample")
            return super().sample(config)

        def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
            times = super().block(baseline, config, config_first=config_first)
            del happened[-4:]
            happened.append(f"{baseline.label()} / {config.label()}")
            return times

    configs, true_us = times(FAST=8, SAFE=10)
    sweep(request_of(tmp_path, *configs), Listing(RTX4090, true_us), SilentProgress())
    steps = [step for step, _ in itertools.groupby(happened)]
    compared = [step for step in steps if "/" in step]
    # The control, both finalists, one against the other, and two comparisons in the fresh process.
    assert len(compared) == 6
    assert steps[:3] == ["prepare", "warm up", "sample"]
    assert all(steps[at - 1] == "warm up" for at, step in enumerate(steps) if "/" in step)


def test_the_order_in_which_compilations_end_changes_nothing_but_that_of_the_first_round(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    outcomes, first_rounds = [], []
    for last_first in (True, False):
        compiler.last_first = last_first
        result = swept(tmp_path, fake={"noise": 0.002}, FAST=8, SAFE=10, OTHER=15)
        samples = of_kind(records_of(result), Sample)
        first_rounds.append([sample.id for sample in samples if sample.round == 1])
        later = [(sample.id, sample.us) for sample in samples if sample.round > 1]
        best = [ranked.config for ranked in result.best]
        outcomes.append((later, best, msgspec.structs.replace(result.entry, run="", date="")))
    assert outcomes[0] == outcomes[1]
    assert first_rounds[0] == first_rounds[1][::-1]


def test_a_candidate_is_timed_right_after_its_check_while_others_still_compile(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    happened: list[tuple[str, Config, int]] = []

    class Listing(FakeMeasurer):
        def check(self, config: Config) -> Checked | Failure:
            happened.append(("check", config, len(compiler.compiled)))
            return super().check(config)

        def sample(self, config: Config) -> float | Failure:
            happened.append(("sample", config, len(compiler.compiled)))
            return super().sample(config)

    compiler.last_first = False
    configs, true_us = times(FAST=8, SAFE=10, OTHER=15)
    request = request_of(tmp_path, *configs, prior=False)
    sweep(request, Listing(RTX4090, true_us), SilentProgress())
    expected = [("check", BASELINE, 1)]
    for compiled, config in enumerate(configs, start=2):
        expected += [("check", config, compiled), ("sample", config, compiled)]
    expected.insert(2, ("sample", BASELINE, 2))
    assert happened[: len(expected)] == expected


def test_the_process_of_the_revalidation_starts_at_once_and_rests_before_the_control(tmp_path: Path) -> None:
    happened: list[str] = []

    class Listing(FakeMeasurer):
        def prepare(self, seed: int) -> SamplingFacts:
            happened.append("prepare")
            return super().prepare(seed)

        def standby(self, seed: int) -> None:
            happened.append(f"standby for {seed}")

        def open_ahead(self) -> None:
            happened.append("open ahead")

        def settle(self) -> None:
            happened.append("settle")

        def sample(self, config: Config) -> float | Failure:
            happened.append("sample")
            return super().sample(config)

        def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
            times = super().block(baseline, config, config_first=config_first)
            happened[-4:] = ["block"]
            return times

        def end(self) -> None:
            happened.append("end" if not (tmp_path / "configs").exists() else "end, with the entry written")

    configs, true_us = times(FAST=8, SAFE=10)
    sweep(request_of(tmp_path, *configs, seed=3), Listing(RTX4090, true_us), SilentProgress())
    steps = [step for step, _ in itertools.groupby(happened)]
    standing_by = ["standby for 4", "prepare", "sample", "open ahead", "sample", "settle"]
    assert steps == [*standing_by, "block", "prepare", "block", "end"]


def test_a_kept_config_is_revalidated_in_a_second_process_and_a_reverted_one_needs_none(tmp_path: Path) -> None:
    for by_name, seeds in (({"FAST": 8.0}, [5, 6]), ({"WARPS8": 19.9}, [5])):
        configs, true_us = times(**by_name)
        measurer = FakeMeasurer(RTX4090, true_us)
        sweep(request_of(tmp_path, *configs, seed=5), measurer, SilentProgress())
        assert measurer.prepared == seeds


def test_the_same_seed_and_times_give_the_same_entry(tmp_path: Path) -> None:
    one, two = (tune(tmp_path, seed=3, fake={"noise": 0.004}, FAST=8, SAFE=10) for _ in range(2))
    same = {"run": "", "date": ""}
    assert msgspec.structs.replace(one, **same) == msgspec.structs.replace(two, **same)
    assert one.run != two.run


class SharedGpu(FakeMeasurer):
    """Somebody else computes on it too."""

    def company(self) -> tuple[str, ...]:
        return ("python (pid 7)",)


def test_other_processes_on_the_gpu_are_told_and_recorded(tmp_path: Path) -> None:
    class Listening(SilentProgress):
        warned: tuple[str, ...] = ()

        def warn(self, text: str) -> None:
            self.warned += (text,)

    configs, true_us = times(FAST=8)
    progress = Listening()
    result = sweep(request_of(tmp_path, *configs), SharedGpu(RTX4090, true_us), progress)
    (warning,) = progress.warned
    assert "Other processes use this GPU: python (pid 7)" in warning
    assert of_kind(records_of(result), Note) == [Note(warning)]
    assert result.entry.verdict == "keep"


def test_other_processes_on_the_gpu_are_an_error_where_it_was_asked_for_alone(tmp_path: Path) -> None:
    configs, true_us = times(FAST=8)
    measurer = SharedGpu(RTX4090, true_us)
    with pytest.raises(NoUsableGpuError, match=r"python \(pid 7\); stop them") as caught:
        sweep(request_of(tmp_path, *configs, exclusive=True), measurer, SilentProgress())
    assert caught.value.exit_code == 4
    assert measurer.prepared == []
    assert not (tmp_path / "runs").exists()


# --- files


def test_two_problems_swept_into_one_file_both_stay(tmp_path: Path) -> None:
    configs, true_us = times(FAST=8, SAFE=10)
    larger = make_problem(512, 512, 1024, "float32")
    results = [
        sweep(request_of(tmp_path, *configs, problem=problem), FakeMeasurer(RTX4090, true_us), SilentProgress())
        for problem in (larger, PROBLEM)
    ]
    assert results[0].file == results[1].file is not None
    assert read_config_file(results[0].file).entries == (results[1].entry, results[0].entry)


def test_sweeping_a_problem_again_replaces_its_entry(tmp_path: Path) -> None:
    swept(tmp_path, FAST=8)
    result = swept(tmp_path, FAST=20.1)
    assert result.file is not None
    assert read_config_file(result.file).entries == (result.entry,)
    assert result.entry.config == BASELINE


@pytest.mark.parametrize("in_the_way", ["configs", "configs/nvidia-geforce-rtx-4090"])
def test_an_output_folder_that_cannot_be_made_is_refused_before_anything_is_measured(
    tmp_path: Path, in_the_way: str, compiler: FakeCompiler
) -> None:
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).touch()
    configs, true_us = times(FAST=8)
    measurer = FakeMeasurer(RTX4090, true_us)
    with pytest.raises(ConfigFileError, match=f"{in_the_way} is not a folder that you may write to"):
        sweep(request_of(tmp_path, *configs), measurer, SilentProgress())
    assert measurer.prepared == []
    assert compiler.compiled == []
    assert not (tmp_path / "runs").exists()


def test_a_damaged_file_in_the_output_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    path = config_path(tmp_path / "configs", RTX4090.name, OP)
    path.parent.mkdir(parents=True)
    path.write_text("schema: [1\n")
    with pytest.raises(ConfigFileError, match=rf"{OP}\.yaml, line"):
        swept(tmp_path, FAST=8)
    assert compiler.compiled == []
    assert path.read_text() == "schema: [1\n"


def test_a_folder_for_journals_that_cannot_be_made_is_refused_before_anything_is_measured(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(JournalError, match="FUSETUNE_RUNS"):
        swept(tmp_path, FAST=8)
    assert compiler.compiled == []


def test_a_problem_that_the_op_does_not_compute_is_refused_before_the_gpu_is_asked(tmp_path: Path) -> None:
    class Untouchable(FakeMeasurer):
        def facts(self) -> GpuFacts:
            raise AssertionError("the GPU was asked")

    problem = msgspec.structs.replace(PROBLEM, mode=TRAINING)
    with pytest.raises(UnsupportedProblemError, match=f"{OP} has no mode '{TRAINING}'"):
        sweep(request_of(tmp_path, problem=problem), Untouchable(RTX4090, lambda _: 1.0), SilentProgress())


def test_company_that_is_gone_once_the_gpu_is_ours_is_no_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaving(FakeMeasurer):
        """Another fusetune still measures when this one starts, and has ended by the time the lock is had."""

        holding = False

        def company(self) -> tuple[str, ...]:
            return () if self.holding else ("pid 7 (fusetune)",)

    configs, true_us = times(FAST=8)
    measurer = Leaving(RTX4090, true_us)

    @contextmanager
    def hold(facts: GpuFacts, progress: Progress) -> Iterator[None]:
        measurer.holding = True
        yield

    monkeypatch.setattr("fusetune.tune.sweep.hold_gpu_of", hold)
    result = sweep(request_of(tmp_path, *configs, exclusive=True), measurer, SilentProgress())
    assert result.entry.config == FAST
    assert not of_kind(records_of(result), Note)


def test_another_fusetune_that_was_waited_for_is_no_part_of_how_long_the_run_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        later_s = 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.later_s

    clock = Clock()

    @contextmanager
    def hold(facts: GpuFacts, progress: Progress) -> Iterator[None]:
        clock.later_s += 3600.0
        yield

    monkeypatch.setattr("fusetune.tune.sweep.hold_gpu_of", hold)
    monkeypatch.setattr("fusetune.tune.sweep.time", clock)
    phases = of_kind(records_of(swept(tmp_path, FAST=8)), PhaseTime)
    assert phases[0].name == "start"
    assert 0 <= phases[0].seconds < 3600


def test_clocks_that_were_locked_are_told_in_the_environment(tmp_path: Path) -> None:
    configs, true_us = times(FAST=8)
    result = sweep(request_of(tmp_path, *configs, lock_mhz=1980), FakeMeasurer(RTX4090, true_us), SilentProgress())
    assert result.entry.environment.clocks == "locked at 1980 MHz"
