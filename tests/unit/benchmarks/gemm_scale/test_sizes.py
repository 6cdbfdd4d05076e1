"""benchmarks/sizes.py without a GPU: what is drawn, found again after a stop, and what the targets make of it."""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sizes
from family_sweeps import kernel_hash
from msgspec import to_builtins
from sizes_drawn import FORMS, NAMED, Sized, all_sizes, drawn, fitted, normalized
from sizes_found import Records, hashes_of, is_due, result_of, row_of, summarize, wanted_arms

from fusetune.fleet.gpus import GpuHere
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.sources import hashes_so_far

KEPT = Config(BLOCK_M=128)
OTHER = Config(BLOCK_M=32)
GPUS = tuple(GpuHere(number, f"GPU-{number}", "NVIDIA H200", "9.0") for number in range(2))
SIZES = drawn(count=3)


def test_the_same_sizes_are_drawn_every_time() -> None:
    keys = [one.cell.key for one in drawn()]
    assert keys == [one.cell.key for one in drawn()]
    assert keys[:3] == [
        "1607x1664x128 float32 gemm_scale",
        "5016x15248x104 float16 gemm_scale",
        "628x3781x8047 bfloat16 gemm_scale",
    ]
    assert len(set(keys)) == 30
    assert not {(one.cell.M, one.cell.K, one.cell.N) for one in drawn()} & {one[:3] for one in NAMED}


def test_a_third_has_each_form_and_a_third_each_dtype_in_turn() -> None:
    found = drawn()
    assert Counter(one.form for one in found) == {"multiples of 128": 10, "multiples of 8": 10, "odd": 10}
    assert [one.cell.kind for one in found[:4]] == ["float32", "float16", "bfloat16", "float32"]
    assert min(Counter((one.form, one.cell.kind) for one in found).values()) == 3
    assert sum(one.without_prior for one in found) == 6
    for one in drawn(seed=7, count=3000):
        assert 1 <= one.cell.M <= 16384
        for size in (one.cell.K, one.cell.N):
            assert 64 <= size <= 16384
            assert {"multiples of 128": size % 128 == 0, "multiples of 8": size % 8 == 0, "odd": size % 2 == 1}[
                one.form
            ]


def test_sizes_to_fit_by_are_drawn_alike_and_none_of_them_is_judged() -> None:
    found = fitted()
    assert 20 <= len(found) <= 24
    assert {one.group for one in found} == {"fitting"}
    assert {one.form for one in found} == set(FORMS)
    sizes_of = [{(one.cell.M, one.cell.K, one.cell.N) for one in group} for group in (found, all_sizes())]
    assert not sizes_of[0] & sizes_of[1]


def test_sizes_to_fit_by_are_listed_on_request_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for only in ([], ["--only", "fitting"], ["--only", "fitting,named"]):
        monkeypatch.setattr(sys, "argv", ["sizes.py", "--list", *only])
        assert sizes.main() == 0
        groups = Counter(line.split()[3] for line in capsys.readouterr().out.splitlines())
        counts.append((groups["fitting"], groups["named"], groups["drawn"]))
    assert counts == [(0, 4, 30), (len(fitted()), 0, 0), (len(fitted()), 4, 0)]


def test_the_journal_of_a_size_to_fit_by_lies_beside_the_results(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "one.jsonl").write_text("")
    run = made_run(tmp_path / "work", output=tmp_path / "results")
    for for_fitting in (False, True):
        assert "error" in sizes.Lane(run, GPUS[0], {0})._journal_of(runs, 0, for_fitting=for_fitting)
    kept = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.gz")]
    assert sorted(kept) == ["results/fitting/one.jsonl.gz", "work/journals/one.jsonl.gz"]


def test_sizes_are_log_uniform() -> None:
    many = drawn(seed=7, count=3000)
    # The middle of 1..16384 is 128 and that of 64..16384 is 1024; a quarter lies below the middle's root.
    assert statistics.median(one.cell.M for one in many) == pytest.approx(128, rel=0.25)
    assert statistics.median(one.cell.K for one in many) == pytest.approx(1024, rel=0.2)
    assert sum(one.cell.M <= 11 for one in many) / len(many) == pytest.approx(0.25, abs=0.03)
    assert sum(one.cell.N <= 256 for one in many) / len(many) == pytest.approx(0.25, abs=0.03)


def test_ten_sizes_are_trained_and_evaluated_with_two_rows_or_more() -> None:
    found = normalized(drawn())
    assert [one.cell.op for one in found] == ["train", "eval"] * 10
    assert all(one.cell.M > 1 for one in found)
    assert {one.cell.size for one in found} < {one.cell.size for one in drawn()}
    assert len({one.form for one in found}) == len({one.cell.kind for one in found}) == 3
    assert len(all_sizes()) == 4 + 30 + 20


# What is found, and found again.


def swept(sized: Sized, config: Config = KEPT, **changes: Any) -> dict[str, Any]:
    told = {"config": to_builtins(config), "label": config.label(), "verdict": "keep", "seconds": 12.0, "compiled": 9}
    return {**head(sized, "sweep"), **told, "candidates": 20, "skipped": 11, "phases_s": {}, **changes}


def head(sized: Sized, step: str) -> dict[str, Any]:
    hashed = kernel_hash(sized.cell.spec_name)
    return {"key": sized.cell.key, "step": step, "piece": "p", "cores": 16, "kernel_hash": hashed, "seconds": 1.0}


def predicted(sized: Sized, config: Config = KEPT) -> dict[str, Any]:
    return {**head(sized, "predict"), "configs": [to_builtins(config)], "labels": [config.label()]}


def took(records: Records, sized: Sized, over: dict[str, float], **changes: Any) -> dict[str, Any]:
    """What the arms' times come to: ours takes 10 us, and `over` is ours over each other arm."""
    told = {"us": {"fusetune": 10.0, **{arm: 10.0 / ratio for arm, ratio in over.items()}}, "failed": {}, "errors": {}}
    told |= {"ours_over": {arm: {"median": ratio, "low": ratio, "high": ratio} for arm, ratio in over.items()}}
    return {**head(sized, "time"), **told, "configs": wanted_arms(sized, records), "compile_limit_s": 100.0, **changes}


def test_a_line_that_was_half_written_spoils_none_after_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Records(path, "G").add(swept(SIZES[0]))
    with path.open("a") as file:
        file.write('{"key": "1607x')
    Records(path, "G").add(swept(SIZES[1]))
    found = Records(path, "G")
    assert [found.of(one, "sweep") is not None for one in SIZES] == [True, True, False]


def test_a_step_counts_for_its_own_gpu_and_kernels_alone_and_a_failed_one_is_made_again(tmp_path: Path) -> None:
    records = Records(tmp_path / "results.jsonl", "G")
    records.add(swept(SIZES[0], kernel_hash="of other kernels"))
    records.add(swept(SIZES[1], error="exit code 3"))
    records.add(swept(SIZES[2]))
    assert [is_due(one, "sweep", records, 0) for one in SIZES] == [True, True, False]
    assert is_due(SIZES[2], "sweep", Records(tmp_path / "results.jsonl", "H"), 0)
    assert list(result_of(SIZES, records)["errors"]) == [f"{SIZES[1].cell.key}: sweep"]


def test_what_was_found_before_a_variant_came_counts_where_that_is_no_candidate() -> None:
    before = hashes_so_far("gemm_scale")[-2]
    aligned, odd = (
        next(one for one in all_sizes() if one.cell.key.startswith(size)) for size in ("300x5000", "628x3781")
    )
    assert before in hashes_of(aligned)
    assert before not in hashes_of(odd)
    assert kernel_hash("gemm_scale") in hashes_of(aligned) & hashes_of(odd)


def test_the_lines_that_count_are_kept_beside_the_result_and_taken_up_from_there(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.records.add(swept(SIZES[0], OTHER))
    run.records.add(swept(SIZES[0]))
    run.write()
    kept = (tmp_path / "sizes-nvidia-h200.jsonl").read_text().splitlines()
    assert [json.loads(line)["config"] for line in kept] == [to_builtins(KEPT)]
    again = made_run(tmp_path, work=tmp_path / "another")
    assert not again.is_due(SIZES[0], "sweep")
    assert again.is_due(SIZES[1], "sweep")


@pytest.mark.parametrize(("both", "steps"), [(0, ["both"]), (None, ["both", "time"]), (-11, ["both", "time"])])
def test_arms_are_timed_apart_where_compiling_max_autotune_is_cut_off_or_takes_the_process_with_it(
    tmp_path: Path, both: int | None, steps: list[str]
) -> None:
    run, asked = made_run(tmp_path), []
    run.records.add(swept(SIZES[0]))
    lane = sizes.Lane(run, GPUS[0], {0})
    lane.scratch.mkdir(parents=True)

    def ended(command: list[str], *_: Any) -> tuple[int | None, float]:
        asked.append(command[-2])
        code = both if command[-2] == "both" else 0
        if code == 0:
            (lane.scratch / "answer.json").write_text('{"us": {}}')
        return code, 1.0

    lane._ended = ended  # type: ignore[method-assign]
    assert lane._timed(SIZES[0])["us"] == {}
    assert asked == steps


def test_a_file_is_missed_only_when_its_time_is_over(tmp_path: Path) -> None:
    until = sizes.Until(tmp_path / "mark", 5.0)
    assert (until.is_missed(4.0), until.is_missed(6.0)) == (False, True)
    until.path.touch()
    assert not until.is_missed(6.0)


def test_files_of_other_machines_are_taken_in_once(tmp_path: Path) -> None:
    mine, theirs = Records(tmp_path / "a" / "results.jsonl", "G"), Records(tmp_path / "b" / "results.jsonl", "G")
    mine.add(swept(SIZES[0]))
    theirs.add(swept(SIZES[1]))
    Records(theirs.path, "H").add(swept(SIZES[2]))
    assert mine.merge(theirs.path) == 1
    assert mine.merge(theirs.path) == 0
    again = Records(mine.path, "G")
    assert [again.of(one, "sweep") is not None for one in SIZES] == [True, True, False]


def test_arms_are_timed_again_where_a_config_is_another_or_more_time_is_given(tmp_path: Path) -> None:
    records, (first, *_) = Records(tmp_path / "results.jsonl", "G"), SIZES
    assert not is_due(first, "time", records, 100)  # There is nothing to time yet.
    records.add(swept(first))
    records.add(predicted(first))
    assert is_due(first, "time", records, 100)
    records.add(took(records, first, {"eager": 0.5}, failed={"max-autotune": "it did not compile within 100 s"}))
    assert not is_due(first, "time", records, 100)
    assert is_due(first, "time", records, 200)
    assert row_of(first, records) is not None
    records.add(swept(first, OTHER))
    assert is_due(first, "time", records, 100)
    assert row_of(first, records) is None


def test_regret_and_loss_are_told_by_what_was_timed_in_the_same_run(tmp_path: Path) -> None:
    records, (first, second, _) = Records(tmp_path / "results.jsonl", "G"), SIZES
    for sized, guess in ((first, OTHER), (second, KEPT)):
        records.add(swept(sized))
        records.add(predicted(sized, guess))
    records.add({**swept(first, BASELINE), "step": "prior_off"})
    records.add(took(records, first, {"eager": 0.5, "library": 0.8, "predicted": 0.8, "prior_off": 1.02}))
    records.add(took(records, second, {"eager": 0.5, "max-autotune": 1.1}))
    one, other = row_of(first, records), row_of(second, records)
    assert (one["best_peer"], one["over_best_peer"]) == ("library", 0.8)
    assert one["predicted"]["regret"] == pytest.approx(0.25)
    assert one["prior_off"]["loss"] == pytest.approx(0.02)
    assert (other["over_best_peer"], other["predicted"]["regret"], other["prior_off"]) == (1.1, 0.0, None)


def judged(tmp_path: Path, over: list[float], seconds: float = 12.0) -> dict[str, str]:
    """The verdicts on three drawn sizes, at which ours takes so many times what cuBLAS does."""
    records = Records(tmp_path / "results.jsonl", "G")
    rows = []
    for sized, ratio in zip(SIZES, over, strict=False):
        records.add(swept(sized, seconds=seconds))
        records.add(predicted(sized))
        records.add(took(records, sized, {"library": ratio}))
        rows.append(row_of(sized, records))
    return summarize(rows, SIZES)["targets"]


def test_a_target_is_open_until_all_are_timed_and_missed_as_soon_as_it_cannot_be_held(tmp_path: Path) -> None:
    assert set(judged(tmp_path / "a", [0.8, 0.8]).values()) == {"open"}
    told = judged(tmp_path / "b", [0.8, 1.05], seconds=26.0)
    assert (told["at most 1.03 in all"], told["worst seconds of a sweep at most 25.0"]) == ("missed", "missed")
    assert told["geometric mean at most 0.85"] == "open"
    told = judged(tmp_path / "c", [0.8, 0.8, 0.8])
    assert told["geometric mean at most 0.85"] == told["median seconds of a sweep at most 14.0"] == "held"
    assert told["at most 0.01 slower than without the prior"] == "open"
    assert judged(tmp_path / "d", [0.8, 0.95, 0.9])["geometric mean at most 0.85"] == "missed"


# The run.


class Pretended(sizes.Lane):
    """A lane whose steps are made of nothing."""

    def _swept(self, sized: Sized, step: str) -> dict[str, Any]:
        made = predicted(sized) if step == "predict" else swept(sized)
        return {name: value for name, value in made.items() if name not in head(sized, step)}

    def _timed(self, sized: Sized) -> dict[str, Any]:
        return took(self.run.records, sized, {"eager": 0.5})

    def _ended(self, *_: Any) -> tuple[int, float]:
        return 0, 0.0


def made_run(tmp_path: Path, **changes: Any) -> sizes.Run:
    arguments = Namespace(
        work=tmp_path, cache=tmp_path / "cache", output=tmp_path, steps=list(sizes.STEPS), compile_limit=100.0,
        merge=[], gpu_name=None, dry=False, cores=16, limit=None,
    )  # fmt: skip
    arguments.__dict__.update(changes)
    return sizes.Run(arguments, SIZES, SIZES, GPUS, time.monotonic())


def test_gpus_share_the_cells_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "Lane", Pretended)
    stopped = made_run(tmp_path, limit=50.0)  # Two steps are expected to end by then, and the third is not.
    assert stopped.run() == 3
    assert all("no time for" in one for one in stopped.left)
    assert made_run(tmp_path).run() == 0
    steps = Counter(json.loads(line)["step"] for line in (tmp_path / "results.jsonl").read_text().splitlines())
    assert steps == {"sweep": 3, "predict": 3, "prior_off": 3, "time": 3, "piece": 2}
    written = json.loads((tmp_path / "sizes-nvidia-h200.json").read_text())
    assert [row["key"] for row in written["cells"]] == [one.cell.key for one in SIZES]
    assert written["missing"] == []
    capsys.readouterr()
    assert made_run(tmp_path).run() == 0
    assert "have something to do" not in capsys.readouterr().out


def test_cores_are_shared_equally_and_no_gpu_has_more_than_it_may() -> None:
    assert sizes.cores_of_lanes(range(8), 2, 16) == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert sizes.cores_of_lanes(range(64), 2, 16) == [set(range(16)), set(range(16, 32))]
    assert sizes.cores_of_lanes([0, 1], 3, 16) == [{0, 1}] * 3


def test_a_process_is_ended_at_its_own_limit_and_at_the_run_s(tmp_path: Path) -> None:
    sleeps = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    run = made_run(tmp_path)
    code, seconds = sizes.Lane(run, GPUS[0], {0})._ended(sleeps, 0.1, {})
    assert code is None
    assert seconds < 5
    run.deadline = time.monotonic() + 0.1
    with pytest.raises(sizes._CutOffError):
        sizes.Lane(run, GPUS[0], {0})._ended(sleeps, 60.0, {})


def test_cells_are_chosen_by_group_or_by_a_part_of_their_name() -> None:
    everything = all_sizes()
    assert len([one for one in everything if sizes.is_chosen(one, ["named"])]) == 4
    assert [one.cell.key for one in everything if sizes.is_chosen(one, ["1500x7000"])] == [
        "1500x7000x1100 float16 gemm_scale"
    ]
    assert len([one for one in everything if sizes.is_chosen(one, [])]) == 54
