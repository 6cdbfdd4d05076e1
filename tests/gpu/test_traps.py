"""`fusetune tune` on the fifteen traps: no wrong tile is kept, nothing is doubled, what is not checkable is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.timeout(900)  # Candidates that hang are waited for.

ROOT = Path(__file__).parents[2]
TRAPS = ROOT / "tests" / "support" / "traps"
DONE, NOISY = 0, 3
TUNED = {"keep", "revert", "inconclusive"}
AT_LEAST = 0.02
"""The gain that the rule asks for."""


class Tuned(NamedTuple):
    """What one run of the command said: its cases by their kernels, its notes, and what it wrote beside the JSON."""

    cases: dict[str, list[dict[str, Any]]]
    notes: list[str]
    code: int
    stderr: str

    def of(self, kernel: str) -> dict[str, Any]:
        """The one case of a kernel."""
        (case,) = self.cases[kernel]
        return case


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Gives the answer for a trap by its number; each is tuned once."""
    answers: dict[int, Tuned] = {}

    def answer(number: int) -> Tuned:
        if number not in answers:
            answers[number] = tune(number, tmp_path_factory.mktemp(f"trap_{number:02}"))
        return answers[number]

    return answer


def tune(number: int, folder: Path) -> Tuned:
    (path,) = TRAPS.glob(f"trap_{number:02}_*.py")
    command = [sys.executable, "-m", "fusetune", "tune", str(path), "--json", "--share", "1", "--no-program-check"]
    command += ["-o", str(folder / "configs"), "--runs", str(folder / "runs")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=840, env=environment
    )
    assert done.returncode in {DONE, NOISY}, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    cases: dict[str, list[dict[str, Any]]] = {}
    answer = json.loads(done.stdout)
    for kernel in answer["kernels"]:
        cases.setdefault(kernel["kernel"], []).extend(kernel["cases"])
    return Tuned(cases, answer["notes"], done.returncode, done.stderr)


def chosen(case: dict[str, Any], name: str, own: int) -> int:
    """What is chosen for a parameter; a config need not name what stays as it is, `own`."""
    return case["chosen"].get(name, own)


def wrong(case: dict[str, Any]) -> int:
    """How many candidates wrote what Before does not, or left what it writes."""
    return sum(case["failures"].get(reason, 0) for reason in ("wrong_result", "nan"))


def assert_tuned_and_never_wrong(case: dict[str, Any]) -> None:
    """It was checkable, more than Before was tried, and no candidate failed by our own fault."""
    assert case["verdict"] in TUNED, (case["reason"], case["why"])
    assert case["tried"] > 1
    assert not case["failures"].keys() & {"wrong_result", "nan", "hang", "fault", "crash", "error"}, case["failures"]


@pytest.mark.parametrize("number", range(1, 16))
def test_each_case_has_a_verdict_with_its_reason_and_a_kept_one_has_its_gain(tuned, number):
    for case in (case for cases in tuned(number).cases.values() for case in cases):
        assert case["verdict"] in TUNED | {"skipped"}, case["reason"]
        assert case["reason"]
        if case["verdict"] == "skipped":
            assert case["why"]
            assert case["chosen"] == case["before"]
        if case["verdict"] == "keep":
            assert case["gain"]["low"] >= AT_LEAST
            assert case["best_us"] < case["before_us"]


@pytest.mark.parametrize("kernel", ["row_softmax", "row_rms"])
def test_1_a_tile_that_is_the_row_stays(tuned, kernel):
    case = tuned(1).of(kernel)
    assert chosen(case, "BLOCK", 1024) == 1024
    assert_tuned_and_never_wrong(case)


@pytest.mark.parametrize(("kernel", "programs"), [("scale", 256), ("clip", 64)])
def test_2_no_tile_is_kept_whose_programs_cover_a_part(tuned, kernel, programs):
    case = tuned(2).of(kernel)
    assert chosen(case, "BLOCK", 1024) * programs >= 64 * 1024 - 100
    assert case["verdict"] in TUNED


def test_2_where_the_grid_follows_a_number_written_again_any_tile_is_right(tuned):
    assert_tuned_and_never_wrong(tuned(2).of("shift"))


@pytest.mark.parametrize("kernel", ["silu_forward", "silu_backward"])
def test_3_each_launch_is_right_with_its_own_grid(tuned, kernel):
    assert_tuned_and_never_wrong(tuned(3).of(kernel))


@pytest.mark.parametrize("kernel", ["quantise", "dequantise"])
def test_4_a_tile_that_two_kernels_share_stays_in_both(tuned, kernel):
    case = tuned(4).of(kernel)
    assert chosen(case, "BLOCK", 128) == 128
    assert case["verdict"] in TUNED
    assert wrong(case)


def test_5_the_size_of_a_page_and_of_a_chunk_stay(tuned):
    pages, chunks = tuned(5).of("mean_of_pages"), tuned(5).of("sums_in_chunks")
    assert chosen(pages, "PAGE_SIZE", 32) == 32
    assert_tuned_and_never_wrong(pages)
    assert chosen(chunks, "BLOCK_T", 64) == 64
    assert wrong(chunks)


def test_6_a_write_behind_a_buffer_is_seen_and_its_tile_is_not_kept(tuned):
    shown, hidden = tuned(6).of("partial_sums"), tuned(6).of("extremes")
    assert chosen(shown, "BLOCK", 512) == chosen(hidden, "BLOCK", 512) == 512
    assert_tuned_and_never_wrong(shown)
    assert hidden["verdict"] in TUNED
    assert wrong(hidden)


def test_7_the_author_s_own_wrong_config_is_a_wrong_result(tuned):
    case = tuned(7).of("matmul_int8")
    assert case["before"]["BLOCK_D"] <= 64
    assert chosen(case, "BLOCK_D", 32) <= 64
    assert case["verdict"] in TUNED
    assert wrong(case)


@pytest.mark.parametrize("kernel", ["accumulate", "cross_entropy", "look_up"])
def test_8_inputs_are_back_before_every_launch(tuned, kernel):
    case = tuned(8).of(kernel)
    assert_tuned_and_never_wrong(case)
    if kernel == "cross_entropy":
        assert chosen(case, "BLOCK", 4096) == 4096


@pytest.mark.parametrize("kernel", ["sums_by_warp", "dither"])
def test_9_warps_that_change_a_result_are_not_kept(tuned, kernel):
    case = tuned(9).of(kernel)
    assert chosen(case, "num_warps", 4) == 4
    assert case["verdict"] in TUNED
    assert wrong(case), case["failures"]


@pytest.mark.parametrize("kernel", ["triple", "halve"])
def test_10_before_is_what_runs(tuned, kernel):
    case = tuned(10).of(kernel)
    assert (case["before"]["num_warps"], case["before"]["num_stages"]) == (4, 3)
    assert_tuned_and_never_wrong(case)


def test_10_what_the_author_meant_is_a_finding(tuned):
    assert any("num_warps" in finding for finding in tuned(10).of("triple")["findings"])


def test_11_a_constant_that_heuristics_make_of_the_tile_goes_with_it(tuned):
    case = tuned(11).of("negate")
    block = chosen(case, "BLOCK", 1024)
    assert 5 * 1024 % block == 0 or case["chosen"].get("EVEN") is False
    assert case["verdict"] in TUNED


def test_11_a_config_s_hook_has_run_before_each_launch(tuned):
    assert_tuned_and_never_wrong(tuned(11).of("count_classes"))


def test_11_launches_past_the_jit_are_told(tuned):
    case = tuned(11).of("square")
    assert case["verdict"] in TUNED | {"skipped"}
    assert "2 launches of square past Triton's JIT: not captured" in tuned(11).notes


def test_12_a_random_stream_keeps_its_tile(tuned):
    case = tuned(12).of("drop")
    assert chosen(case, "BLOCK", 512) == 512
    assert case["verdict"] in TUNED
    assert wrong(case)


@pytest.mark.parametrize("kernel", ["sum_by_class", "count_by_class"])
def test_12_atomics_that_differ_by_rounding_or_not_at_all_are_tuned(tuned, kernel):
    assert_tuned_and_never_wrong(tuned(12).of(kernel))


def test_12_what_differs_altogether_is_not_checkable(tuned):
    case = tuned(12).of("compact")
    assert case["verdict"] == "skipped"
    assert "not checkable" in case["why"]
    assert case["chosen"] == case["before"]


def test_13_what_before_leaves_alone_is_no_mistake(tuned):
    assert_tuned_and_never_wrong(tuned(13).of("keep_positive"))


def test_13_no_tile_writes_elsewhere_than_before(tuned):
    case = tuned(13).of("relu_whole_blocks")
    assert chosen(case, "BLOCK", 128) in {64, 128}  # Both fill 1152 elements.
    assert case["verdict"] in TUNED
    assert wrong(case)


def test_14_arguments_of_every_kind_are_given_as_they_were(tuned):
    cases = tuned(14).cases["combine"]
    assert len(cases) == 2
    for case in cases:
        assert_tuned_and_never_wrong(case)


def test_14_what_is_written_through_a_table_of_pointers_is_not_tuned(tuned):
    case = tuned(14).of("add_to_all")
    assert case["verdict"] == "skipped"
    assert "pointer" in case["why"]


def test_15_programs_that_wait_for_each_other_hang_with_more_warps_and_the_tuner_does_not(tuned):
    case = tuned(15).of("normalise")
    assert chosen(case, "num_warps", 4) <= 8
    assert case["verdict"] in TUNED
    assert case["failures"].get("hang", 0) >= 1


def test_15_a_lock_is_open_again_before_each_launch(tuned):
    assert_tuned_and_never_wrong(tuned(15).of("column_sums"))
