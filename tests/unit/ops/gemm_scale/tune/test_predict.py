from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.decision import KeepRule, gain
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.errors import CompileError, ConfigFileError, OpError, UnsupportedProblemError, UsageError
from fusetune.measure.fake import FakeMeasurer
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.linear_scale import SPEC, GemmScale
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.space import reject_reason
from fusetune.store.journal import Block, Candidate, Note, PhaseTime, RunEnd, RunStart, Sample, read_journal
from fusetune.store.paths import config_path
from fusetune.store.schema import Times
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.predict import CONSERVATIVE_SHORTLIST, SHORTLIST, predict
from fusetune.tune.request import SpaceChoice, SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import PTXAS, FakeCompiler, ListedSpec, install

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
FAST = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3)
WARPS8 = Config(BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_warps=8)
OTHER = Config(BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, num_stages=4)
SAFE = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128)
LISTED = {"BASELINE": BASELINE, "FAST": FAST, "WARPS8": WARPS8, "OTHER": OTHER, "SAFE": SAFE}


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> dict[Config, float]:
    """A table of predicted microseconds that takes the cost model's place; 50 for what is not in it."""
    table: dict[Config, float] = {}

    def look_up(config: Config, problem: Any, target: Any, resources: Resources | None = None) -> Any:
        known = estimate(config, problem, target, resources)
        return msgspec.structs.replace(known, time_us=table.get(config, 50.0))

    monkeypatch.setattr("fusetune.ops.gemm_scale.linear_scale.estimate", look_up)
    return table


def request_of(tmp_path: Path, **changes: Any) -> SweepRequest:
    request = SweepRequest(spec=SPEC, problem=PROBLEM, output=tmp_path / "configs", runs=tmp_path / "runs")
    return msgspec.structs.replace(request, **changes)


def predicted(tmp_path: Path, **changes: Any) -> SweepResult:
    return predict(request_of(tmp_path, **changes), RTX4090, SilentProgress())


def listed(
    tmp_path: Path, model: dict[Config, float], *, rule: KeepRule | None = None, **by_name: float
) -> SweepResult:
    """A prediction over the named configs with these predicted microseconds, BASELINE 20 unless given."""
    model.update({LISTED[name]: time_us for name, time_us in {"BASELINE": 20.0, **by_name}.items()})
    spec = ListedSpec(*(LISTED[name] for name in by_name if name != "BASELINE"))
    return predicted(tmp_path, spec=spec, space="full", rule=rule or KeepRule())


def last_words(result: SweepResult) -> dict[Config, Candidate]:
    return {record.config: record for record in read_journal(result.journal) if isinstance(record, Candidate)}


def test_a_prediction_says_that_it_is_one(tmp_path: Path) -> None:
    result = predicted(tmp_path)
    entry = result.entry
    assert (entry.evidence, entry.verdict, entry.reason) == ("predicted", "unverified", "predicted_not_timed")
    assert (entry.gain, entry.gain_over_conservative, entry.time_us) == (None, None, None)
    assert (entry.environment.driver, entry.environment.torch) == (None, None)
    assert entry.environment.ptxas == PTXAS
    assert entry.environment.kernel_hash == SPEC.source_hash(entry.config)
    assert result.file == config_path(tmp_path / "configs", "NVIDIA GeForce RTX 4090", "gemm_scale")
    file = read_config_file(result.file)
    assert file.entries == (entry,)
    assert (file.target.name, file.target.capability, file.target.sms) == ("NVIDIA GeForce RTX 4090", "8.9", 128)
    assert result.kept_instead is None


def test_the_best_three_come_in_the_order_of_their_predicted_times(tmp_path: Path) -> None:
    result = predicted(tmp_path)
    times = [ranked.time_us for ranked in result.best]
    assert len(times) == 3
    assert times == sorted(times)
    compiled = [record for record in last_words(result).values() if record.status == "compiled"]
    fastest = sorted(record.predicted_us for record in compiled)[:3]
    assert [round(time_us, 3) for time_us in times] == fastest
    for ranked in result.best:
        record = last_words(result)[ranked.config]
        assert estimate(ranked.config, PROBLEM, RTX4090, record.resources).time_us == ranked.time_us


def test_the_times_of_the_entry_are_those_of_the_model(tmp_path: Path, model: dict[Config, float]) -> None:
    entry = listed(tmp_path, model, FAST=8.0, SAFE=10.0, OTHER=15.0).entry
    assert entry.config == FAST
    assert entry.predicted_us is not None
    assert entry.predicted_us == Times(baseline=20.0, conservative=10.0, config=8.0)


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"FAST": 8.0, "SAFE": 10.0}, "FAST"),
        ({"FAST": 9.9, "SAFE": 10.0}, "SAFE"),
        ({"FAST": 9.8, "SAFE": 10.0}, "FAST"),
        ({"SAFE": 8.0, "FAST": 9.0}, "SAFE"),
        ({"FAST": 19.7, "WARPS8": 19.8}, "BASELINE"),
        ({"FAST": 19.5, "SAFE": 19.7}, "BASELINE"),
        ({"FAST": 25.0, "SAFE": 26.0}, "BASELINE"),
        ({"FAST": 15.0}, "FAST"),
    ],
)
def test_the_keep_rule_holds_for_predictions_too(
    tmp_path: Path, model: dict[Config, float], times: dict[str, float], chosen: str
) -> None:
    result = listed(tmp_path, model, **times)
    assert result.entry.config == LISTED[chosen]
    assert result.entry.verdict == "unverified"


def test_the_minimum_gain_that_was_asked_for_is_the_one_that_holds(tmp_path: Path, model: dict[Config, float]) -> None:
    assert listed(tmp_path, model, rule=KeepRule(min_gain=0.5), FAST=11.0).entry.config == BASELINE
    assert listed(tmp_path, model, rule=KeepRule(min_gain=0.01), FAST=19.7).entry.config == FAST


def test_the_real_model_keeps_no_more_than_the_rule_allows(tmp_path: Path) -> None:
    for problem in (PROBLEM, make_problem(16384, 4096, 4096, "float16"), make_problem(1, 64, 64, "float32")):
        entry = predicted(tmp_path, problem=problem).entry
        times = entry.predicted_us
        assert times is not None
        if entry.config == BASELINE:
            continue
        assert gain(times.config, times.baseline) >= 0.0199
        assert entry.config.is_conservative or gain(times.config, times.conservative) >= 0.0199


def test_of_two_equals_the_one_that_takes_less_of_an_sm_wins(
    tmp_path: Path, model: dict[Config, float], compiler: FakeCompiler
) -> None:
    light, heavy = Resources(48, 0, 16384), Resources(168, 0, 65536)
    for planted, chosen in (({FAST: light, OTHER: heavy}, FAST), ({FAST: heavy, OTHER: light}, OTHER)):
        compiler.planted = dict(planted)
        assert listed(tmp_path, model, FAST=8.0001, OTHER=8.0002).entry.config == chosen


def test_what_spills_or_does_not_compile_is_recorded_and_never_chosen(
    tmp_path: Path, model: dict[Config, float], compiler: FakeCompiler
) -> None:
    compiler.planted = {
        FAST: Resources(255, 120, 4096),
        OTHER: Rejection("compile_timeout", "took more than 60 s to compile"),
        SAFE: Resources(64, 0, RTX4090.shared_bytes_per_cta + 1),
    }
    result = listed(tmp_path, model, FAST=1.0, OTHER=2.0, SAFE=3.0, WARPS8=10.0)
    assert result.entry.config == WARPS8
    assert [ranked.config for ranked in result.best] == [WARPS8, BASELINE]
    found = last_words(result)
    assert {config: (found[config].status, found[config].reason) for config in (FAST, OTHER, SAFE)} == {
        FAST: ("rejected", "spills"),
        OTHER: ("rejected", "compile_timeout"),
        SAFE: ("rejected", "shared_memory"),
    }
    assert found[FAST].resources == Resources(255, 120, 4096)
    assert found[FAST].detail == "120 bytes of stack a thread"


def test_baseline_that_does_not_compile_stops_it(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted = {BASELINE: Rejection("compile_error", "ptxas said no")}
    with pytest.raises(CompileError, match="BASELINE does not compile for NVIDIA GeForce RTX 4090: ptxas said no"):
        predicted(tmp_path)
    assert not (tmp_path / "configs").exists()


@pytest.mark.parametrize("space", ["standard", "seed", "rules"])
def test_baseline_that_spills_is_the_reference_all_the_same(
    tmp_path: Path, compiler: FakeCompiler, space: SpaceChoice
) -> None:
    spilled = Resources(255, 80, 16384)
    compiler.planted = {BASELINE: spilled}
    result = predicted(tmp_path, space=space)
    found = last_words(result)[BASELINE]
    assert (found.status, found.reason, found.resources) == ("compiled", None, spilled)
    assert result.entry.predicted_us is not None
    baseline_us = estimate(BASELINE, PROBLEM, RTX4090, spilled).time_us
    assert result.entry.predicted_us.baseline == round(baseline_us, 3)
    notes = [record.text for record in read_journal(result.journal) if isinstance(record, Note)]
    assert notes == ["BASELINE spills 80 bytes of stack a thread; it is the reference"]


def test_where_all_others_that_were_compiled_spill_the_rest_is_compiled_too(
    tmp_path: Path, compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch, model: dict[Config, float]
) -> None:
    monkeypatch.setattr("fusetune.tune.predict.SHORTLIST", 1)
    monkeypatch.setattr("fusetune.tune.predict.CONSERVATIVE_SHORTLIST", 1)
    compiler.planted = {config: Resources(255, 80, 4096) for config in (FAST, SAFE, WARPS8)}
    result = listed(tmp_path, model, FAST=1.0, SAFE=2.0, WARPS8=3.0, OTHER=4.0)
    assert result.entry.config == OTHER
    assert {last_words(result)[config].reason for config in (FAST, SAFE, WARPS8)} == {"spills"}


@pytest.mark.parametrize("space", ["seed", "rules"])
def test_a_target_without_room_for_baseline_is_the_command_s_mistake(
    tmp_path: Path, compiler: FakeCompiler, space: SpaceChoice
) -> None:
    compiler.planted = {BASELINE: Resources(64, 0, RTX4090.shared_bytes_per_cta + 1)}
    with pytest.raises(UsageError, match=r"BASELINE cannot run on NVIDIA GeForce RTX 4090.*101376 are there") as caught:
        predicted(tmp_path, space=space)
    assert caught.value.exit_code == 2


def test_a_measured_entry_is_not_replaced(tmp_path: Path) -> None:
    measured = sweep(
        request_of(tmp_path, space="seed"),
        FakeMeasurer(RTX4090, lambda config: 20.0 / config.num_stages),
        SilentProgress(),
    )
    assert measured.file is not None
    before = measured.file.read_bytes()
    result = predicted(tmp_path)
    assert result.file is None
    assert result.kept_instead == measured.entry
    assert result.entry.evidence == "predicted"
    assert measured.file.read_bytes() == before
    end = list(read_journal(result.journal))[-1]
    assert isinstance(end, RunEnd)
    assert (end.entry, end.file) == (result.entry, None)


def test_a_predicted_entry_is_replaced_by_a_newer_one_and_by_a_measured_one(tmp_path: Path) -> None:
    predicted(tmp_path)
    newer = predicted(tmp_path)
    assert newer.file is not None
    assert read_config_file(newer.file).entries == (newer.entry,)
    measured = sweep(request_of(tmp_path, space="seed"), FakeMeasurer(RTX4090, lambda _: 20.0), SilentProgress())
    assert read_config_file(newer.file).entries == (measured.entry,)


def test_the_journal_has_every_candidate_with_its_outcome_and_ends_with_the_entry(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    result = predicted(tmp_path)
    records = list(read_journal(result.journal))
    begin, end = records[0], records[-1]
    assert isinstance(begin, RunStart)
    assert (begin.run, begin.evidence, begin.space, begin.op) == (result.run, "predicted", "standard", "gemm_scale")
    assert isinstance(end, RunEnd)
    assert (end.entry, end.file, end.message) == (result.entry, str(result.file), "predicted; nothing was timed")
    found = last_words(result)
    assert set(found) == set(SPEC.candidates(PROBLEM, RTX4090, "standard"))
    assert len({record.id for record in found.values()}) == len(found)
    for config, record in found.items():
        rejection = reject_reason(config, PROBLEM, RTX4090)
        if rejection is not None:
            assert (record.status, record.reason) == ("rejected", rejection.reason)
        elif record.status == "skipped":
            assert record.reason == "predicted_slow"
            assert record.predicted_us is not None
        else:
            assert record.status == "compiled"
            assert record.resources is not None
            assert record.predicted_us is not None
    assert {job.config for job in compiler.compiled} == {
        c for c, record in found.items() if record.status == "compiled"
    }
    assert not [record for record in records if isinstance(record, Sample | Block)]
    assert [record.name for record in records if isinstance(record, PhaseTime)] == ["compile"]


def test_only_a_shortlist_is_compiled_and_it_holds_enough_conservative_candidates(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    result = predicted(tmp_path, space="full")
    shortlist = [job.config for job in compiler.compiled]
    assert SHORTLIST <= len(shortlist) <= SHORTLIST + CONSERVATIVE_SHORTLIST + 1
    assert len(set(shortlist)) == len(shortlist)
    assert BASELINE in shortlist
    assert sum(config.is_conservative for config in shortlist) >= CONSERVATIVE_SHORTLIST
    skipped = [record.predicted_us for record in last_words(result).values() if record.status == "skipped"]
    guessed = sorted(estimate(config, PROBLEM, RTX4090).time_us for config in shortlist)
    assert min(skipped) >= round(guessed[SHORTLIST - CONSERVATIVE_SHORTLIST - 2], 3)


def test_the_same_request_gives_the_same_entry(tmp_path: Path) -> None:
    one, two = (msgspec.structs.replace(predicted(tmp_path).entry, run="", date="") for _ in range(2))
    assert one == two


def test_two_problems_predicted_into_one_file_both_stay(tmp_path: Path) -> None:
    larger = predicted(tmp_path, problem=make_problem(512, 512, 1024, "float32"))
    smaller = predicted(tmp_path)
    assert smaller.file is not None
    assert read_config_file(smaller.file).entries == (smaller.entry, larger.entry)


def test_a_dtype_that_the_op_does_not_compute_is_refused(tmp_path: Path) -> None:
    class HalfOnly(GemmScale):
        name = "half_only"
        dtypes = ("float16", "bfloat16")

    with pytest.raises(UnsupportedProblemError, match="half_only does not compute float32; it does float16, bfloat16"):
        predicted(tmp_path, spec=HalfOnly())
    assert not (tmp_path / "runs").exists()


def test_a_mode_that_the_op_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedProblemError, match="gemm_scale has no mode 'eval': training and evaluation are the same"
    ):
        predicted(tmp_path, problem=msgspec.structs.replace(PROBLEM, mode="eval"))
    assert not (tmp_path / "runs").exists()


def test_a_gpu_without_known_peaks_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    unknown = msgspec.structs.replace(RTX4090, name="NVIDIA Unheard", tf32_tflops=None)
    with pytest.raises(UsageError, match="no tf32 peak for NVIDIA Unheard"):
        predict(request_of(tmp_path), unknown, SilentProgress())
    assert not (tmp_path / "configs").exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_compiled(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "nvidia-geforce-rtx-4090").touch()
    with pytest.raises(ConfigFileError, match="nvidia-geforce-rtx-4090 is not a folder"):
        predicted(tmp_path)
    assert compiler.compiled == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "expected"),
    [
        (80, 32768, {BASELINE, Config(num_warps=8), Config(num_stages=3)}),
        (200, 32768, {BASELINE}),
    ],
)
def test_the_rules_space_is_exactly_what_the_rules_propose_for_baseline_as_compiled(
    tmp_path: Path, compiler: FakeCompiler, registers: int, shared_bytes: int, expected: set[Config]
) -> None:
    compiler.planted[BASELINE] = Resources(registers=registers, stack_bytes=0, shared_bytes=shared_bytes)
    large = make_problem(4096, 4096, 4096, "float32")
    result = predicted(tmp_path, space="rules", problem=large)
    assert set(last_words(result)) == expected


def test_rules_cannot_propose_where_baseline_does_not_compile(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted[BASELINE] = Rejection("compile_error", "planted")
    with pytest.raises(CompileError, match="BASELINE does not compile for NVIDIA GeForce RTX 4090: planted"):
        predicted(tmp_path, space="rules")


def test_a_cost_model_that_fails_is_told_and_not_taken_for_none(tmp_path: Path) -> None:
    class Failing(GemmScale):
        def estimate(self, config: Any, problem: Any, target: Any, resources: Resources | None = None) -> Any:
            return {}["time_us"]

    with pytest.raises(OpError, match=r"op gemm_scale: its estimate\(\) fails: KeyError: 'time_us' \(test_predict.py:"):
        predicted(tmp_path, spec=Failing())


def test_what_an_op_that_was_made_in_code_writes_is_read_back_in_its_own_types(tmp_path: Path) -> None:
    class Derived(GemmScale):
        name = "derived_in_code"

    request = request_of(tmp_path, spec=Derived())
    entry = predict(request, RTX4090, SilentProgress()).entry
    (read,) = read_config_file(config_path(request.output, RTX4090.name, "derived_in_code")).entries
    assert (type(read.problem), type(read.config)) == (type(entry.problem), type(entry.config))
    assert read == entry
