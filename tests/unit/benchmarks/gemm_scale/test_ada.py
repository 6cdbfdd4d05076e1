"""The analysis of an RTX 4090 against others' figures: what the benchmark claims, and that it can be wrong."""

from __future__ import annotations

from pathlib import Path

import ada
import msgspec
import pytest

PUBLISHED = ada.read_published(ada.HERE / "data" / "rtx4090_published.csv")
RANKING = ada.read_ranking(ada.HERE / "data" / "rtx4090_published_ranking.csv", PUBLISHED)


def test_every_published_launch_is_read_and_ranking_rows_without_a_product_are_left_out() -> None:
    assert len(PUBLISHED) == 48
    assert len(RANKING) == 61 - 2
    assert {row.target.sms for row in RANKING} == {128, 114}


def test_occupancy_is_never_below_the_warps_that_were_active_and_near_them_where_a_wave_is_filled() -> None:
    found = ada.judge_occupancy(PUBLISHED)
    assert found["launches"] == 19
    assert (found["above_theory"], found["filled_apart"]) == (0, 0)
    assert found["tail_median_error"] < 0.03


def test_a_launch_with_more_warps_than_fit_would_be_seen() -> None:
    row = next(row for row in PUBLISHED if row.warps_active is not None)
    more = msgspec.structs.replace(row, warps_active=row.warps_active + 5)
    fewer = msgspec.structs.replace(row, warps_active=row.warps_active / 2)
    assert ada.judge_occupancy([more])["above_theory"] == 1
    assert ada.judge_occupancy([fewer])["filled_apart"] == 1


def test_the_occupancy_computed_is_the_one_that_was_published_with_each_row() -> None:
    import csv

    with (ada.HERE / "data" / "rtx4090_published.csv").open(newline="") as file:
        theirs = {raw["id"]: float(raw["occupancy_pct_compiled"]) for raw in csv.DictReader(file)}
    for row in PUBLISHED:
        held = ada.occupancy(row.resources.registers, row.resources.shared_bytes, row.config.num_warps, row.target)
        assert held.fraction * 100 == pytest.approx(theirs[row.name], abs=0.01), row.name


def test_the_model_s_median_error_and_share_of_pairs_are_what_the_issue_asks_for() -> None:
    found = ada.judged(PUBLISHED, RANKING)
    assert found["quality_a"]["median_error"] <= 0.10
    assert found["pairs"]["all"]["share"] >= 0.85
    assert found["pairs"]["not seen in fitting"]["share"] >= 0.85


def test_a_pair_in_the_wrong_order_is_counted_as_wrong() -> None:
    first, second = (row for row in RANKING if row.source == "raw_ncu_duration" and row.work.N == 16384)
    assert ada.judge_pairs([first, second])["right"] == 1
    swapped = [msgspec.structs.replace(one, time_ms=other.time_ms) for one, other in ((first, second), (second, first))]
    assert ada.judge_pairs(swapped)["right"] == 0


def test_times_of_different_problems_sources_and_gpus_are_never_compared() -> None:
    row = RANKING[0]
    others = [
        msgspec.structs.replace(row, time_ms=2 * (row.time_ms or 0), **change)
        for change in ({"problem": "2_x"}, {"source": "events"}, {"quality": "NVIDIA GeForce RTX 4090 D"})
    ]
    for other in others:
        assert ada.judge_pairs([row, other])["pairs"] == 0


def test_a_missing_file_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cannot read .*none.csv"):
        ada.read_published(tmp_path / "none.csv")
