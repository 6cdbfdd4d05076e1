"""What is timed of a program that runs again, with a GPU's events stood in for: a tick for each program of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fusetune.capture import again_child
from fusetune.capture.again import Ran, request_of
from fusetune.capture.applying import Applier
from fusetune.capture.changes import Change
from fusetune.capture.programs import Program, run_program
from tests.support.launch_cases import launches_of

FILE = Path(__file__).parents[1] / "support" / "programs" / "rows_and_points.py"
PROGRAM = Program("model", str(FILE), reference=str(FILE))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import GridExecutor

    clock = [0]
    call = GridExecutor.__call__

    def ticking(self: Any, *args: Any, **named: Any) -> Any:
        clock[0] += self.grid[0] if isinstance(self.grid, tuple) else 1
        return call(self, *args, **named)

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            self.at = 0

        def record(self) -> None:
            self.at = clock[0]

        def elapsed_time(self, other: Event) -> float:
            return float(other.at - self.at)

    monkeypatch.setattr(GridExecutor, "__call__", ticking)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(again_child, "_has_gpu", lambda request: True)


def ran(*changes: Change, apply: bool) -> Ran:
    applier = Applier(changes, apply=apply)
    applier.install()
    try:
        return again_child._ran(request_of(PROGRAM, changes, apply=apply), applier)
    finally:
        applier.remove()


def test_each_case_s_own_launches_and_the_whole_are_timed_as_it_is_and_with_a_change(gpu: None) -> None:
    cases, _ = launches_of(lambda: run_program(PROGRAM))
    (twice,) = [case for case in cases if case.kernel.name == "twice"]
    change = Change(twice, {"BLOCK": 64}, {"num_warps": 2})
    before, after = (ran(change, apply=apply) for apply in (False, True))
    # 600 elements by 256 are 3 programs and by 64 are 10; the rows' grid is a callable, and counts as one.
    assert [one.launched[0].us for one in (before, after)] == [3000.0, 10000.0]
    assert [one.kernels_ms for one in (before, after)] == [4.0, 11.0]
    assert [one.forward_ms for one in (before, after)] == [4.0, 11.0]
    assert [one.launched[0].applied for one in (before, after)] == [0, 1]
    assert [one.launches for one in (before, after)] == [2, 2]
