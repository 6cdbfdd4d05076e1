"""What `benchmarks/peers.py` and `benchmarks/family_sweeps.py` decide without a GPU."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from pathlib import Path
from typing import Any

import family_sweeps
import peer_arms
import peers
import pytest
from family_sweeps import Cell, family

from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.store.lookup import Lookup


def row(key: str, op: str, ours: float, others: dict[str, float], precision: str = "tf32") -> dict[str, Any]:
    return {
        "key": key,
        "M": 1,
        "K": 1,
        "N": 1,
        "op": op,
        "precision": precision,
        "peers_precision": "tf32" if precision == "tf32" else "ieee",
        "config_from": "exact",
        "failed": {},
        "date": "2026-11-24",
        "us": {"fusetune": ours, **others},
        "ours_over": {arm: {"median": ours / us, "low": 0.0, "high": 9.0} for arm, us in others.items()},
    }


def test_the_family_has_every_problem_type_and_op_and_the_large_ones_without_tf32_too() -> None:
    cells = family()
    assert len(cells) == len(set(cells)) == 7 * 3 * 3 + 2 * 2 * 3
    assert {cell.size for cell in cells if cell.near_ieee} == {"1024x8192x8192", "16384x4096x4096"}


def test_a_cell_is_the_problem_that_its_name_says() -> None:
    (cell,) = family(["1024x8192x4096"], ["bf16x3"], ["train"])
    problem = cell.problem
    assert (problem.M, problem.K, problem.N) == (1024, 8192, 4096)
    assert (problem.dtype, problem.precision, problem.mode) == ("float32", "bf16x3", "train")
    assert cell.spec_name == "gemm_scale_bn"


@pytest.mark.parametrize("filters", [(["12x3"], [], []), ([], ["float64"], []), ([], [], ["relu"])])
def test_a_filter_that_no_cell_can_meet_is_refused(filters: tuple[list[str], list[str], list[str]]) -> None:
    with pytest.raises(ValueError, match=r"use|write"):
        family(*filters)


def test_a_sweep_is_told_the_mode_and_the_precision_only_where_there_is_one() -> None:
    plain = family_sweeps.sweep_command(
        Cell(16, 32, 64, "float16", "gemm_scale"), Path("c"), Path("r"), None, fresh=False
    )
    assert "--mode" not in plain
    assert "--precision" not in plain
    train = family_sweeps.sweep_command(Cell(16, 32, 64, "tf32x3", "train"), Path("c"), Path("r"), None, fresh=True)
    assert train[train.index("--mode") + 1] == "train"
    assert train[train.index("--precision") + 1] == "tf32x3"
    assert "--fresh" in train
    assert "--prior" not in train
    full = family_sweeps.sweep_command(
        Cell(16, 32, 64, "float16", "eval"), Path("c"), Path("r"), "full", fresh=False, prior="off"
    )
    assert full[full.index("--prior") + 1] == "off"
    assert full[full.index("--space") + 1] == "full"


def test_a_journal_names_no_folder_above_the_repository_s_own(tmp_path: Path) -> None:
    assert family_sweeps.from_root(family_sweeps.ROOT / "configs") == Path("configs")
    assert family_sweeps.from_root(tmp_path) == tmp_path.resolve()


def test_sweeps_follow_each_other_and_one_without_an_entry_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(cell: Cell, configs: Path, runs: Path, *_: object, **__: object) -> list[str]:
        return [sys.executable, "-c", f"open({str(runs / 'r.jsonl')!r}, 'w').write('x'); print('said by {cell.op}')"]

    monkeypatch.setattr(family_sweeps, "sweep_command", command)
    arguments = argparse.Namespace(
        scratch=tmp_path / "s", configs=tmp_path / "c", journals=tmp_path / "j", space=None, again=False,
        prior=None, one_at_a_time=False, time_limit=None,
    )  # fmt: skip
    assert family_sweeps._sweep_all(family(["16x32x64"], ["float16"]), "NVIDIA H200", arguments) == 1
    said = capsys.readouterr().out
    assert "[3/3] 16x32x64 float16 eval" in said
    assert "3 sweeps in" in said
    assert said.index("said by gemm_scale") < said.index("said by train") < said.index("said by eval")


def test_sets_make_three_times_l2_pass_and_are_never_one() -> None:
    assert peer_arms.sets_for(10**9, 60 * 2**20) == 2
    sets = peer_arms.sets_for(1_300_000, 60 * 2**20)
    assert sets * 1_300_000 >= 3 * 60 * 2**20 > (sets - 1) * 1_300_000


def test_a_graph_holds_whole_walks_and_lasts_a_millisecond() -> None:
    assert peer_arms.launches_for(5.0, 145) == 290
    assert peer_arms.launches_for(1700.0, 2) == 2


def test_only_the_cells_that_have_one_get_a_floor_or_the_seed() -> None:
    small = Cell(128, 1024, 512, "float32", "gemm_scale")
    assert {"cublas", "seed"} <= set(peers.arms_of(small, ["seed"], []))
    assert "seed" not in peers.arms_of(Cell(16, 4096, 4096, "float32", "gemm_scale"), ["seed"], [])
    assert "cublas-ieee" in peers.arms_of(Cell(1024, 8192, 8192, "bf16x3", "gemm_scale"), [], [])
    assert peers.arms_of(Cell(128, 1024, 512, "float32", "eval"), [], ["compile"]) == [
        "fusetune",
        "baseline",
        "eager",
        "max-autotune",
    ]


def test_a_nan_is_never_within_the_tolerance() -> None:
    assert not family_sweeps.within([1e-9, float("nan")], 1e-3)
    assert family_sweeps.within([1e-9], 1e-3)


def test_a_row_pairs_ours_with_each_peer_within_the_rounds() -> None:
    times = {"fusetune": [1.0, 2.0, 4.0] * 5, "eager": [2.0, 4.0, 8.0] * 5}
    errors = {"fusetune": {"y": float("nan")}}
    made = peers.make_row(
        Cell(16, 32, 64, "float16", "gemm_scale"), Lookup(BASELINE, "baseline"), times, errors, {"compile": "crash"}
    )
    assert made["ours_over"]["eager"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert made["errors"]["fusetune"]["y"] is None
    assert "baseline: no entry" in peers.table_line(made)
    assert "FAILED compile" in peers.table_line(made)


def test_the_summary_tells_means_the_worst_and_keeps_full_float32_apart() -> None:
    rows = [
        row("a", "gemm_scale", 1.0, {"eager": 4.0, "compile": 2.0, "max-autotune": 4.0}),
        row("b", "train", 3.0, {"eager": 6.0, "max-autotune": 2.0}),
        row("c", "gemm_scale", 1.0, {"eager": 100.0}, precision="bf16x3"),
    ]
    summary = peers.summarize(rows)
    same = summary["same_precision"]
    assert same["over_best_compile"] == pytest.approx((0.5 * 1.5) ** 0.5, abs=1e-4)
    assert same["over_max_autotune"] == pytest.approx((0.25 * 1.5) ** 0.5, abs=1e-4)
    assert same["worst"] == {"key": "b", "over_best_peer": 1.5}
    assert same["above_1.01"] == {"b": 1.5}
    assert summary["against_ieee"]["over_eager"] == 0.01
    assert "above 1.01: b 1.500" in peers.summary_text(summary)


def test_merging_replaces_the_same_cell_and_drops_a_piece_without_cells() -> None:
    first = peers.merged({}, "G", {"date": "1"}, [{**row("a", "train", 1.0, {"eager": 2.0}), "date": "1"}])
    both = peers.merged(first, "G", {"date": "2"}, [{**row("b", "train", 1.0, {"eager": 2.0}), "date": "2"}])
    assert [piece["date"] for piece in both["pieces"]] == ["1", "2"]
    again = peers.merged(both, "G", {"date": "3"}, [{**row("a", "train", 1.0, {"eager": 4.0}), "date": "3"}])
    assert [piece["date"] for piece in again["pieces"]] == ["2", "3"]
    assert {one["key"]: one["ours_over"]["eager"]["median"] for one in again["cells"]} == {"a": 0.25, "b": 0.5}
    with pytest.raises(ValueError, match="another --output"):
        peers.merged(both, "H", {"date": "4"}, [])


@pytest.mark.parametrize(
    ("config", "hash_", "theirs", "kept"),
    [("a", "1", 3.0, "old"), ("a", "1", 1.5, "new"), ("b", "1", 3.0, "new"), ("a", "2", 3.0, "new")],
)
def test_the_run_with_the_strongest_peer_stays_where_ours_is_the_same(config, hash_, theirs, kept) -> None:
    held = {**row("a", "train", 1.0, {"eager": 4.0, "compile": 2.0}), "date": "1", "config": "a", "kernel_hash": "1"}
    newer = {**row("a", "train", 1.0, {"eager": theirs}), "date": "2", "config": config, "kernel_hash": hash_}
    old = peers.merged({}, "G", {"date": "1"}, [held])
    (found,) = peers.merged(old, "G", {"date": "2"}, [newer], strongest=True)["cells"]
    assert found["date"] == {"old": "1", "new": "2"}[kept]
    (found,) = peers.merged(old, "G", {"date": "2"}, [newer])["cells"]
    assert found["date"] == "2"


def test_a_floor_is_no_peer_that_does_better() -> None:
    held = {**row("a", "train", 1.0, {"cublas": 0.5}), "date": "1", "config": "a", "kernel_hash": "1"}
    newer = {**held, "date": "2"}
    (found,) = peers.merged({"gpu": "G", "cells": [held]}, "G", {"date": "2"}, [newer], strongest=True)["cells"]
    assert found["date"] == "2"


class FakeCuda:
    """A GPU whose clock is moved by the launches that a graph holds."""

    def __init__(self) -> None:
        self.now_us = 0.0
        self.pending: list[float] = []
        self.capturing = False

    def launch(self, us: float) -> None:
        if self.capturing:
            self.pending.append(us)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = self

        class Graph:
            def capture_begin(self, capture_error_mode: str) -> None:
                fake.capturing, fake.pending = True, []

            def capture_end(self) -> None:
                fake.capturing, self.held = False, fake.pending

            def replay(self) -> None:
                fake.now_us += sum(self.held)

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = fake.now_us

            def elapsed_time(self, end: Event) -> float:
                return (end.at - self.at) / 1e3

        monkeypatch.setattr(peer_arms.torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(peer_arms.torch.cuda, "Event", Event)
        monkeypatch.setattr(peer_arms.torch.cuda, "Stream", object)
        monkeypatch.setattr(peer_arms.torch.cuda, "stream", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(peer_arms.torch.cuda, "synchronize", lambda: None)


def test_every_arm_is_replayed_once_a_round_with_equally_many_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeCuda()
    gpu.install(monkeypatch)
    monkeypatch.setattr(peer_arms, "WARM_UP_S", 0.0)

    def broken(index: int) -> None:
        raise RuntimeError("not while capturing")

    bench = peer_arms.GraphBench(4)
    arms = {"fusetune": lambda index: gpu.launch(10.0), "eager": lambda index: gpu.launch(20.0), "compile": broken}
    failed = bench.begin(arms)
    assert list(failed) == ["compile"]
    assert bench.launches == 100
    rounds = []
    times = bench.times(7, random.Random(0), lambda: rounds.append(1))
    assert times == {"fusetune": [pytest.approx(10.0)] * 7, "eager": [pytest.approx(20.0)] * 7}
    assert len(rounds) == 7
