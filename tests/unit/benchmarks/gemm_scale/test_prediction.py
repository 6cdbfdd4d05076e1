"""prediction.py on a sweep whose truth is known."""

from __future__ import annotations

import msgspec
import prediction
import pytest

from fusetune.core.resources import Resources
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import candidates, pipelined_shared_bytes, reject_reason

H200 = find_target("h200")
PROBLEM = make_problem(128, 512, 1024, "float16")


def made_up(problem: Problem = PROBLEM, spoil: float = 1.0) -> prediction.Measured:
    """A sweep in which every config takes what the model says; the model's favourite takes `spoil` times that."""
    plausible = [c for c in candidates(SPEC.space, "standard") if reject_reason(c, problem, H200) is None]
    configs = plausible[:400]
    resources = {
        config: Resources(64, 0, pipelined_shared_bytes(config, problem, H200)) for config in (BASELINE, *configs)
    }
    times = {c: estimate(c, problem, H200, used).time_us for c, used in resources.items()}
    favourite = min(times, key=lambda config: times[config])
    times[favourite] *= spoil
    return prediction.Measured("run", "gemm_scale", problem, H200, "0" * 16, False, times, resources, tuple(plausible))


def test_a_model_that_is_right_has_no_regret() -> None:
    row = prediction.judge(made_up())
    assert [row[f"regret_top{count}"] for count in prediction.FIRST] == [0, 0, 0]
    assert row["rho"] == pytest.approx(1)


def test_a_favourite_that_is_slow_is_regretted_by_the_first_choice_and_not_by_the_first_ten() -> None:
    row = prediction.judge(made_up(spoil=3.0))
    assert row["regret_top1"] > 1
    assert row["regret_top10"] == pytest.approx(0)
    assert row["regret_top3"] < row["regret_top1"]


def test_the_prior_s_share_is_of_all_that_can_run() -> None:
    row = prediction.judge(made_up())
    assert 0 < row["prior_share"] < 1
    assert row["plausible"] > row["candidates"]
    assert row["prior_loss"] == 0


def test_the_halves_are_told_apart_by_size_alone() -> None:
    M, K, N = sorted(prediction.JUDGED)[0]
    assert made_up(make_problem(M, N, K, "float16")).judged
    assert not made_up().judged


def test_a_summary_tells_medians_and_worst_cases() -> None:
    rows = [prediction.judge(made_up(spoil=spoil)) for spoil in (1.0, 1.0, 3.0)]
    found = prediction.summed(rows)
    assert found["problems"] == 3
    assert found["regret_top1_median"] == 0
    assert found["regret_top1_worst"] > 1
    assert prediction.summed([]) == {"problems": 0}


def test_library_configs_and_predictions_are_no_measurements(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert prediction.read_sweeps([tmp_path]) == []
    committed = prediction.read_sweeps(prediction.FOLDERS)
    assert committed
    assert all(not config.is_library for sweep in committed for config in sweep.times_us)
    assert len({(sweep.op, sweep.problem, sweep.target.name) for sweep in committed}) == len(committed)


def test_a_sweep_is_ranked_within_the_space_that_it_had() -> None:
    """Later variants, and rejections that came later, are not its own."""
    committed = prediction.read_sweeps(prediction.FOLDERS)
    assert all(set(sweep.times_us) <= set(sweep.plausible) for sweep in committed)
    assert "deferred" not in variants_of(committed, "NVIDIA H200", (128, 512, 1024))
    assert "deferred" in variants_of(committed, "NVIDIA H200", (1024, 8192, 8192))


def test_what_was_timed_with_other_launches_is_left_out() -> None:
    committed = prediction.read_sweeps(prediction.FOLDERS)
    assert "owner" in variants_of(committed, "NVIDIA H200", (1024, 8192, 8192))
    assert "owner" not in variants_of(committed, "NVIDIA H100 80GB HBM3", (1024, 8192, 8192))


def variants_of(sweeps: list[prediction.Measured], gpu: str, size: tuple[int, int, int]) -> set[str]:
    (found,) = (
        {config.variant for config in sweep.plausible}
        for sweep in sweeps
        if sweep.target.name == gpu and sweep.problem == make_problem(*size, "float16", mode="train")
    )
    return found


def test_sweeps_of_fewer_variants_are_of_the_same_kernels() -> None:
    """A variant that came later has a hash of its own, and an earlier sweep has that of all without it."""
    of_now = prediction.read_sweeps(prediction.FOLDERS)
    assert len({sweep.kernel_hash for sweep in of_now if sweep.op == "gemm_scale_bn"}) > 2
    before = prediction.read_sweeps(prediction.FOLDERS, current=False)
    assert not {sweep.kernel_hash for sweep in of_now} & {sweep.kernel_hash for sweep in before}


def test_the_config_type_is_the_one_that_journals_hold() -> None:
    assert msgspec.convert(msgspec.to_builtins(BASELINE), Config) == BASELINE


def test_sweeps_that_skipped_nothing_stay_though_newer_ones_skipped_much() -> None:
    full = prediction.full_sweeps(prediction.FOLDERS)
    assert full
    assert all(sweep.full for sweep in full)
    newest = {
        sweep.run for current in (True, False) for sweep in prediction.read_sweeps(prediction.FOLDERS, current=current)
    }
    assert any(sweep.run not in newest for sweep in full)
