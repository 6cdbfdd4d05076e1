"""The fifteen traps as `fusetune capture` sees them without a GPU: which constants vary, which stay, and why."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.capture.child import understand
from fusetune.capture.programs import parse_program, run_program
from fusetune.capture.stand_in import stand_in
from fusetune.capture.watch import Watch
from fusetune.core.target import find_target

TRAPS = Path(__file__).parents[1] / "support" / "traps"
OPTIONS = {"num_warps", "num_stages", "num_ctas", "maxnreg"}


@cache
def looked(number: int) -> dict[str, list[dict[str, Any]]]:
    """The cases of a trap by their kernels, as `fusetune capture --json` tells them; all in this one process."""
    (path,) = TRAPS.glob(f"trap_{number:02}_*.py")
    target, watch = find_target("rtx4090"), Watch(understand)
    with stand_in(target):
        watch.install()
        try:
            run_program(parse_program([str(path)]))
        finally:
            watch.remove()
    found: dict[str, list[dict[str, Any]]] = {}
    for case in watch.looked(compiled_for=target.name).cases:
        found.setdefault(case.kernel.name, []).append(json.loads(msgspec.json.encode(case)))
    return found


def case_of(number: int, kernel: str) -> dict[str, Any]:
    (case,) = looked(number)[kernel]
    return case


def varying(case: dict[str, Any]) -> set[str]:
    return {knob["name"] for knob in case["knobs"] if knob["varies"]} - OPTIONS


def reason(case: dict[str, Any], name: str) -> str:
    return next(knob["reason"] for knob in case["knobs"] if knob["name"] == name)


def values(case: dict[str, Any], name: str) -> list[int]:
    return next(knob["values"] for knob in case["knobs"] if knob["name"] == name)


@pytest.mark.parametrize(
    ("number", "kernel", "varies"),
    [
        (1, "row_softmax", set()),
        (1, "row_rms", set()),
        (2, "shift", {"BLOCK"}),
        (2, "scale", set()),
        (2, "clip", set()),
        (4, "quantise", {"BLOCK"}),
        (4, "dequantise", {"BLOCK"}),
        (5, "mean_of_pages", set()),
        (5, "sums_in_chunks", {"BLOCK_T"}),
        (6, "partial_sums", set()),
        (6, "extremes", {"BLOCK"}),
        (7, "matmul_int8", {"BLOCK_H", "BLOCK_W", "BLOCK_D"}),
        (8, "accumulate", {"BLOCK"}),
        (8, "cross_entropy", set()),
        (8, "look_up", {"BLOCK"}),
        (9, "sums_by_warp", set()),
        (9, "dither", {"BLOCK"}),
        (10, "triple", {"BLOCK"}),
        (10, "halve", {"BLOCK"}),
        (11, "negate", {"BLOCK"}),
        (11, "count_classes", {"BLOCK"}),
        (12, "drop", {"BLOCK"}),
        (12, "sum_by_class", {"BLOCK"}),
        (12, "count_by_class", {"BLOCK"}),
        (12, "compact", {"BLOCK"}),
        (13, "keep_positive", {"BLOCK"}),
        (13, "relu_whole_blocks", {"BLOCK"}),
        (14, "add_to_all", {"BLOCK"}),
        (15, "normalise", {"BLOCK"}),
        (15, "column_sums", {"BLOCK_ROWS"}),
    ],
)
def test_the_constants_that_vary_are_those_that_the_launch_follows(number, kernel, varies):
    # What varies here and is wrong all the same, as in 4, 5 and 12, is for the check on a GPU to find.
    assert varying(case_of(number, kernel)) == varies


@pytest.mark.parametrize(
    ("number", "kernel", "constant", "word"),
    [
        (1, "row_softmax", "BLOCK", "next power of two"),
        (1, "row_rms", "BLOCK", "size"),
        (2, "shift", "BLOCK", "writes the number again"),
        (2, "scale", "BLOCK", "no constant of the kernel"),
        (2, "clip", "BLOCK", "no constant of the kernel"),
        (5, "mean_of_pages", "PAGE_SIZE", "lies in memory"),
        (6, "partial_sums", "BLOCK", "buffer"),
        (7, "matmul_int8", "BLOCK_D", "own list"),
        (8, "cross_entropy", "BLOCK", "next power of two"),
        (11, "negate", "BLOCK", "own list"),
        (11, "negate", "EVEN", "a heuristic of the program computes it"),
        (15, "normalise", "BLOCK", "a loop of the kernel steps by it"),
    ],
)
def test_each_says_why(number, kernel, constant, word):
    assert word in reason(case_of(number, kernel), constant)


@pytest.mark.parametrize("number", range(1, 16))
def test_warps_may_vary_anywhere_and_each_constant_has_a_reason(number):
    for case in (case for cases in looked(number).values() for case in cases):
        knobs = {knob["name"]: knob for knob in case["knobs"]}
        assert knobs["num_warps"]["varies"]
        assert all(knob["reason"] for knob in case["knobs"])
        assert {name: knobs[name]["value"] for name in case["constants"]} == case["constants"]
        assert not case.get("findings") or number in {2, 10, 11}


def test_a_grid_that_forward_keeps_is_found_by_its_numbers_in_forward_and_in_backward():
    for kernel in ("silu_forward", "silu_backward"):
        case = case_of(3, kernel)
        assert (case["grid_kind"], varying(case)) == ("cdiv", {"BLOCK"})
        assert "cdiv" in reason(case, "BLOCK")


def test_a_grid_of_idle_programs_and_a_config_that_is_not_passed_on_are_findings():
    told = "of the 256 programs that it launches 192 do nothing: 256 on axis 0, where cdiv(n, BLOCK) is 64"
    assert case_of(2, "scale")["findings"] == [told]
    assert not case_of(2, "clip").get("findings")
    (left,) = case_of(10, "halve")["findings"]
    assert left.startswith("BEST asks for num_warps=8, num_stages=5, and only its kwargs are passed on: num_warps=4,")


def test_the_author_s_wrong_config_is_among_the_proposals():
    assert 128 in values(case_of(7, "matmul_int8"), "BLOCK_D")
    assert case_of(7, "matmul_int8")["proposals"] == 3


def test_what_a_kernel_changes_in_place_is_told():
    roles = {name: case["roles"] for name, (case,) in looked(8).items()}
    assert roles["accumulate"]["total_ptr"] == "both"
    assert roles["cross_entropy"]["logits_ptr"] == "both"
    assert (roles["look_up"]["index_ptr"], roles["look_up"]["table_ptr"]) == ("both", "read")


def test_before_is_what_runs_and_not_what_is_written():
    for kernel in ("triple", "halve"):
        before = case_of(10, kernel)["before"]
        assert (before["num_warps"], before["num_stages"]) == (4, 3)
    (finding,) = case_of(10, "triple")["findings"]
    assert "num_warps" in finding


def test_of_a_launcher_that_keeps_its_kernel_the_first_launch_is_seen():
    case = case_of(11, "square")
    assert (case.get("launches", 1), varying(case)) == (1, {"BLOCK"})


def test_a_tuner_s_own_run_is_no_reason_to_lose_the_launch_or_its_heuristics():
    case = case_of(11, "negate")
    assert case["constants"] == {"BLOCK": 1024, "EVEN": True}
    assert (case["proposals"], values(case, "BLOCK")) == (2, [256, 512, 1024, 2048, 4096])
    assert "own list" in reason(case, "BLOCK")


def test_atomics_are_told_from_writes():
    assert case_of(12, "sum_by_class")["roles"]["sums_ptr"] == "atomic"
    assert case_of(12, "compact")["roles"] == {"x_ptr": "read", "out_ptr": "written", "counter_ptr": "atomic"}
    assert case_of(15, "normalise")["roles"]["arrived_ptr"] == "atomic"
    assert case_of(15, "column_sums")["roles"]["lock_ptr"] == "atomic"


def test_a_view_and_the_buffer_behind_it_are_told():
    written = case_of(13, "relu_whole_blocks")["tensors"]["y_ptr"]
    assert (written["shape"], written["storage_bytes"]) == ([1100], 1152 * 4)


def test_a_tuple_is_whole_as_a_constant_and_in_parts_at_run_time():
    for case in looked(14)["combine"]:
        assert case["constants"]["SHIFTS"] == [1, 2]
        assert {"weights.0", "weights.1"} <= case["values"].keys()
        assert "it is a tuple" in reason(case, "SHIFTS")


def test_arguments_of_every_kind_are_told_and_only_the_tile_varies():
    plain, with_bias = sorted(looked(14)["combine"], key=lambda case: case["constants"]["HAS_BIAS"])
    assert plain["values"] == {"bias_ptr": None, "n": 5000, "step": 1, "factor": 1, "weights.0": 2.0, "weights.1": 1}
    assert {tensor["storage"] for tensor in plain["tensors"].values()} == {0}
    assert [plain["tensors"][name]["offset"] for name in ("x_ptr", "y_ptr", "out_ptr")] == [0, 5000, 10_000]
    assert len({with_bias["tensors"][name]["storage"] for name in ("x_ptr", "y_ptr", "out_ptr")}) == 1
    for case in (plain, with_bias):
        assert varying(case) == {"BLOCK"}
        for name, word in (("OP", "function"), ("TYPE", "dtype"), ("KIND", "string"), ("HAS_BIAS", "bool")):
            assert word in reason(case, name)


def test_a_table_of_pointers_is_told_with_what_is_done_behind_it():
    case = case_of(14, "add_to_all")
    assert case["roles"] == {"table_ptr": "read", "x_ptr": "read"}
    assert (case["tables"], case.get("unsure", [])) == ({"table_ptr": "both"}, [])
    assert not any("tables" in one for one in looked(14)["combine"])


def test_the_grid_of_persistent_programs_is_the_gpu_s_and_stays():
    case = case_of(15, "normalise")
    assert (case["grid"], case["grid_kind"]) == ([8 * 128], "fixed")
