"""The prior: what the cost model predicts to be far too slow is not compiled, and nothing else is lost by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import SilentProgress
from fusetune.core.target import Target, find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.ops.gemm_scale import linear_scale
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.report.run_summary import summarize_run
from fusetune.store.journal import Candidate, RunStart, read_journal
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, Times
from fusetune.store.yaml_files import write_entry
from fusetune.tune import plan
from fusetune.tune.plan import PRIOR_LIMIT, PRIOR_MOST, PRIOR_MOST_CONSERVATIVE, PRIOR_SPARES, Plan, make_plan
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import FakeCompiler, ListedSpec, install

H200 = find_target("h200")
PROBLEM = make_problem(128, 512, 1024, "float32")
STANDARD = SPEC.candidates(PROBLEM, H200, "standard")
LIBRARY = Config(variant="library")
"""The op's reference, which no prior leaves out."""


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


def request_of(folder: Path, **changes: Any) -> SweepRequest:
    request = SweepRequest(spec=SPEC, problem=PROBLEM, output=folder / "configs", runs=folder / "runs")
    return msgspec.structs.replace(request, **changes)


def predicted(config: Config) -> float:
    return estimate(config, PROBLEM, H200).time_us


def planned(folder: Path, target: Target = H200, **changes: Any) -> Plan:
    return make_plan(request_of(folder, **changes), target)


def test_every_candidate_is_compiled_skipped_or_rejected_and_only_one_of_them(tmp_path: Path) -> None:
    made = planned(tmp_path)
    parts = [set(made.configs), set(made.skipped), set(made.rejected)]
    assert set().union(*parts) == set(STANDARD)
    assert sum(map(len, parts)) == len(STANDARD)
    assert all(parts)


def test_baseline_comes_first_and_the_rest_in_the_order_of_prediction(tmp_path: Path) -> None:
    baseline, *others = planned(tmp_path).configs
    assert baseline == BASELINE
    times = [predicted(config) for config in others]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_what_is_predicted_beyond_the_limit_is_skipped_and_nothing_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PRIOR_MOST", 10**6)
    monkeypatch.setattr(plan, "PRIOR_PART", 1)
    made = planned(tmp_path)
    best = min(predicted(config) for config in made.configs)
    for config in made.configs:
        assert config.is_conservative or predicted(config) <= PRIOR_LIMIT * best
    for config, why in made.skipped.items():
        assert predicted(config) > PRIOR_LIMIT * best
        assert why.reason == "predicted_slow"
    config, why = next((c, w) for c, w in made.skipped.items() if not c.is_conservative)
    assert why.detail == f"predicted {predicted(config):.3g} us, the best {best:.3g} us"


def test_no_more_are_compiled_than_are_predicted_best_and_the_best_of_4_warps_and_2_stages(tmp_path: Path) -> None:
    made = planned(tmp_path)
    others = [config for config in made.configs if not config.is_conservative]
    safe = [config for config in made.configs if config.is_conservative]
    assert len(others) <= PRIOR_MOST < len(made.configs) + len(made.skipped)
    assert len(safe) <= PRIOR_MOST_CONSERVATIVE
    slowest = max(map(predicted, others))
    assert all(predicted(config) >= slowest for config in made.skipped if not config.is_conservative)


@pytest.mark.parametrize("sizes", [(16, 4096, 4096), (128, 512, 1024), (16384, 4096, 4096)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_at_most_a_third_of_what_can_run_is_compiled(tmp_path: Path, sizes: tuple[int, int, int], dtype: str) -> None:
    made = planned(tmp_path, problem=make_problem(*sizes, dtype))  # type: ignore[arg-type]
    assert len(made.configs) <= (len(made.configs) + len(made.skipped)) / 3 + 1
    assert any(config.is_conservative for config in made.configs[1:])


def test_a_four_warp_two_stage_candidate_is_held_against_the_best_of_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = linear_scale.estimate

    def slower(config: Config, *rest: Any) -> Any:
        found = real(config, *rest)
        return msgspec.structs.replace(found, time_us=found.time_us * (100 if config.is_conservative else 1))

    monkeypatch.setattr(linear_scale, "estimate", slower)
    made = planned(tmp_path)
    safe = min(predicted(config) for config in made.configs if config.is_conservative)
    kept = {config for config in made.configs if config.is_conservative} - {BASELINE}
    dropped = {config for config in made.skipped if config.is_conservative}
    assert kept
    assert dropped
    assert all(predicted(config) <= PRIOR_LIMIT * safe for config in kept)
    assert all(predicted(config) > PRIOR_LIMIT * safe for config in dropped)


def test_baseline_is_never_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = linear_scale.estimate

    def hopeless(config: Config, *rest: Any) -> Any:
        found = real(config, *rest)
        return msgspec.structs.replace(found, time_us=1e9 if config == BASELINE else found.time_us)

    monkeypatch.setattr(linear_scale, "estimate", hopeless)
    made = planned(tmp_path)
    assert made.configs[0] == BASELINE
    assert BASELINE not in made.skipped


def test_without_the_prior_everything_that_can_run_is_compiled_in_the_order_of_the_space(tmp_path: Path) -> None:
    made = planned(tmp_path, prior=False)
    assert made.skipped == {}
    assert list(made.configs) == [config for config in STANDARD if config not in made.rejected]


def test_a_gpu_whose_peaks_are_unknown_has_no_prior(tmp_path: Path) -> None:
    unknown = msgspec.structs.replace(H200, tf32_tflops=None)
    assert planned(tmp_path, unknown) == planned(tmp_path, unknown, prior=False)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_space_of_a_few_candidates_is_compiled_whole(tmp_path: Path, extra: int) -> None:
    skipped = planned(tmp_path).skipped
    slow = sorted((config for config in skipped if not config.is_conservative), key=predicted, reverse=True)
    fast = planned(tmp_path).configs[1]
    spec = ListedSpec(fast, *slow[: PRIOR_SPARES - 2 + extra])
    made = planned(tmp_path, spec=spec, space="full")
    assert len(made.configs) + len(made.skipped) == PRIOR_SPARES + extra
    assert bool(made.skipped) == bool(extra)


def swept(folder: Path, **changes: Any) -> SweepResult:
    measurer = FakeMeasurer(H200, lambda config: 10.0 + config.num_warps)
    return sweep(request_of(folder, **changes), measurer, SilentProgress())


def test_a_sweep_compiles_the_plan_and_its_journal_tells_what_was_skipped(
    tmp_path: Path, compiler: FakeCompiler
) -> None:
    made = planned(tmp_path)
    result = swept(tmp_path)
    assert {job.config for job in compiler.compiled} == {*made.configs, LIBRARY}
    records = list(read_journal(result.journal))
    skipped = {r.config: r for r in records if isinstance(r, Candidate) and r.status == "skipped"}
    assert skipped.keys() == made.skipped.keys()
    assert {(r.reason, r.detail) for r in skipped.values()} == {(w.reason, w.detail) for w in made.skipped.values()}
    counts = summarize_run(records).counts
    assert counts == {"checked": len(made.configs) + 1, "skipped": len(skipped), "rejected": len(made.rejected)}


def test_the_first_line_says_whether_there_was_a_prior(tmp_path: Path) -> None:
    for prior in (True, False):
        start = next(iter(read_journal(swept(tmp_path / str(prior), prior=prior).journal)))
        assert isinstance(start, RunStart)
        assert start.prior is prior


def predicted_entry(folder: Path, config: Config) -> Path:
    identity = TargetIdentity(name=H200.name, capability=H200.capability, sms=H200.sms)
    entry = Entry(
        problem=PROBLEM,
        config=config,
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=Environment(triton="3.7.1", kernel_hash="0" * 16),
        run="20261123T101500-3f9a",
        date="2026-11-23",
        predicted_us=Times(baseline=14.0, conservative=14.0, config=9.0),
    )
    path = config_path(folder / "configs", H200.name, SPEC.name)
    write_entry(path, SPEC.name, identity, entry)
    return path


def test_a_sweep_starts_from_the_predicted_entry_and_never_skips_it(tmp_path: Path) -> None:
    slow = max((c for c in planned(tmp_path).skipped if not c.is_conservative), key=predicted)
    predicted_entry(tmp_path, slow)
    made = planned(tmp_path)
    assert made.configs[:2] == (BASELINE, slow)
    assert made.predicted_before == slow
    assert slow not in made.skipped
    assert len(set(made.configs)) == len(made.configs)


def test_a_predicted_config_outside_the_space_is_tried_too(tmp_path: Path) -> None:
    outside = Config(BLOCK_M=16, BLOCK_N=256, BLOCK_K=16, num_warps=8)
    assert outside not in STANDARD
    predicted_entry(tmp_path, outside)
    assert planned(tmp_path).configs[1] == outside


@pytest.mark.parametrize("changes", [{"prior": False}, {"space": "seed"}])
def test_a_chosen_small_space_and_a_sweep_without_prior_start_from_no_prediction(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    predicted_entry(tmp_path, Config(BLOCK_M=16, BLOCK_N=256, BLOCK_K=16, num_warps=8))
    assert planned(tmp_path, **changes).predicted_before is None


def test_a_prediction_for_another_gpu_or_of_what_cannot_run_is_no_start(tmp_path: Path) -> None:
    predicted_entry(tmp_path, Config(BLOCK_M=256, BLOCK_N=256, BLOCK_K=128, num_warps=8, num_stages=5))
    assert planned(tmp_path).predicted_before is None
    predicted_entry(tmp_path, Config(num_warps=8))
    assert planned(tmp_path, find_target("h100")).predicted_before is None


def test_a_damaged_file_has_no_say_in_the_plan(tmp_path: Path) -> None:
    path = predicted_entry(tmp_path, Config(num_warps=8))
    path.write_text("schema: [")
    assert planned(tmp_path).predicted_before is None


def test_the_sweep_says_that_it_starts_from_the_prediction(tmp_path: Path) -> None:
    predicted_entry(tmp_path, Config(num_warps=8))

    class Listening(SilentProgress):
        said: ClassVar[list[str]] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    sweep(request_of(tmp_path), FakeMeasurer(H200, predicted), Listening())
    assert any("predicted entry" in text and "64x64x32 w8 s2" in text for text in Listening.said)
