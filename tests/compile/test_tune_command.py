"""`fusetune tune` without a GPU, as a user runs it: programs of our own, and a capture as an op."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.capture.spec import CapturedSpec
from fusetune.compiler.build import compile_config
from fusetune.core.config import NamedConfig
from fusetune.core.target import find_target
from fusetune.errors import UnsupportedProblemError
from fusetune.store.yaml_files import read_config_file
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "support" / "programs"
ADA = find_target("rtx4090")
ADD = (PROGRAMS / "autotuned_add.py").read_text(encoding="utf-8")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=240, env=environment
    )


def test_an_answer_is_a_prediction_of_at_most_three_with_what_ran_before(tmp_path: Path) -> None:
    done = run(tmp_path, "tune", str(PROGRAMS / "autotuned_add.py"), "--json", "-o", "out", "--", "5000")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (kernel,) = found["kernels"]
    (case,) = kernel["cases"]
    assert (kernel["kernel"], case["verdict"], case["evidence"]) == ("add", "unverified", "predicted")
    assert 1 <= len(case["best"]) <= 3
    assert case["launches"] == 3
    assert case["gain"] is None
    (file,) = (tmp_path / "out").glob("*/*.yaml")
    kept = read_config_file(file)
    assert kept.kernel == "autotuned_add:add"
    assert kept.entries[0].evidence == "predicted"
    assert kept.entries[0].predicted_us is not None
    # 3 x 5000 floats at 1,008 GB/s: by the roofline, and not nothing.
    assert kept.entries[0].predicted_us.config == pytest.approx(0.06, rel=0.1)


def test_a_program_that_fails_by_itself_ends_with_6_and_a_mistake_with_2(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise ValueError('mine')\n", encoding="utf-8")
    failed = run(tmp_path, "tune", "fails.py")
    assert failed.returncode == 6
    assert "ValueError: mine" in failed.stderr
    assert run(tmp_path, "tune", "nowhere.py").returncode == 2


@cache
def captured(folder: Path) -> Path:
    done = run(folder, "capture", "--keep", "--json", str(PROGRAMS / "autotuned_add.py"), "5000")
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["cases"][0]["kept"])


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> CapturedSpec:
    return CapturedSpec(captured(tmp_path_factory.mktemp("kept")))


def test_a_capture_is_an_op_with_before_baseline_and_the_program_s_own_list(spec: CapturedSpec) -> None:
    problem = spec.captured_problem()
    before = spec.before(problem)
    baseline = spec.baseline(problem)
    assert before is not None
    assert (baseline.num_warps, baseline.num_stages) == (4, 2)
    assert baseline["BLOCK"] == before["BLOCK"]
    candidates = spec.candidates(problem, ADA, "standard")
    assert {baseline, before} <= set(candidates)
    listed = {(256, 2), (1024, 8)}
    assert listed <= {(one["BLOCK"], one.num_warps) for one in candidates}
    assert len(set(candidates)) == len(candidates)
    assert len(spec.candidates(problem, ADA, "full")) > len(candidates)


def test_what_won_for_another_case_is_tried_where_it_can_be_launched(spec: CapturedSpec) -> None:
    problem, other = spec.captured_problem(), CapturedSpec(spec.folder)
    before: Any = spec.before(problem)
    other.also = (NamedConfig(BLOCK=32, num_warps=16, num_stages=2), NamedConfig(ELSE=3, num_warps=16, num_stages=2))
    more = set(other.candidates(problem, ADA, "standard")) - set(spec.candidates(problem, ADA, "standard"))
    assert {(one["BLOCK"], one.num_warps) for one in more} == {(32, 16)}, before


def test_neighbours_are_a_step_away_and_never_the_config_itself(spec: CapturedSpec) -> None:
    problem = spec.captured_problem()
    config: Any = spec.before(problem)
    around = spec.neighbours(problem, config, ADA)
    assert config not in around
    assert {one["BLOCK"] for one in around} == {config["BLOCK"] // 2, config["BLOCK"], config["BLOCK"] * 2}


def test_its_launch_follows_the_tile_and_compiles_in_another_process(spec: CapturedSpec) -> None:
    again = pickle.loads(pickle.dumps(spec))
    problem = again.captured_problem()
    assert problem == spec.captured_problem()
    for block in (256, 2048):
        config = NamedConfig(**{**dict(again.baseline(problem)), "BLOCK": block})
        assert compile_config(again, problem, config, ADA).registers > 0
        (launch,) = again.launches(problem, config, dict.fromkeys(("x_ptr", "y_ptr", "z_ptr")))
        assert launch.grid == (-(-5000 // block),)
        assert launch.constants["BLOCK"] == block


def test_another_problem_is_none_of_it_and_a_huge_tile_is_not_compiled(spec: CapturedSpec) -> None:
    problem = spec.captured_problem()
    with pytest.raises(UnsupportedProblemError, match="this capture"):
        spec.problem({**dict(problem), "n": 7})
    assert spec.before(problem) is not None
    rejection = spec.reject(huge_of(spec), problem, ADA)
    assert rejection is not None
    assert rejection.reason == "registers"


def test_a_huge_tile_is_not_compiled_where_baseline_is_what_runs(spec: CapturedSpec) -> None:
    spec = pickle.loads(pickle.dumps(spec))  # the fixture is not for this test alone
    spec.kept = msgspec.structs.replace(
        spec.kept, case=msgspec.structs.replace(spec.kept.case, before={"num_warps": 4, "num_stages": 2})
    )
    problem = spec.captured_problem()
    assert spec.before(problem) is None
    assert spec.reject(huge_of(spec), problem, ADA) is not None


def huge_of(spec: CapturedSpec) -> NamedConfig:
    return NamedConfig(**{**dict(spec.baseline(spec.captured_problem())), "BLOCK": 65536, "num_warps": 1})
