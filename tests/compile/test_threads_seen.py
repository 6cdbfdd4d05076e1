"""Threads that launch the same: it is one case, and is kept whichever of them is done first."""

from __future__ import annotations

from pathlib import Path

from fusetune.capture.kept import read_kept
from fusetune.capture.look import look
from fusetune.capture.programs import Program

OVERTAKEN = """import threading

import torch
import triton
import triton.language as tl


@triton.jit
def copied(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


x, y = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda")
begun, overtaken = threading.Event(), threading.Event()
asked = 0


def slow(meta):
    global asked
    asked += 1
    if asked == 2:  # The first is before the launch, where it is kept.
        begun.set()
        assert overtaken.wait(60)
    return (triton.cdiv(1000, meta["BLOCK"]),)


def launch(grid):
    copied[grid](x, y, 1000, BLOCK=256, num_warps=2)


first = threading.Thread(target=launch, args=(slow,))
first.start()
assert begun.wait(60)
launch(lambda meta: (triton.cdiv(1000, meta["BLOCK"]),))
overtaken.set()
first.join()
"""


def test_a_launch_that_another_thread_overtakes_is_kept(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(OVERTAKEN, encoding="utf-8")
    found = look(Program("script", str(script)), target="rtx4090", keep=tmp_path / "kept")
    (case,) = found.cases
    assert (found.failed, case.launches) == (None, 2)
    assert case.kept is not None
    kept = read_kept(Path(case.kept))
    assert (kept.unlaunchable, kept.grid_text) == (None, "(cdiv(1000, BLOCK),)")
