"""A library beside the candidates: always measured, told, and chosen only where it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.decision import KeepRule
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.errors import UsageError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import BlockTimes, Checked, Failure
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.report.run_summary import summarize_run
from fusetune.store.journal import Block, Candidate, Comparison, Note, RunEnd, RunStart, read_journal
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.plan import references_of
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import BreakingMeasurer, FakeCompiler, ListedSpec, install

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
FAST = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3)
SAFE = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128)
LIBRARY = Config(variant="library")
FOLDED = Config(variant="library_folded")
TIMES = {BASELINE: 20.0, SAFE: 10.0, FAST: 8.0, LIBRARY: 10.72, FOLDED: 11.0}
NO_RESOURCES = Resources(0, 0, 0)


class StopError(Exception):
    """The run is cut off here."""


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch, {FOLDED: NO_RESOURCES})


def request_of(folder: Path, **changes: Any) -> SweepRequest:
    request = SweepRequest(
        spec=ListedSpec(SAFE, FAST, references=(LIBRARY, FOLDED)),
        problem=PROBLEM,
        output=folder / "configs",
        runs=folder / "runs",
        space="full",
    )
    return msgspec.structs.replace(request, **changes)


def swept(
    folder: Path, times: dict[Config, float] | None = None, *, measurer: FakeMeasurer | None = None, **changes: Any
) -> SweepResult:
    table = {**TIMES, **(times or {})}
    return sweep(request_of(folder, **changes), measurer or FakeMeasurer(RTX4090, table.__getitem__), SilentProgress())


def pairs(result: SweepResult, kind: type = Comparison) -> list[tuple[str, Config, Config]]:
    """Phase and both configs of each comparison or block, in order."""
    records = list(read_journal(result.journal))
    configs = {record.id: record.config for record in records if isinstance(record, Candidate)}
    return [(r.phase, configs[r.baseline_id], configs[r.id]) for r in records if isinstance(r, kind)]  # type: ignore[attr-defined]


def test_the_references_are_checked_timed_beside_baseline_and_told_in_turns_with_what_stays(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    result = swept(tmp_path)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (FAST, "keep", "gain_confirmed")
    assert {LIBRARY, FOLDED} <= {job.config for job in compiler.compiled}
    assert entry.library is not None
    assert (entry.library.config, entry.library.gain.blocks) == (LIBRARY, 25)
    assert entry.library.us == pytest.approx(10.72, rel=1e-3)
    assert entry.library.gain.median == pytest.approx(1 - 8 / 10.72, abs=1e-3)
    assert entry.library.gain.low <= entry.library.gain.median <= entry.library.gain.high
    assert entry.library_text() == "cuBLAS and a finishing kernel: 10.7 us, 34 % slower"

    assert [pair for pair in pairs(result) if pair[0] == "reference"] == [
        ("reference", BASELINE, LIBRARY),
        ("reference", BASELINE, FOLDED),
        ("reference", FAST, LIBRARY),
    ]
    assert pairs(result, Block).count(("reference", FAST, LIBRARY)) == 25
    records = list(read_journal(result.journal))
    checked = {record.config for record in records if isinstance(record, Candidate) and record.status == "checked"}
    assert {LIBRARY, FOLDED} <= checked
    assert {ranked.config for ranked in result.best} == {BASELINE, SAFE, FAST}, "a library takes no part in screening"
    assert result.file is not None
    assert read_config_file(result.file).entries == (entry,)
    rows = [row for row in summarize_run(records).comparisons if row.phase == "reference"]
    assert [row.config for row in rows] == [LIBRARY, FOLDED, LIBRARY]


def test_the_head_to_head_is_run_in_the_process_that_revalidates(tmp_path: Path) -> None:
    seen = []

    class Watched(FakeMeasurer):
        def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
            if config.is_library:
                seen.append((baseline, config, len(self.prepared)))
            return super().block(baseline, config, config_first=config_first)

    swept(tmp_path, measurer=Watched(RTX4090, TIMES.__getitem__))
    assert dict.fromkeys(seen) == dict.fromkeys([(BASELINE, LIBRARY, 1), (BASELINE, FOLDED, 1), (FAST, LIBRARY, 2)])


@pytest.mark.parametrize("times", [{LIBRARY: 2.0}, {FOLDED: 1.0}])
def test_no_library_is_chosen_unasked_however_fast_it_is(tmp_path: Path, times: dict[Config, float]) -> None:
    entry = swept(tmp_path, times).entry
    assert (entry.config, entry.verdict) == (FAST, "keep")
    assert entry.library is not None
    assert entry.library.config in times
    assert entry.library.gain.high < 0
    assert (entry.library_text() or "").endswith("% faster: --allow-library lets it win")


def test_what_a_library_takes_moves_no_decision_of_ours(tmp_path: Path) -> None:
    without = swept(tmp_path / "without", spec=ListedSpec(SAFE, FAST)).entry
    with_library = swept(tmp_path / "with").entry
    assert without.library is None
    assert (without.config, without.reason) == (with_library.config, with_library.reason)


@pytest.mark.parametrize(
    ("reference", "times"), [(LIBRARY, {LIBRARY: 7.0}), (FOLDED, {FOLDED: 7.0}), (FOLDED, {LIBRARY: 7.2, FOLDED: 7.0})]
)
def test_the_fastest_library_wins_where_it_may(tmp_path: Path, reference: Config, times: dict[Config, float]) -> None:
    result = swept(tmp_path, times, allow_library=True)
    entry = result.entry
    assert (entry.config, entry.verdict, entry.reason) == (reference, "keep", "library_gain_confirmed")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(1 - 7 / 20, abs=1e-3)
    assert entry.gain_over_conservative is not None
    assert entry.gain_over_conservative.config == SAFE
    assert entry.gain_over_conservative.median == pytest.approx(1 - 7 / 10, abs=1e-3)
    assert entry.time_us is not None
    assert (entry.time_us.config, entry.time_us.conservative) == pytest.approx((7, 10), rel=1e-3)
    assert entry.library is None, "it is the entry's own config"
    assert result.file is not None
    assert read_config_file(result.file).entries == (entry,)
    told = pairs(result)
    for phase in ("confirm", "revalidate"):
        assert {(phase, over, reference) for over in (BASELINE, SAFE, FAST)} <= set(told)
    start = next(iter(read_journal(result.journal)))
    assert isinstance(start, RunStart)
    assert start.allow_library


@pytest.mark.parametrize("time_us", [8.1, 8.0, 7.95])
def test_ours_stays_where_a_library_that_may_win_is_not_faster_by_more_than_a_tie(
    tmp_path: Path, time_us: float
) -> None:
    entry = swept(tmp_path, {LIBRARY: time_us}, allow_library=True).entry
    assert (entry.config, entry.reason) == (FAST, "gain_confirmed")
    assert entry.library is not None
    assert entry.library.gain.median == pytest.approx(1 - 8 / time_us, abs=1e-3)
    assert "--allow-library" not in (entry.library_text() or "")


def test_a_library_has_to_gain_the_minimum_on_baseline_as_any_config(tmp_path: Path) -> None:
    times = {SAFE: 21.0, FAST: 21.0, FOLDED: 21.0, LIBRARY: 20 * 0.985}
    entry = swept(tmp_path, times, allow_library=True).entry
    assert (entry.config, entry.verdict) == (BASELINE, "revert")
    assert entry.library is not None
    assert "--allow-library" not in (entry.library_text() or ""), "1.5 % is not enough, asked for or not"
    kept = swept(tmp_path, times, allow_library=True, rule=KeepRule(min_gain=0.011)).entry
    assert (kept.config, kept.reason) == (LIBRARY, "library_gain_confirmed")


def test_a_library_wins_where_ours_has_no_candidate_left(tmp_path: Path) -> None:
    entry = swept(tmp_path, allow_library=True, spec=ListedSpec(references=(LIBRARY,))).entry
    assert (entry.config, entry.verdict) == (LIBRARY, "keep")
    assert entry.gain_over_conservative is not None
    assert entry.gain_over_conservative.config == BASELINE


def test_a_library_takes_a_share_of_the_error_budget_only_where_it_may_win(tmp_path: Path) -> None:
    def comparisons_of(allow_library: bool) -> list[int]:
        seen: list[int] = []
        original = KeepRule.look_confidence

        def recorded(rule: KeepRule, comparisons: int) -> float:
            seen.append(comparisons)
            return original(rule, comparisons)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KeepRule, "look_confidence", recorded)
            swept(tmp_path / str(allow_library), {LIBRARY: 7.0}, allow_library=allow_library)
        return seen

    # control and both references, alone; SAFE, FAST and FAST over SAFE; the revalidation of FAST, twice; head to head.
    assert comparisons_of(False) == [1, 1, 1, 3, 3, 3, 2, 2, 1]
    assert comparisons_of(True) == [1, 1, 1, *[3 + 3] * 6, *[2 + 3] * 3]


def test_where_a_fresh_process_does_not_confirm_the_library_ours_is_revalidated_and_stays(tmp_path: Path) -> None:
    later = {**TIMES, LIBRARY: 8.2}
    measurer = FakeMeasurer(RTX4090, {**TIMES, LIBRARY: 7.0}.__getitem__, later_us=later.__getitem__)
    result = swept(tmp_path, measurer=measurer, allow_library=True)
    assert (result.entry.config, result.entry.reason) == (FAST, "gain_confirmed")
    assert result.entry.library is not None
    assert result.entry.library.gain.median == pytest.approx(1 - 8 / 8.2, abs=1e-3)
    notes = [record.text for record in read_journal(result.journal) if isinstance(record, Note)]
    assert any("library did not win again in a fresh process" in note for note in notes)


def test_where_a_fresh_process_confirms_neither_baseline_stays(tmp_path: Path) -> None:
    times = {BASELINE: 20.0, SAFE: 20.1, FAST: 20.1, LIBRARY: 7.0, FOLDED: 20.0}
    measurer = FakeMeasurer(RTX4090, times.__getitem__, later_us={**times, LIBRARY: 20.0}.__getitem__)
    entry = swept(tmp_path, measurer=measurer, allow_library=True).entry
    assert (entry.config, entry.verdict, entry.reason) == (BASELINE, "revert", "revalidation_disagrees")
    assert entry.gain is not None
    assert entry.gain.median == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("allow_library", [False, True])
def test_a_wrong_reference_is_recorded_and_stops_nothing(tmp_path: Path, allow_library: bool) -> None:
    failures = {LIBRARY: Failure("wrong_result", "planted"), FOLDED: Failure("crash", "planted")}
    measurer = FakeMeasurer(RTX4090, TIMES.__getitem__, failures=failures)
    result = swept(tmp_path, measurer=measurer, allow_library=allow_library)
    assert (result.entry.config, result.entry.library) == (FAST, None)
    records = list(read_journal(result.journal))
    last = {record.config: record for record in records if isinstance(record, Candidate)}
    assert [(last[config].status, last[config].reason) for config in (LIBRARY, FOLDED)] == [
        ("failed", "wrong_result"),
        ("failed", "crash"),
    ]
    assert all(phase != "reference" for phase, _, _ in pairs(result))
    assert isinstance(records[-1], RunEnd)


def test_a_reference_that_does_not_compile_is_recorded_and_the_other_is_told(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    compiler.planted[LIBRARY] = Rejection("compile_error", "planted")
    entry = swept(tmp_path).entry
    assert entry.library is not None
    assert entry.library.config == FOLDED
    assert entry.library.us == pytest.approx(11.0, rel=1e-3)
    assert (entry.library_text() or "").startswith("cuBLAS with folded weights: 11.0 us, 3")


@pytest.mark.parametrize("breaks_at", [BASELINE, FAST])
def test_a_reference_that_breaks_while_it_is_timed_costs_its_own_row_alone(tmp_path: Path, breaks_at: Config) -> None:
    def fail(baseline: Config, config: Config, processes: int) -> Failure | None:
        return Failure("crash", "planted") if config.is_library and baseline == breaks_at else None

    result = swept(tmp_path, measurer=BreakingMeasurer(RTX4090, TIMES.__getitem__, fail_block=fail))
    assert (result.entry.config, result.entry.verdict, result.entry.library) == (FAST, "keep", None)
    last = {r.config: r.status for r in read_journal(result.journal) if isinstance(r, Candidate)}
    assert last[LIBRARY] == "failed"
    assert last[FAST] == "checked"


@pytest.mark.parametrize("allow_library", [False, True])
def test_a_run_that_was_cut_off_repeats_no_block_of_a_reference(tmp_path: Path, allow_library: bool) -> None:
    class Cut(FakeMeasurer):
        def __init__(self, limit: int) -> None:
            super().__init__(RTX4090, {**TIMES, LIBRARY: 7.0}.__getitem__)
            self.limit, self.blocks, self.checks = limit, 0, 0

        def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
            if self.blocks == self.limit:
                raise StopError
            self.blocks += 1
            return super().block(baseline, config, config_first=config_first)

        def check(self, config: Config) -> Checked | Failure:
            self.checks += 1
            return super().check(config)

    whole = Cut(-1)
    expected = swept(tmp_path / "whole", measurer=whole, allow_library=allow_library)
    for limit in (30, 60, whole.blocks - 10):
        folder = tmp_path / str(limit)
        with pytest.raises(StopError):
            swept(folder, measurer=Cut(limit), allow_library=allow_library)
        rest = Cut(-1)
        result = swept(folder, measurer=rest, allow_library=allow_library)
        assert rest.blocks == whole.blocks - limit
        assert rest.checks == 0
        assert (result.entry.config, result.entry.reason) == (expected.entry.config, expected.entry.reason)
        assert sorted(pairs(result, Block)) == sorted(pairs(expected, Block))


def test_a_cut_off_run_that_no_library_may_win_is_not_gone_on_with_where_one_may(tmp_path: Path) -> None:
    class Cut(FakeMeasurer):
        def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
            raise StopError

    with pytest.raises(StopError):
        swept(tmp_path, measurer=Cut(RTX4090, TIMES.__getitem__))
    swept(tmp_path, allow_library=True)
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 2
    swept(tmp_path)
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 2


def test_a_prediction_has_no_reference(tmp_path: Path, compiler: FakeCompiler) -> None:
    result = predict(request_of(tmp_path), RTX4090, SilentProgress())
    assert result.entry.library is None
    assert not any(job.config.is_library for job in compiler.compiled)


def test_the_built_in_ops_name_what_cublas_offers() -> None:
    def problem(M: int, mode: Any = None) -> Any:
        return make_problem(M, 512, 1024, "float32", None, mode)

    assert references_of(SPEC, problem(128)) == (LIBRARY,)
    assert references_of(WITH_BN, problem(128, "eval")) == (LIBRARY, FOLDED)
    assert references_of(WITH_BN, problem(128, "train")) == (LIBRARY,)
    assert not LIBRARY.is_conservative
    assert (LIBRARY.label(), FOLDED.label()) == ("library", "library_folded")


def test_a_reference_that_does_not_call_itself_a_library_is_refused() -> None:
    with pytest.raises(UsageError, match="names 64x16x128 w4 s3 as a reference, which is no library's"):
        references_of(ListedSpec(references=(FAST,)), PROBLEM)


@pytest.mark.parametrize("stays", [FAST, BASELINE])
def test_a_single_reference_is_timed_beside_what_stays_alone(
    tmp_path: Path, compiler: FakeCompiler, stays: Config
) -> None:
    compiler.planted[FOLDED] = Rejection("compile_error", "planted")
    result = swept(tmp_path, {} if stays == FAST else {FAST: 20.1, SAFE: 20.2})
    assert result.entry.config == stays
    assert [pair for pair in pairs(result) if pair[0] == "reference"] == [("reference", stays, LIBRARY)]
    assert result.entry.library is not None
    assert result.entry.library.config == LIBRARY
