"""The benchmark of the gate of a user's kernel on a simulated GPU, without its repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gate_programs
import pytest
from gate import OneProcess

from fusetune.core.config import Config
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from tests.unit.gate.test_replays import BEFORE, CHOSEN, PROBLEM, entry_of


class Spec:
    """What ran before, which is all that is asked of it."""

    def before(self, problem: object) -> Config:
        assert problem == PROBLEM
        return BEFORE


@pytest.fixture
def other_us(monkeypatch: pytest.MonkeyPatch) -> dict[Config, float]:
    us: dict[Config, float] = {BEFORE: 20.0, CHOSEN: 10.0, CHOSEN.elsewhere(): 10.0}

    @contextmanager
    def measured(*_: object) -> Iterator[tuple[OneProcess, Any, Any]]:
        yield OneProcess(FakeMeasurer(find_target("h200"), us.__getitem__)), entry_of(), Spec()

    monkeypatch.setattr(gate_programs, "measured", measured)
    return us


def test_unchanged_gates_hold_and_a_slower_kernel_is_a_regression_against_head_alone(
    other_us: dict[Config, float], tmp_path: Path
) -> None:
    result: dict[str, Any] = {"gpu": "H200", "date": "today", "cases": {}}
    path = tmp_path / "out" / "gate-programs.json"
    nothing: Any = None
    gate_programs.count_gates(nothing, result, "unchanged", nothing, nothing, 3, path)
    other_us[CHOSEN.elsewhere()] = 9.7
    gate_programs.count_gates(nothing, result, "slower", nothing, nothing, 2, path)
    gate_programs.count_gates(nothing, result, "unchanged", nothing, nothing, 3, path)  # They are done.
    result["cases"]["spill"] = {"exit_code": 1, "expected": 1, "said": []}
    assert gate_programs.table(result).splitlines() == [
        "H200, today: gates of a sample repository's kernel",
        "   unchanged, Before: 3 holds",
        "   unchanged,   HEAD: 3 holds",
        "      slower, Before: 2 holds",
        "      slower,   HEAD: 2 regression",
        "       spill: exit code 1, 1 is right",
    ]
    assert path.is_file()


def test_what_is_planted_changes_the_kernel_s_text() -> None:
    assert gate_programs.LOOP in gate_programs.KERNEL
    assert "y_ptr + at, x," in gate_programs.KERNEL
