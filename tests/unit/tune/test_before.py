"""A program that runs another config than BASELINE: what is kept has to beat both."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from fusetune.cli.swept import print_verdict
from fusetune.compiler.processes import CompileProcesses
from fusetune.core.environment import TargetIdentity
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.errors import CompileError, NoCandidateError
from fusetune.gate.replayed import gate_from
from fusetune.measure.protocol import Failure
from fusetune.measure.replay import ReplayMeasurer
from fusetune.report.compare import Side, compare
from fusetune.report.formats import to_csv, to_json, to_markdown
from fusetune.report.html.data import RunsData
from fusetune.report.html.render import render_html
from fusetune.report.model import load_report
from fusetune.report.terminal import render
from fusetune.store.journal import Candidate, Comparison, Growth, Note, RunStart, Sample, read_journal
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file
from fusetune.tune import grow as growing
from fusetune.tune.grow import rounds_of
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import BreakingMeasurer, FakeCompiler, ListedSpec, install
from tests.support.killable import RTX4090
from tests.support.sample import BASELINE, Config, Problem, tile
from tests.unit.tune.test_sweep import FAST, OTHER, PROBLEM, SAFE

TARGET = TargetIdentity(name=RTX4090.name, capability=RTX4090.capability, sms=RTX4090.sms)
BEFORE = tile(rows=64, columns=64, depth=32, num_warps=8, num_stages=3)


class BeforeSpec(ListedSpec):
    """An op that somebody's program runs with BEFORE; `near` are the neighbours of its configs."""

    def __init__(self, *configs: Config, near: Mapping[Config, tuple[Config, ...]] | None = None) -> None:
        super().__init__(*configs)
        self.near = near or {}

    def before(self, problem: Problem) -> Config:
        return BEFORE

    def neighbours(self, problem: Problem, config: Config, target: Target) -> tuple[Config, ...]:
        return self.near.get(config, ())


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


def request_of(folder: Path, spec: ListedSpec, **changes: Any) -> SweepRequest:
    request = SweepRequest(
        spec=spec, problem=PROBLEM, output=folder / "configs", runs=folder / "runs", space="full", fresh=True
    )
    return msgspec.structs.replace(request, **changes)


def swept(folder: Path, times_us: Mapping[Config, float], gpu: Any = None, **changes: Any) -> SweepResult:
    spec = changes.pop("spec", None) or BeforeSpec(*times_us)
    measurer = BreakingMeasurer(RTX4090, times_us.__getitem__, **(gpu or {}))
    return sweep(request_of(folder, spec, **changes), measurer, SilentProgress())


def figures(entry: Entry) -> tuple[Any, ...]:
    assert entry.time_us is not None
    assert entry.gain is not None
    over_baseline, over_safe = entry.gain_over_baseline, entry.gain_over_conservative
    return (
        (entry.time_us.before, entry.time_us.baseline, entry.time_us.conservative, entry.time_us.config),
        (entry.gain.median, over_baseline and over_baseline.median, over_safe and over_safe.median),
    )


def about(*values: Any) -> tuple[Any, ...]:
    return tuple(None if value is None else pytest.approx(value, abs=0.02) for value in values)


# --- the keep rule


def test_a_config_that_beats_before_baseline_and_the_conservative_one_is_kept_with_all_gains(tmp_path: Path) -> None:
    result = swept(tmp_path, {BEFORE: 20, BASELINE: 16, SAFE: 10, FAST: 8})
    entry = result.entry
    assert (entry.before, entry.config, entry.verdict, entry.reason) == (BEFORE, FAST, "keep", "gain_confirmed")
    assert figures(entry) == (about(20, 16, 10, 8), about(0.6, 0.5, 0.2))
    assert entry.gain_over_baseline is not None
    assert entry.gain_over_baseline.config == BASELINE
    assert entry.gain_over_conservative is not None
    assert entry.gain_over_conservative.config == SAFE
    assert result.file is not None
    assert read_config_file(result.file).entries == (entry,)
    start = next(record for record in read_journal(result.journal) if isinstance(record, RunStart))
    assert (start.before, start.baseline) == (BEFORE, BASELINE)


def test_a_config_that_beats_before_and_not_baseline_leaves_it_to_baseline(tmp_path: Path) -> None:
    entry = swept(tmp_path, {BEFORE: 20, BASELINE: 10, FAST: 9.9}).entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "keep", "baseline_gain_confirmed")
    assert figures(entry) == (about(20, 10, 10, 10), about(0.5, None, None))


def test_baseline_is_kept_where_it_is_itself_the_fastest(tmp_path: Path) -> None:
    entry = swept(tmp_path, {BEFORE: 20, BASELINE: 10, FAST: 12}).entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "keep", "baseline_gain_confirmed")


def test_the_conservative_config_is_kept_where_the_best_adds_too_little_to_it(tmp_path: Path) -> None:
    entry = swept(tmp_path, {BEFORE: 20, BASELINE: 16, SAFE: 10, FAST: 9.9}).entry
    assert (entry.config, entry.verdict, entry.reason) == (SAFE, "keep", "conservative_gain_confirmed")
    assert figures(entry) == (about(20, 16, 10, 10), about(0.5, 0.375, None))


def test_a_conservative_config_that_is_the_fastest_has_to_beat_baseline_too(tmp_path: Path) -> None:
    kept = swept(tmp_path / "kept", {BEFORE: 20, BASELINE: 11, SAFE: 10}).entry
    assert (kept.config, kept.reason) == (SAFE, "gain_confirmed")
    left = swept(tmp_path / "left", {BEFORE: 20, BASELINE: 10.1, SAFE: 10}).entry
    assert (left.config, left.reason) == (BASELINE, "baseline_gain_confirmed")


def test_where_nothing_gains_enough_before_stays_with_the_gains_that_fell_short(tmp_path: Path) -> None:
    entry = swept(tmp_path, {BEFORE: 10, BASELINE: 16, FAST: 9.9}).entry
    assert (entry.before, entry.config) == (BEFORE, BEFORE)
    assert (entry.verdict, entry.reason) == ("revert", "gain_below_minimum")
    assert figures(entry) == (about(10, 16, 16, 10), about(0.01, 0.38, 0.38))


def pairs_of(result: SweepResult) -> list[tuple[Any, Any]]:
    """Which configs were compared on blocks, each with what it was held against first."""
    records = list(read_journal(result.journal))
    configs = {record.id: record.config for record in records if isinstance(record, Candidate)}
    return [
        (configs[record.baseline_id], configs[record.id])
        for record in records
        if isinstance(record, Comparison) and record.phase == "confirm"
    ]


def test_a_conservative_config_that_is_no_faster_than_a_best_that_gains_too_little_is_not_held_against_before(
    tmp_path: Path,
) -> None:
    result = swept(tmp_path, {BEFORE: 10, BASELINE: 16, SAFE: 10.5, FAST: 9.9})
    assert (result.entry.config, result.entry.verdict) == (BEFORE, "revert")
    assert (SAFE, FAST) in pairs_of(result)
    assert (BEFORE, SAFE) not in pairs_of(result)


def test_a_conservative_config_that_is_faster_than_a_best_that_gains_too_little_may_gain_enough(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    compiler.planted[FAST] = Resources(registers=24, stack_bytes=0, shared_bytes=1024)  # the lighter one of equals
    result = swept(tmp_path, {BEFORE: 10, BASELINE: 16, SAFE: 9.75, FAST: 9.83})
    assert (BEFORE, FAST) in pairs_of(result)
    assert (result.entry.config, result.entry.reason) == (SAFE, "conservative_gain_confirmed")


def test_a_result_has_all_that_were_timed_the_fastest_first(tmp_path: Path) -> None:
    tall = {tile(rows=rows, columns=64, depth=32, num_warps=8): 18 + rows / 1000 for rows in (16, 32, 64, 128)}
    deep = {tile(rows=32, columns=64, depth=depth, num_warps=4): 19 + depth / 1000 for depth in (16, 32, 64, 128)}
    times_us = {BEFORE: 20, BASELINE: 16, FAST: 8, **tall, **deep}
    result = swept(tmp_path, times_us)
    assert {ranked.config for ranked in result.screened} == set(times_us)
    assert result.best == result.screened[:10]
    assert result.screened[0].config == FAST


@pytest.mark.parametrize("process", [1, 2])
def test_what_breaks_after_it_was_screened_is_not_among_what_is_right(tmp_path: Path, process: int) -> None:
    def fail_block(first: Config, second: Config, prepared: int) -> Failure | None:
        return Failure("crash", "planted") if second == FAST and prepared == process else None

    result = swept(tmp_path, {BEFORE: 20, BASELINE: 16, SAFE: 10, FAST: 8}, {"fail_block": fail_block})
    assert result.entry.config != FAST
    assert {ranked.config for ranked in result.screened} == {BEFORE, BASELINE, SAFE}
    assert result.best == result.screened


def test_a_fresh_process_that_disagrees_leaves_before(tmp_path: Path) -> None:
    times_us = {BEFORE: 20, BASELINE: 16, FAST: 8}
    entry = swept(tmp_path, times_us, {"later_us": {**times_us, FAST: 19.9}.__getitem__}).entry
    assert (entry.config, entry.verdict, entry.reason) == (BEFORE, "revert", "revalidation_disagrees")


# --- a BASELINE that cannot be had


@pytest.mark.parametrize("how", ["compile", "check", "sample", "block"])
def test_where_baseline_fails_it_is_told_and_the_rule_goes_without_it(
    tmp_path: Path, compiler: FakeCompiler, how: str
) -> None:
    broken = Failure("crash", "planted")
    gpu: dict[str, Any] = {}
    if how == "compile":
        compiler.planted[BASELINE] = Rejection("compile_error", "planted")
    elif how == "check":
        gpu["failures"] = {BASELINE: broken}
    elif how == "sample":
        gpu["fail_sample"] = lambda config, number: broken if config == BASELINE and number else None
    else:
        gpu["fail_block"] = lambda one, other, process: broken if BASELINE in {one, other} else None
    result = swept(tmp_path, {BEFORE: 20, BASELINE: 16, FAST: 8}, gpu)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (FAST, "keep", "gain_confirmed")
    assert figures(entry) == (about(20, None, None, 8), about(0.6, None, None))
    assert result.file is not None
    assert read_config_file(result.file).entries == (entry,)
    (note,) = [record.text for record in read_journal(result.journal) if isinstance(record, Note)]
    assert note.startswith("BASELINE ")
    assert "the rule goes without it" in note
    assert "planted" in note
    assert (result.tried, sum(result.failures.values())) == (2, 1)


def test_before_that_does_not_compile_ends_the_sweep_by_its_name(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted[BEFORE] = Rejection("compile_error", "planted")
    with pytest.raises(CompileError, match="Before does not compile for NVIDIA GeForce RTX 4090: planted"):
        swept(tmp_path, {BEFORE: 20, BASELINE: 16, FAST: 8})


def test_a_sweep_with_nothing_left_beside_before_says_so(tmp_path: Path) -> None:
    wrong = Failure("wrong_result", "planted")
    with pytest.raises(NoCandidateError, match="nothing is left beside Before, since none of 2 other"):
        swept(tmp_path, {BEFORE: 20, BASELINE: 16, FAST: 8}, {"failures": {BASELINE: wrong, FAST: wrong}})


def test_baseline_is_timed_to_the_end_however_slow_it_is(tmp_path: Path) -> None:
    result = swept(tmp_path, {BEFORE: 20, BASELINE: 4000, FAST: 8})
    rounds = {record.round for record in read_journal(result.journal) if isinstance(record, Sample)}
    assert rounds == {1, 2, 3, 4}
    assert result.entry.gain_over_baseline is not None
    assert result.entry.gain_over_baseline.median == pytest.approx(0.998, abs=1e-3)


# --- predictions


def test_a_prediction_knows_before_as_well(tmp_path: Path) -> None:
    result = predict(request_of(tmp_path, BeforeSpec(FAST, SAFE)), RTX4090, SilentProgress())
    assert result.entry.before == BEFORE
    assert result.entry.predicted_us is not None
    assert result.entry.predicted_us.before is not None
    assert result.entry.predicted_us.baseline is not None
    assert result.file is not None
    assert read_config_file(result.file).entries == (result.entry,)


# --- spills, failures


def test_a_config_that_spills_may_win_where_the_op_lets_it(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted[FAST] = Resources(registers=255, stack_bytes=64, shared_bytes=4096)
    times_us = {BEFORE: 20, BASELINE: 16, FAST: 8}
    strict = swept(tmp_path / "strict", times_us)
    assert (strict.entry.config, strict.failures) == (BASELINE, {"spills": 1})
    spec = BeforeSpec(FAST)
    spec.rejects_spills = False
    lenient = swept(tmp_path / "lenient", times_us, spec=spec)
    assert (lenient.entry.config, lenient.failures, lenient.tried) == (FAST, {}, 2)


def test_a_result_counts_what_failed_and_why(tmp_path: Path) -> None:
    wrong = Failure("wrong_result", "planted")
    times_us = {BEFORE: 20, BASELINE: 16, FAST: 8, SAFE: 9, OTHER: 10}
    result = swept(tmp_path, times_us, {"failures": {SAFE: wrong, OTHER: wrong}})
    assert (result.tried, result.failures) == (4, {"wrong_result": 2})


# --- growth

CHAIN = tuple(tile(rows=64, columns=16, depth=32 * 2**n, num_stages=3) for n in range(3)) + tuple(
    tile(rows=32, columns=16, depth=32 * 2**n, num_stages=3) for n in range(3)
)
NEAR = {one: (other,) for one, other in itertools.pairwise(CHAIN)}
DOWNHILL = {BEFORE: 20.0, BASELINE: 19.0, **{config: 15.0 - n for n, config in enumerate(CHAIN)}}


def grown(folder: Path, **changes: Any) -> SweepResult:
    return swept(folder, DOWNHILL, spec=BeforeSpec(CHAIN[0], near=NEAR), **changes)


def rounds(result: SweepResult) -> int:
    return rounds_of(read_journal(result.journal))


def test_growth_finds_the_best_far_from_where_it_began_and_ends_there(tmp_path: Path) -> None:
    result = grown(tmp_path)
    assert (result.entry.config, result.entry.verdict) == (CHAIN[-1], "keep")
    growth = [record for record in read_journal(result.journal) if isinstance(record, Growth)]
    assert [(record.number, record.added) for record in growth] == [(n, 1) for n in range(1, len(CHAIN))]
    assert result.tried == 1 + len(CHAIN)


def test_all_rounds_are_compiled_by_the_same_processes_the_request_s_own_where_it_has_some(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    for number, given in enumerate((None, CompileProcesses(1))):
        compiler.processes.clear()
        assert rounds(grown(tmp_path / str(number), processes=given)) == len(CHAIN) - 1
        assert len(compiler.processes) == len(CHAIN)
        (served,) = set(compiler.processes)
        assert isinstance(served, CompileProcesses)
        assert served is given or given is None


def test_growth_ends_with_its_time(tmp_path: Path) -> None:
    result = grown(tmp_path, budget_s=0.0)
    assert (result.entry.config, rounds(result)) == (CHAIN[0], 0)
    assert rounds(grown(tmp_path / "long", budget_s=1000.0)) == len(CHAIN) - 1


def test_growth_ends_with_its_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "GROWN_MOST", 2)
    assert grown(tmp_path).entry.config == CHAIN[2]


def test_a_grown_sweep_is_replayed_to_the_same_verdict(tmp_path: Path) -> None:
    assert_replays(tmp_path, grown(tmp_path / "one"))


def test_a_sweep_whose_budget_ended_growth_is_replayed_by_its_rounds(tmp_path: Path) -> None:
    assert_replays(tmp_path, grown(tmp_path / "one", grow_rounds=2))


def assert_replays(folder: Path, one: SweepResult) -> None:
    records = list(read_journal(one.journal))
    spec = BeforeSpec(CHAIN[0], near=NEAR)
    request = request_of(folder / "again", spec, grow_rounds=rounds_of(records))
    two = sweep(request, ReplayMeasurer(records), SilentProgress())
    same = {"run": "", "date": ""}
    assert msgspec.structs.replace(one.entry, **same) == msgspec.structs.replace(two.entry, **same)
    assert one.best == two.best


def test_a_grown_sweep_that_was_cut_off_goes_on_to_the_same_config(tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    def cut(one: Config, other: Config, process: int) -> None:
        if CHAIN[-1] in {one, other}:
            raise CutOffError

    with pytest.raises(CutOffError):
        grown(tmp_path, fresh=False, gpu={"fail_block": cut})
    result = grown(tmp_path, fresh=False)
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 1
    assert result.entry.config == CHAIN[-1]


# --- who reads it


def test_reports_say_before_where_it_is_before(tmp_path: Path) -> None:
    swept(tmp_path, {BEFORE: 20, BASELINE: 16, SAFE: 10, FAST: 8})
    data = RunsData()
    report = load_report([tmp_path / "configs"], [tmp_path / "runs"], summarize=data.summarize)
    (row,) = report.rows
    assert (row.before, row.before_us, row.baseline_us) == (BEFORE, *about(20, 16))
    (run,) = report.runs
    assert run.baseline is not None
    assert (run.before, run.baseline.config) == (BEFORE, BEFORE)
    text = to_markdown(report)
    assert "| Before | winner |" in text
    assert "20.0 us (BASELINE 16.0 us)" in text
    assert "gain over Before" in text
    assert "the gain over Before, over BASELINE and over the fastest" in text
    (cells,) = csv.DictReader(io.StringIO(to_csv(report)))
    assert cells["before_label"] == BEFORE.label()
    assert float(cells["before_us"]) == pytest.approx(20, abs=0.02)
    assert float(cells["gain_over_baseline_median"]) == pytest.approx(0.5, abs=0.01)
    assert json.loads(to_json(report))["rows"][0]["gain_over_baseline"]["median"] == pytest.approx(0.5, abs=0.01)
    console = Console(width=200, file=io.StringIO(), record=True)
    render(report, console)
    assert "Before" in console.export_text()
    page = render_html(report, data.by_run)
    assert "2.5x faster than Before (8.00 us, was 20.0 us), kept with 95 % confidence" in page
    assert "Gain over BASELINE: +50.0 %" in page
    assert f"{BEFORE.label()} (Before)" in page


def test_the_gate_decides_a_run_again_over_before(tmp_path: Path) -> None:
    finding = gate_from(swept(tmp_path, {BEFORE: 20, BASELINE: 16, FAST: 8}).journal)
    assert (finding.status, finding.baseline_us) == ("holds", pytest.approx(20, abs=0.02))


def test_the_verdict_on_the_screen_names_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(swept(tmp_path, {BEFORE: 20, BASELINE: 16, FAST: 8}))
    told = capsys.readouterr().out
    assert f"Before          20.0 us, {BEFORE.label()}" in told
    assert "BASELINE        16.0 us" in told
    assert "over BASELINE: +50.0 %" in told


def test_gains_over_different_configs_are_not_compared(tmp_path: Path) -> None:
    one = swept(tmp_path / "one", {BEFORE: 20, BASELINE: 16, FAST: 8}).entry
    two = msgspec.structs.replace(one, before=OTHER)
    (difference,) = compare(*(Side("a", {("op", "gpu", PROBLEM): (TARGET, entry)}) for entry in (one, two)))
    assert difference.change == "not_comparable"
    assert "over different configs" in difference.why


def test_a_file_keeps_the_place_of_its_kernel(tmp_path: Path) -> None:
    spec = BeforeSpec(FAST)
    spec.kernel_place = "net.layers:Block.<locals>.kernel", str(tmp_path / "net" / "layers.py")
    times_us = {BEFORE: 20, BASELINE: 16, FAST: 8}
    result = swept(tmp_path, times_us, spec=spec)
    assert result.file is not None
    placed = read_config_file(result.file)
    assert (placed.kernel, placed.file) == ("net.layers:Block.<locals>.kernel", "net/layers.py")
    swept(tmp_path, times_us)
    again = read_config_file(result.file)
    assert (again.kernel, again.file) == (placed.kernel, placed.file)


def test_what_needs_before_is_refused_without_it(tmp_path: Path) -> None:
    entry = swept(tmp_path, {BEFORE: 20, BASELINE: 16, FAST: 8}).entry
    with pytest.raises(ValueError, match="needs the config that ran, `before`"):
        msgspec.structs.replace(entry, before=None)
    assert entry.time_us is not None
    times = msgspec.structs.replace(entry.time_us, before=None, baseline=None)
    with pytest.raises(ValueError, match="need `baseline` and `conservative`"):
        msgspec.structs.replace(entry, before=None, time_us=times, gain_over_baseline=None)
