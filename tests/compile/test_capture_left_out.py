"""Launches that cannot be captured are told of, kernel by kernel, with the place and the reason."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from fusetune.capture import seen, watch
from fusetune.capture.cases import Looked, NotCaptured
from fusetune.capture.look import look
from fusetune.capture.programs import Program, run_program
from fusetune.capture.stand_in import stand_in
from fusetune.core.target import find_target
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
BEGIN = """import torch
import triton
import triton.language as tl


"""
# Each Triton launches it: before 3.8 with one argument behind the star, and where the kernel does not look at that.
BEHIND_A_STAR = f"""{BEGIN}@triton.jit
def many(x_ptr, n, BLOCK: tl.constexpr, *more):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, 1.0, mask=at < n)


@triton.jit
def plain(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, 2.0, mask=at < n)


x, y = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda")
for _ in range(3):
    many[(8,)](x, 1000, 128, y)
PLAIN
"""
PLAIN = "plain[(8,)](x, 1000, 128)"
STEPS = f"""{BEGIN}@triton.jit
def fill(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, 1.0, mask=at < n)


for size in (128, 256, 512, 1024, 128, 1024):
    fill[(1,)](torch.ones(size, device="cuda"), size, BLOCK=size)
"""
HELD = f"""{BEGIN}@triton.jit
def fill(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, 1.0, mask=at < n)


x = torch.ones(1000, device="cuda")
held = fill.warmup(x, 1000, BLOCK=128, grid=(1,))
for _ in range(2):
    held[(8, 1, 1)](x, 1000, 128)
"""
WHY = "what it takes as *more has no names; give each a parameter of its own"


@pytest.mark.parametrize("command", ["capture", "tune"])
def test_a_kernel_with_arguments_behind_a_star_is_named_with_its_place_and_the_reason(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "star.py").write_text(BEHIND_A_STAR.replace("PLAIN", ""), encoding="utf-8")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [warm_python(), "-m", "fusetune", command, "--target", "rtx4090", "star.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert f"3 launches of many (star.py:6): not captured, and not tuned, as {WHY}" in done.stdout.splitlines()


def test_the_other_kernels_of_such_a_program_are_captured(tmp_path: Path) -> None:
    file, kept = tmp_path / "star.py", tmp_path / "kept"
    file.write_text(BEHIND_A_STAR.replace("PLAIN", PLAIN), encoding="utf-8")
    looked = look(Program("script", str(file)), target="rtx4090", keep=kept)
    assert looked.failed is None
    assert [case.kernel.name for case in looked.cases] == ["plain"]
    (one,) = looked.not_captured
    assert (one.kernel.name, one.kernel.place(), one.launches, one.why) == ("many", f"{file}:6", 3, WHY)
    assert len(list(kept.glob("[0-9]*"))) == 1


def test_what_a_program_launches_past_the_jit_is_counted_without_a_gpu_too(tmp_path: Path) -> None:
    file = tmp_path / "held.py"
    file.write_text(HELD, encoding="utf-8")
    looked = look(Program("script", str(file)), target="rtx4090")
    assert (looked.failed, looked.cases, looked.bypassed) == (None, (), {"fill": 2})


def test_what_comes_after_as_many_cases_as_are_told_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MOST_CASES", 3)
    monkeypatch.setattr(watch, "MOST_CASES", 3)
    file = tmp_path / "steps.py"
    file.write_text(STEPS, encoding="utf-8")
    watching = watch.Watch()
    with stand_in(find_target("rtx4090")):
        watching.install()
        try:
            run_program(Program("script", str(file)))
        finally:
            watching.remove()
    looked = msgspec.json.decode(msgspec.json.encode(watching.looked()), type=Looked)
    assert [(case.constants["BLOCK"], case.launches) for case in looked.cases] == [(128, 2), (256, 1), (512, 1)]
    (kernel,) = {case.kernel for case in looked.cases}
    unhashed = msgspec.structs.replace(kernel, source_hash=None)
    assert looked.not_captured == (NotCaptured(unhashed, "the program has 3 other cases", 2),)
