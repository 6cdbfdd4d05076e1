"""What `fusetune tune` says of a prediction without a GPU, with and without a profile, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "support" / "programs"
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
GRID = "launch__grid_size"
STALL = "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", "tune", "--target", "rtx4090", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=240, env=environment
    )


def only_case(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (kernel,) = json.loads(done.stdout)["kernels"]
    (case,) = kernel["cases"]
    found: dict[str, Any] = case
    return found


def test_products_make_a_kernel_compute_bound_and_three_configs_are_told_with_their_reasons(tmp_path: Path) -> None:
    done = run(tmp_path, str(PROGRAMS / "matmul.py"))
    assert done.returncode == 0, done.stderr
    # 2 x 1024 x 1024 x 2048 operations for 20 MiB; 82.6 TFLOP/s and 1,008 GB/s.
    assert "compute-bound: 205 FLOP a byte, where the GPU's two walls meet at 81.9" in done.stdout
    assert "20.8 us at least by bytes over bandwidth, 52.0 us by operations over the peak rate" in done.stdout
    for words in ("register pressure low (under 96", "evidence: predicted", "CTAs/SM", "2 loads at each step"):
        assert words in done.stdout
    tried = done.stdout.partition("to try on a GPU")[2].partition("time:")[0].strip().splitlines()[1:]
    assert len(tried) == 3
    assert sum("(BASELINE)" in line for line in tried) == 1
    assert any("w8 s2: 8 warps, since register pressure is low, and it is compute-bound" in line for line in tried)


def test_a_profile_has_the_last_word_on_what_limits_a_kernel(tmp_path: Path) -> None:
    metrics = {"matmul": {SM: 20.0, DRAM: 91.0, GRID: 256, STALL: 7.25}, "another": {SM: 1.0}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    case = only_case(run(tmp_path, "--ncu", "metrics.json", "--json", str(PROGRAMS / "matmul.py")))
    assert case["profile"]["limit"] == "dram"
    assert case["profile"]["notes"] == []
    for figure in ("91 % busy", "SM throughput 20 %", "stall long_scoreboard, 7.2 warps an issue"):
        assert figure in case["profile"]["sentence"]
    told = case["prediction"]
    assert (told["evidence"], told["bound"]["compute"], told["profile_file"]) == ("predicted", False, "metrics.json")
    assert told["left_out"] == ["8 warps are left out: it is memory-bound."]
    assert [rule["name"] for rule in told["fired"]] == ["register pressure low"]
    before, baseline = told["configs"]
    assert (before["names"], baseline["names"]) == (["Before"], ["BASELINE"])
    assert {"registers", "stack_bytes", "shared_bytes"} == before["resources"].keys()
    assert before["occupancy"]["limiter"] == "shared memory"
    assert [one["config"] for one in case["best"]] == [before["config"], baseline["config"]]


def test_metrics_of_ncu_s_csv_go_to_the_case_of_their_grid_and_other_cases_say_so(tmp_path: Path) -> None:
    table = (
        f'"ID","Kernel Name","{SM}","{DRAM}","{GRID}"\n"","","%","%",""\n'
        '"0","sums(float*)","12.5","85.5","196"\n"1","at::native::fill(int)","1","2","1"\n'
    )
    (tmp_path / "raw.csv").write_text(table, encoding="utf-8")
    done = run(tmp_path, "--ncu", "raw.csv", str(PROGRAMS / "partial_sums.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("by the profile raw.csv: Device memory limits sums: it is 86 % busy.") == 1
    assert "raw.csv has nothing of sums" in done.stderr
    assert "by bytes over bandwidth, the same for each config; nothing was timed" in done.stdout
    assert "Stages make no difference" in done.stdout


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            json.dumps({"softmax": {SM: 1.0, DRAM: 2.0}}),
            "is of softmax, and the program launches relu: give the profile",
        ),
        (json.dumps({"relu": {GRID: 63}}), f"has no {SM} and no {DRAM} of relu, without which"),
        ("of someone else\n", "write it with `ncu --csv --page raw`"),
    ],
)
def test_a_file_that_says_nothing_of_the_program_is_named_with_what_to_do(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    done = run(tmp_path, "--ncu", "metrics.json", str(PROGRAMS / "model.py"))
    assert done.returncode == 2
    assert why in done.stderr
    assert "metrics.json" in done.stderr
    assert not (tmp_path / "configs").exists()
