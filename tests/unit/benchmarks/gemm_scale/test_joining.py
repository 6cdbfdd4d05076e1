"""What `benchmarks/joining.py` decides without a GPU: the arms, and what their times say."""

from __future__ import annotations

import functools

import joining
import pytest
from family_sweeps import Cell
from joining import Arm

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale import split
from fusetune.ops.gemm_scale.config import Config

H200 = find_target("h200")
WHOLE = Config(BLOCK_M=32, BLOCK_N=32)
SMALL = Config(variant="split_k", BLOCK_M=16, BLOCK_N=16, SPLIT_K=4)
SMALL_TOO = Config(variant="persistent", BLOCK_M=16, BLOCK_N=32, SPLIT_K=2)
LARGE = Config(variant="split_k", BLOCK_M=64, BLOCK_N=64, SPLIT_K=2)


@functools.cache
def planned(cell: Cell) -> list[Arm]:
    return joining.arms_of(cell.problem, joining.chosen(cell, H200), H200)


def both(config: Config, joined: float, two: float) -> dict[Arm, float]:
    return {Arm(config, "joined"): joined, Arm(config, "two"): two}


TIMED = {
    "first": {Arm(WHOLE, "one"): 7.0, **both(SMALL, 5.0, 10.0), **both(LARGE, 9.0, 6.0)},
    "second": {**both(SMALL, 8.0, 10.0), **both(SMALL_TOO, 9.0, 10.0), Arm(LARGE, "two"): 4.0},
}


def test_ratios_are_summed_up_by_the_size_of_the_summands_over_all_cells() -> None:
    assert [joining.summand_kib(config) for config in (SMALL, SMALL_TOO, LARGE)] == [4, 4, 32]
    assert joining.summarize(TIMED)["by_kib"] == {"4": {"ratio": 0.8, "pairs": 3}, "32": {"ratio": 1.5, "pairs": 1}}


def test_the_best_of_a_cell_need_not_have_been_timed_both_ways() -> None:
    by_cell = joining.summarize(TIMED)["by_cell"]
    assert by_cell["first"] == {
        "one": {"config": WHOLE.label(), "us": 7.0},
        "joined": {"config": SMALL.label(), "us": 5.0},
        "two": {"config": LARGE.label(), "us": 6.0},
    }
    assert by_cell["second"]["one"] is None
    assert by_cell["second"]["two"] == {"config": LARGE.label(), "us": 4.0}


def test_a_row_is_a_config_that_was_timed_both_ways() -> None:
    rows = joining.pairs_of("second", TIMED["second"])
    assert [(row["config"], row["kib"], row["ratio"]) for row in rows] == [
        (SMALL_TOO.label(), 4, 0.9),
        (SMALL.label(), 4, 0.8),
    ]
    assert rows[0] | {"cell": "second", "joined_us": 9.0, "two_us": 10.0} == rows[0]


@pytest.mark.parametrize("cell", joining.CELLS, ids=lambda cell: cell.key)
def test_every_cell_has_arms_of_each_way_and_what_joins_can_run_as_two_kernels(cell) -> None:
    arms = planned(cell)
    assert {arm.way for arm in arms} == set(joining.WAYS)
    assert len(arms) == len(set(arms))
    assert any(Arm(config, "two") in arms for config, way in arms if way == "joined")
    assert all((way == "one") is (config.SPLIT_K == 1) for config, way in arms)
    if cell.op == "train":
        assert all(config.BLOCK_M >= cell.M for config, way in arms if way == "joined")


def test_the_limit_is_back_after_building_with_another() -> None:
    before = split.JOINED_BYTES
    with joining.joined_up_to(joining.limit_of("joined")):
        assert split.joins_summands(LARGE, joining.CELLS[0].problem)
    with joining.joined_up_to(joining.limit_of("two")):
        assert not split.joins_summands(SMALL, joining.CELLS[0].problem)
    assert before == split.JOINED_BYTES


def test_summands_beyond_the_limit_are_timed_as_well() -> None:
    kib = {joining.summand_kib(config) for cell in joining.CELLS for config, way in planned(cell) if way == "joined"}
    assert min(kib) * 1024 <= split.JOINED_BYTES < max(kib) * 1024


def test_the_table_has_a_line_for_each_size_and_each_cell() -> None:
    result = {
        "gpu": "NVIDIA H200",
        "date": "2026-11-26",
        "summary": joining.summarize(TIMED),
        "left_out": {"first": {"spills": 2, "wrong": 1}, "second": {}},
    }
    lines = joining.table(result).splitlines()
    assert len(lines) == 2 + 2 + 1 + 2
    assert lines[2].split() == ["4", "0.800", "3"]
    assert lines[-2].split()[:4] == ["first", "7.000", "5.000", "6.000"]
    assert lines[-2].endswith("2 spills, 1 wrong")
    assert lines[-1].split() == ["second", "-", "8.000", "4.000", "none"]
