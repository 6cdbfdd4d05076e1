"""`fusetune capture` on programs of our own, without a GPU: what they launch, and what of it may vary."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.warm import warm_python

PROGRAMS = Path(__file__).parents[1] / "support" / "programs"
ROOT = Path(__file__).parents[2]


def capture(*words: str) -> subprocess.CompletedProcess[str]:
    command = [warm_python(), "-m", "fusetune", "capture", "--target", "rtx4090", *words]
    environment = {**os.environ, "COLUMNS": "140"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240, env=environment)


@cache
def looked(*words: str) -> tuple[dict[str, Any], int]:
    """The answer as JSON, and the exit code."""
    done = capture("--json", *words)
    assert "Traceback" not in done.stderr or done.returncode == 6, done.stderr
    return json.loads(done.stdout), done.returncode


def cases(name: str, *words: str) -> list[dict[str, Any]]:
    found, code = looked(str(PROGRAMS / f"{name}.py"), *words)
    assert code == 0
    return found["cases"]


def varying(case: dict[str, Any]) -> set[str]:
    return {knob["name"] for knob in case["knobs"] if knob["varies"]} - {"num_warps", "num_stages"}


def reason(case: dict[str, Any], name: str) -> str:
    return next(knob["reason"] for knob in case["knobs"] if knob["name"] == name)


def test_an_autotuner_s_trials_are_not_the_program_s_launches_and_its_list_is_proposals():
    (case,) = cases("autotuned_add", "5000")
    assert (case["kernel"]["name"], case["launches"], case["proposals"]) == ("add", 3, 2)
    assert case["grid"] == [-(-5000 // case["constants"]["BLOCK"])]
    assert varying(case) == {"BLOCK"}


def test_a_tuner_of_the_program_s_own_proposes_its_list_and_its_own_trials_are_not_counted():
    found, code = looked(str(PROGRAMS / "own_tuner.py"))
    assert code == 0
    by_name = {name: [one for one in found["cases"] if one["kernel"]["name"] == name] for name in ("double", "triple")}
    for some in by_name.values():
        (case,) = some
        assert (case["launches"], case["proposals"], varying(case)) == (2, 4, {"BLOCK"})
    halves = [case for case in found["cases"] if case["kernel"]["name"] == "fill"]
    assert sorted((case["constants"]["HALF"], case["launches"]) for case in halves) == [(0, 2), (1, 2)]
    assert found["trials"] == 12


def test_what_the_program_prints_goes_to_stderr_and_its_arguments_reach_it():
    done = capture("--json", str(PROGRAMS / "autotuned_add.py"), "300")
    assert "added 300" in done.stderr
    assert json.loads(done.stdout)["compiled_for"] == "NVIDIA GeForce RTX 4090"


def test_a_tile_that_is_the_row_is_not_varied():
    (case,) = cases("softmax")
    assert case["before"]["num_warps"] == 8
    assert varying(case) == set()
    assert "1000" in reason(case, "BLOCK")


def test_a_tile_that_sizes_a_buffer_of_the_program_is_not_varied():
    first, second = sorted(cases("partial_sums"), key=lambda case: -case["grid"][0])
    assert first["grid"] == [-(-100_000 // 512)]
    assert varying(first) == varying(second) == set()


def test_warps_among_a_config_s_constants_are_a_finding_and_what_runs_is_what_was_compiled():
    (case,) = cases("hidden_warps")
    assert case["before"]["num_warps"] == 4
    assert any("holds num_warps among its constants" in finding for finding in case["findings"])


def test_arguments_of_every_kind_are_told_by_name():
    plain, with_bias = sorted(cases("odd_arguments"), key=lambda case: len(case["tensors"]))
    assert plain["values"] == {"bias_ptr": None, "n": 512, "factor": 1}
    assert plain["constants"]["HAS_BIAS"] is False
    assert plain["constants"]["KIND"] == "plain"
    assert "32" in plain["constants"]["TYPE"]
    assert plain["tensors"]["x_ptr"]["storage"] == plain["tensors"]["y_ptr"]["storage"]
    assert plain["tensors"]["x_ptr"]["offset"] == 512
    assert {tensor["storage"] for tensor in with_bias["tensors"].values()} == {0}


def test_kernels_of_forward_and_backward_are_both_seen_with_what_they_do_to_their_tensors():
    forward, backward = sorted(cases("differentiated"), key=lambda case: case["kernel"]["name"])
    assert (forward["kernel"]["name"], backward["kernel"]["name"]) == ("square", "square_backward")
    assert forward["roles"] == {"x_ptr": "read", "y_ptr": "written"}
    assert backward["roles"] == {"x_ptr": "read", "g_ptr": "both"}


def test_a_loop_over_views_of_one_storage_is_one_case_for_each_alignment():
    doubled = [case for case in cases("in_a_loop") if case["kernel"]["name"] == "double"]
    found = {(case["values"]["n"], case["tensors"]["x_ptr"]["aligned"]): case.get("launches", 1) for case in doubled}
    assert found == {(1000, True): 40, (1001, True): 3, (1001, False): 7}
    (finding,) = doubled[0]["findings"]
    assert finding.startswith("launched with `x_ptr` at 40 places of its storage")


def test_numbers_that_count_steps_are_one_case_and_few_sizes_are_cases_of_their_own():
    found = cases("in_a_loop")
    stepped = [case for case in found if case["kernel"]["name"] == "decay"]
    assert sorted(case.get("launches", 1) for case in stepped) == [1, 1, 1, 1, 1, 1, 1, 93]
    (many,) = [case for case in stepped if case.get("launches", 1) == 93]
    assert many["values"] == {"step": 2, "rate": 0.5, "n": 1000}
    assert many["findings"] == [
        "launched with 93 values of `step`, 93 values of `rate`; kept with the first",
    ]
    assert [case["values"]["count"] for case in found if case["kernel"]["name"] == "fill"] == [256, 512, 1024]


def test_a_model_is_run_with_its_own_inputs():
    (case,) = cases("model")
    assert (case["kernel"]["name"], case["tensors"]["x_ptr"]["shape"]) == ("relu", [64, 1000])
    assert varying(case) == {"BLOCK"}


def test_a_function_is_called_with_what_was_given():
    found, code = looked(
        "--args", "torch.ones(3000, device='cuda'), BLOCK=128", "tests.support.programs.partial_sums:total"
    )
    assert code == 0
    assert max(case["grid"][0] for case in found["cases"]) == -(-3000 // 128)


def test_a_module_is_run_as_python_does():
    found, code = looked("-m", "tests.support.programs.differentiated")
    assert (code, len(found["cases"])) == (0, 2)


def test_a_program_that_fails_shows_its_own_traceback_and_the_launches_so_far():
    done = capture(str(PROGRAMS / "fails.py"))
    assert done.returncode == 6
    assert "ValueError: the program's own mistake" in done.stderr
    assert "fusetune/capture" not in done.stderr
    assert "sums" in done.stdout


def test_the_table_and_the_explanation_are_for_people():
    done = capture(str(PROGRAMS / "softmax.py"))
    assert done.returncode == 0, done.stderr
    assert "softmax.py:8" in done.stdout
    assert "no GPU was used" in done.stdout
    explained = capture("--explain", str(PROGRAMS / "softmax.py")).stdout
    assert "x_ptr: float32 [64, 1000], read" in explained
    assert "BLOCK = 1024 stays: " in explained


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere.py",), "nowhere.py"),
        ((), "no program is given"),
        (("tests.support.programs.partial_sums:nothing",), "nothing"),
    ],
)
def test_a_program_that_is_none_is_one_line(words, told):
    done = capture(*words)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
    assert "fusetune/" not in done.stderr
