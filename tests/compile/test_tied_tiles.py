"""Tiles that go together, from a capture to the program's own source, once the capture is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.capture.cases import Case, Looked
from fusetune.capture.spec import CapturedSpec
from fusetune.cli.tuned_code import plan_of
from fusetune.core.config import NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment
from fusetune.store.schema import Entry, Times
from fusetune.tune.program import Tuned, tune_case
from fusetune.tune.request import Ranked, SweepRequest, SweepResult
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
PROGRAM = """import torch
import triton
import triton.language as tl


@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK_W"] == 0})
@triton.jit
def outer(
    x_ptr, y_ptr, m, n, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, _NUM: tl.constexpr, EVEN: tl.constexpr
):
    rows = (tl.program_id(0) % _NUM) * BLOCK_H + tl.arange(0, BLOCK_H)
    columns = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    at = rows[:, None] * n + columns[None, :]
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=mask) * 2, mask=mask)


def launch(x):
    m, n = x.shape
    y = torch.empty_like(x)
    BLOCK = 32
    count = triton.cdiv(m, BLOCK)
    outer[(count, triton.cdiv(n, BLOCK))](x, y, m, n, BLOCK_H=BLOCK, BLOCK_W=BLOCK, _NUM=count)
    return y


launch(torch.randn(1024, 4096, device="cuda"))
"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Looked:
    folder = tmp_path_factory.mktemp("tied")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", "capture", "--target", "rtx4090", "--keep", "--json", "program.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Looked)


def chosen(spec: CapturedSpec, **changed: Any) -> NamedConfig:
    return NamedConfig(**{**dict(spec.baseline(None)), **changed})  # type: ignore[call-overload]


def tuned(case: Case, **changed: Any) -> Tuned:
    """A case whose capture was there while it was tuned, and is gone."""

    def request(spec: CapturedSpec) -> Any:
        return SweepRequest(spec=spec, problem=spec.captured_problem(), output=Path("o"), runs=Path("r"))

    def run(asked: SweepRequest) -> SweepResult:
        config = chosen(asked.spec, **changed)  # type: ignore[arg-type]
        entry = Entry(
            problem=asked.problem,
            config=config,
            evidence="measured",
            verdict="keep",
            reason="gain_confirmed",
            environment=Environment(triton="3.7.1", kernel_hash="0" * 12),
            run="20261129T101010-aaaaaa",
            date="2026-11-29",
            gain=Gain(median=0.5, low=0.49, high=0.51, confidence=0.95, min_gain=0.02, blocks=25),
            time_us=Times(baseline=1.0, conservative=1.0, config=0.5),
        )
        return SweepResult(entry.run, entry, (Ranked(config, 0.5),), None, Path("j"), "NVIDIA H200")

    assert case.kept is not None
    away = Path(case.kept).with_name("away")
    try:
        return tune_case(case, request, run)
    finally:
        shutil.move(case.kept, away)


def test_the_two_tiles_and_their_count_are_one_number_of_the_source(looked: Looked) -> None:
    (case,) = looked.cases
    assert case.site is not None
    assert {name: one.varies for name, one in ((knob.name, knob) for knob in case.knobs)}["BLOCK_H"]
    assert case.site.following == {"BLOCK_W": "BLOCK_H", "_NUM": "cdiv(1024, BLOCK_H)"}
    one = tuned(case, BLOCK_H=128, num_warps=8)
    assert one.result is not None
    assert one.arguments[one.result.entry.config] == {"BLOCK_H": 128, "BLOCK_W": 128, "_NUM": 8}
    plan = plan_of([one], looked, autotune=False)
    assert plan.findings == ()
    (patch,) = plan.files
    lines = [line for line in patch.after.decode().splitlines() if "# fusetune" not in line]
    wanted = PROGRAM.replace("BLOCK = 32", "BLOCK = 128").replace(
        "_NUM=count)", "_NUM=count, num_warps=8, num_stages=2)"
    )
    assert lines == wanted.splitlines()
    autotuned = plan_of([one], looked, autotune=True)
    assert autotuned.files == ()
    assert any("BLOCK_H" in finding.text for finding in autotuned.findings)
