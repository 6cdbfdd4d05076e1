"""A program on a GPU runs again with other configs: times, results, what is taken back, and the command's own line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusetune.capture.again import Ran, run_again
from fusetune.capture.cases import Case
from fusetune.capture.changes import Change
from fusetune.capture.look import look
from fusetune.capture.programs import Program, parse_program
from fusetune.core.config import NamedConfig
from fusetune.core.progress import SilentProgress
from fusetune.tune.again import ask_program
from tests.support.kept_verdicts import kept

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
SLOW = """import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def twice(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


class Model(nn.Module):
    def forward(self, x):
        return 2 * x


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        n = x.numel()
        twice[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=32, num_warps=8)
        return y


def get_inputs():
    return [torch.randn(4096, 4096)]


def get_init_inputs():
    return []
"""
"""Tiles far too small: any other is several times as fast."""


def program(name: str, *arguments: str) -> Program:
    (path,) = SUPPORT.glob(f"*/{name}*.py")
    return parse_program([str(path), *arguments])


def cases_of(asked: Program) -> dict[str, Case]:
    looked = look(asked, limit_s=240)
    assert looked.failed is None
    return {case.kernel.name: case for case in looked.cases}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Program:
    path = tmp_path_factory.mktemp("slow") / "slow.py"
    path.write_text(SLOW, encoding="utf-8")
    return parse_program([str(path)])


def both(asked: Program, change: Change, folder: Path) -> tuple[Ran, Ran]:
    before = run_again(asked, [change], apply=False, save=folder / "result.pt", limit_s=240)
    after = run_again(asked, [change], apply=True, against=folder / "result.pt", limit_s=240)
    assert (before.failed, after.failed) == (None, None)
    return before, after


def test_a_model_is_faster_with_a_larger_tile_and_gives_the_same(slow: Program, tmp_path: Path) -> None:
    change = Change(cases_of(slow)["twice"], {"BLOCK": 1024}, {"num_warps": 4, "num_stages": 2})
    before, after = both(slow, change, tmp_path)
    assert (before.launches, before.launched[0].applied) == (1, 0)
    assert (after.launches, after.launched[0].applied, after.launched[0].grid) == (1, 1, (4096 * 4,))
    assert after.difference is not None
    assert (after.difference.error, after.difference.wrong) == (0.0, None)
    assert after.reference is not None
    assert after.reference.error == 0.0
    for ran in (before, after):
        assert ran.forward_ms is not None
        assert ran.launched[0].us is not None
        # One kernel is all of it: by itself, and as a call.
        assert ran.forward_ms == pytest.approx(ran.launched[0].us / 1e3, rel=0.3)
    assert after.launched[0].us < 0.7 * before.launched[0].us  # type: ignore[operator]


def test_a_tuner_s_launches_in_a_script_take_the_config() -> None:
    asked = program("autotuned_add", "5000000")
    change = Change(cases_of(asked)["add"], {"BLOCK": 512}, {"num_warps": 4, "num_stages": 2})
    before, after = (run_again(asked, [change], apply=apply, limit_s=240) for apply in (False, True))
    assert (before.failed, after.failed) == (None, None)
    assert [one.launched[0].applied for one in (before, after)] == [0, 3]
    assert after.launched[0].grid == (-(-5000000 // 512),)
    for ran in (before, after):
        assert ran.launches == 3
        assert ran.kernels_ms == pytest.approx(3 * ran.launched[0].us / 1e3, rel=0.01)  # type: ignore[operator]


def test_the_program_s_own_assertion_takes_a_wrong_tile_back(tmp_path: Path) -> None:
    asked = program("trap_01")
    case = cases_of(asked)["row_softmax"]
    before, wrong = NamedConfig(BLOCK=1024, num_warps=8, num_stages=3), NamedConfig(BLOCK=512, num_warps=4)
    left, word = ask_program(asked, [kept(case, before, wrong, tmp_path)], SilentProgress(), limit_s=240)
    assert left[0].end == "revert"
    assert word is not None
    assert word.reverted[0].why == "wrong"
    assert "AssertionError" in word.reverted[0].detail


def test_a_slower_config_that_was_kept_is_taken_back(slow: Program, tmp_path: Path) -> None:
    case = cases_of(slow)["twice"]
    before, slower = (NamedConfig(BLOCK=block, num_warps=8, num_stages=3) for block in (32, 16))
    left, word = ask_program(slow, [kept(case, before, slower, tmp_path)], SilentProgress(), limit_s=240)
    assert left[0].end == "revert"
    assert word is not None
    assert [one.why for one in word.reverted] == ["slower"]


def tune(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "fusetune", "tune", *words, "--json", "-o", str(folder / "configs")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert done.returncode in {0, 3}, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_command_asks_the_program_and_tells_its_result_and_time(slow: Program, tmp_path: Path) -> None:
    found, _ = tune(tmp_path, slow.what)
    (case,) = found["kernels"][0]["cases"]
    assert case["verdict"] == "keep"
    said = found["program_check"]
    assert (said["changes"], said["applied"], said["launches"], said["right"]) == (1, 1, 1, True)
    assert said["reverted"] == []
    assert said["difference"]["error"] == 0.0
    assert said["ratio"] < 0.7


def test_without_the_check_nothing_is_run_again(slow: Program, tmp_path: Path) -> None:
    found, _ = tune(tmp_path, slow.what, "--no-program-check")
    assert "--no-program-check" in found["program_check"]["why_not"]
