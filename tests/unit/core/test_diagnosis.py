"""What a profile says limits a kernel."""

from __future__ import annotations

import pytest

from fusetune.core.diagnosis import (
    DRAM,
    GRID,
    L2,
    L2_HITS,
    REGISTERS,
    SM,
    WARPS,
    Diagnosis,
    averaged,
    believed,
    diagnose,
    products_at_half,
)
from fusetune.core.resources import occupancy
from fusetune.core.target import Target, find_target
from tests.support.sample import Problem, make_problem

RTX_4090 = find_target("rtx4090")
PROBLEM = make_problem(1024, 8192, 8192, "float32")
SEED = {SM: 44.43, GRID: 2048, WARPS: 24.01, DRAM: 16.68, L2_HITS: 96.31}
"""The brief's own metrics, of 64x64x32 with 4 warps and 3 stages."""


def told(
    metrics: dict[str, float], *, target: Target = RTX_4090, problem: Problem = PROBLEM, grid: int = 2048
) -> Diagnosis:
    held = occupancy(registers=126, shared_bytes=32768, num_warps=4, target=target)
    return diagnose("kernel", metrics, held, problem.kind, target, grid=grid)


def test_the_brief_s_kernel_is_limited_by_products_at_half_rate_and_every_figure_is_told() -> None:
    found = told(SEED)
    assert found.limit == "compute"
    for figure in ("44 %", "24 % warps active", "the occupancy limit of 25 %", "DRAM 17 %", "96 % L2 hits", "89 %"):
        assert figure in found.sentence
    assert found.notes == ()


def test_the_same_figures_on_a_card_that_multiplies_at_the_full_rate_are_latency_behind_occupancy() -> None:
    found = told({**SEED, WARPS: 24.01}, target=find_target("l40s"))
    assert found.limit == "occupancy"
    assert "shared memory keeps more warps out" in found.sentence


@pytest.mark.parametrize(
    ("changed", "limit"),
    [
        ({DRAM: 94.4, SM: 40.4}, "dram"),
        ({SM: 30.0, L2: 91.0}, "l2"),
        ({SM: 30.0, WARPS: 12.0}, "latency"),
        ({SM: 30.0}, "occupancy"),
    ],
)
def test_the_busiest_unit_is_named_and_without_one_it_is_latency(changed: dict[str, float], limit: str) -> None:
    assert told({**SEED, **changed}).limit == limit


def test_without_the_two_throughputs_nothing_is_claimed_and_they_are_asked_for() -> None:
    found = told({WARPS: 24.0})
    assert found.limit == "unknown"
    assert SM in found.sentence
    assert DRAM in found.sentence


@pytest.mark.parametrize(
    ("changed", "compute"),
    [
        ({}, True),
        ({DRAM: 94.4, SM: 40.4}, False),
        ({SM: 30.0, L2: 91.0}, False),
        ({SM: 30.0}, True),
        ({SM: 5.0, DRAM: 40.0}, False),
    ],
)
def test_the_side_of_the_wall_is_told_or_where_there_is_none_that_of_the_busier_unit(
    changed: dict[str, float], compute: bool
) -> None:
    bound = told({**SEED, **changed}).bound
    assert bound is not None
    assert bound.compute is compute
    assert "device memory at" in bound.why
    assert told({WARPS: 24.0}).bound is None


def test_registers_and_what_warps_wait_for_most_are_told_where_they_were_profiled() -> None:
    stall = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
    stalls = {stall.format("selected"): 9.0, stall.format("long_scoreboard"): 5.1, stall.format("wait"): 2.0}
    sentence = told({**SEED, REGISTERS: 126.0, **stalls}).sentence
    assert "126 registers a thread" in sentence
    assert "wait most for global memory (stall long_scoreboard, 5.1 warps an issue)" in sentence
    share = told({**SEED, "smsp__average_warps_issue_stalled_barrier.pct": 31.0}).sentence
    assert "for other warps of its CTA (stall barrier, 31.0 %)" in share


def test_launches_are_averaged_without_what_cannot_be() -> None:
    mean, doubts = averaged([{SM: 40.0}, {SM: 50.0, DRAM: 130.0}, {}])
    assert mean == {SM: 45.0}
    assert len(doubts) == 1


def test_a_profile_of_another_launch_is_noticed() -> None:
    grids = told({**SEED, GRID: 512})
    warps = told({**SEED, WARPS: 48.0})
    assert any("512 CTAs, this config launches 2048" in note for note in grids.notes)
    assert any("another kernel" in note for note in warps.notes)


def test_a_grid_that_does_not_fill_the_gpu_is_said() -> None:
    found = told({**SEED, WARPS: 8.3, GRID: 64, SM: 10.0}, grid=64)
    assert any("0.17 waves" in note for note in found.notes)


def test_only_geforce_s_tensor_cores_end_at_half_and_only_for_products_on_them() -> None:
    halves = {
        target.aliases[0]: products_at_half(PROBLEM.kind, target)
        for target in map(find_target, ("rtx4090", "rtx3090", "rtx5090", "l4", "l40s", "a10", "a100-80gb", "h200"))
    }
    assert [name for name, half in halves.items() if half] == ["rtx4090", "rtx3090", "rtx5090"]
    assert not products_at_half("ieee", RTX_4090)


@pytest.mark.parametrize("value", [9130.0, 101.5, -0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("metric", [DRAM, SM, WARPS, L2, L2_HITS])
def test_a_share_that_no_unit_can_have_is_left_out_and_told(metric: str, value: float) -> None:
    metrics = {SM: 30.0, DRAM: 20.0, WARPS: 10.0, L2: 5.0, L2_HITS: 50.0}
    kept, doubts = believed({**metrics, metric: value})
    assert kept == {name: share for name, share in metrics.items() if name != metric}
    assert len(doubts) == 1
    assert metric in doubts[0]
    assert "cannot be" in doubts[0]
    answer = told({**metrics, metric: value})
    assert doubts[0] in answer.notes
    assert "91" not in answer.sentence
    assert (answer.limit == "unknown") == (metric in {SM, DRAM})


def test_a_full_unit_may_show_as_a_little_more_than_full() -> None:
    assert believed({DRAM: 100.4}) == ({DRAM: 100.0}, ())


@pytest.mark.parametrize("grid", [-1.0, 0.0, 2.5, 1e300])
def test_a_grid_is_a_number_of_ctas(grid: float) -> None:
    kept, doubts = believed({GRID: grid})
    assert kept == {}
    assert GRID in doubts[0]
