"""The benchmark of the live gate on a simulated GPU whose slowdown grows with the planted work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gate
import pytest
from decision import SMALL_CONFIG

from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.ops.gemm_scale.config import BASELINE, Config


def true_us(config: Config) -> float:
    """Half a per mille slower for each unit of planted work."""
    return 20.0 if config == BASELINE else 5.8 * (1 + 0.0005 * (config.GROUP_M - 1))


@pytest.fixture
def measurer() -> gate.OneProcess:
    one = gate.OneProcess(FakeMeasurer(find_target("h200"), true_us))
    one.prepare(0)
    return one


def gated(measurer: Any, slowdown: float, path: Path, count: int = 6) -> list[str]:
    result: dict[str, Any] = {"cases": {}}
    gate.run_gates(measurer, result, slowdown, count, path)
    return [one["status"] for one in result["cases"][f"{slowdown:g}"]["gates"]]


@pytest.mark.parametrize(("slowdown", "status"), [(0.0, "holds"), (0.03, "regression"), (0.01, "slower")])
def test_each_planted_slowdown_comes_to_what_the_gate_promises(measurer, tmp_path, slowdown, status) -> None:
    assert set(gated(measurer, slowdown, tmp_path / "gate.json")) == {status}


def test_all_gates_share_one_process(measurer, tmp_path) -> None:
    gated(measurer, 0.03, tmp_path / "gate.json")
    assert measurer.prepared == [0]


def test_what_was_done_is_not_done_again_and_other_software_begins_anew(measurer, tmp_path) -> None:
    path = tmp_path / "gate.json"
    result = gate.resumed(path, "GPU", {"torch": "1"})
    gate.run_gates(measurer, result, 0.0, 2, path)
    again = gate.resumed(path, "GPU", {"torch": "1"})
    assert again == json.loads(path.read_text())
    gate.run_gates(measurer, again, 0.0, 2, path)
    assert len(again["cases"]["0"]["gates"]) == 2
    assert gate.resumed(path, "GPU", {"torch": "2"})["cases"] == {}


def test_the_table_has_a_line_for_each_case_with_its_outcomes(measurer, tmp_path) -> None:
    result = gate.resumed(tmp_path / "gate.json", "NVIDIA H200", {})
    for slowdown in (0.0, 0.03):
        gate.run_gates(measurer, result, slowdown, 3, tmp_path / "gate.json")
    lines = gate.table(result).splitlines()
    assert "3 holds; no regression" in lines[2]
    assert "3 regression; at least 48 of 50" in lines[3]
    assert SMALL_CONFIG.num_stages == 3
