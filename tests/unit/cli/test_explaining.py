"""How a profile goes along with the tuning of a program's cases, on a GPU too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusetune.capture.cases import Case, KernelSeen, Looked
from fusetune.capture.spec import CapturedSpec
from fusetune.cli.explaining import Explainer
from fusetune.cli.tuned import explanations_of, table_of_tuned
from fusetune.core.bound import Bound
from fusetune.core.diagnosis import DRAM, SM, Diagnosis
from fusetune.core.target import Target, find_target
from fusetune.errors import UsageError
from fusetune.measure import cuda
from fusetune.tune import profiles
from fusetune.tune.program import Tuned

CASE = Case(
    kernel=KernelSeen("norm", "m", "m.py", 1),
    grid=(8,),
    grid_kind="tuple",
    tensors={},
    values={},
    constants={},
    options={},
    before={},
)
TUNED = Tuned(case=CASE, op="m_norm", problem=None, before=None, baseline=None, end="keep")
LIMIT = Diagnosis("norm", "dram", "Device memory limits norm.", ("a note",), Bound(compute=False, why="by the profile"))


def file_of(folder: Path, kernel: str = "norm") -> Path:
    path = folder / "metrics.json"
    path.write_text(json.dumps({kernel: {SM: 20.0, DRAM: 90.0}}), encoding="utf-8")
    return path


def run_one(explainer: Explainer) -> tuple[CapturedSpec, Tuned]:
    spec = CapturedSpec.__new__(CapturedSpec)
    spec.profiled = None
    request: Any = SimpleNamespace(spec=spec)
    answer: Any = object()
    assert explainer.running(1, lambda asked: answer)(request) is answer
    return spec, explainer.told(1, TUNED)


def test_on_a_gpu_the_profile_is_held_against_its_own_limits_and_told_with_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[Target] = []

    def limit_of(spec: CapturedSpec, one: Any, target: Target) -> Diagnosis:
        targets.append(target)
        return LIMIT

    monkeypatch.setattr(cuda, "likely_target", lambda: find_target("h200"))
    monkeypatch.setattr(profiles, "limit_of", limit_of)
    explainer = Explainer(file_of(tmp_path), None)
    explainer.match([CASE], Looked((CASE,)))
    spec, tuned = run_one(explainer)
    assert targets == [find_target("h200")]
    assert spec.profiled == LIMIT.bound
    assert (tuned.profile, tuned.explanation) == (LIMIT, None)
    assert explanations_of([tuned, tuned])[1].endswith("  (2 cases)")
    told = "\n".join(explanations_of([tuned]))
    assert "by the profile: Device memory limits norm." in told
    assert "note: a note" in told
    assert len(table_of_tuned([tuned]).columns) == 9, "with the columns of times"
    assert table_of_tuned([tuned, tuned]).row_count == 1, "cases of equal rows have one"


def test_where_the_driver_cannot_be_asked_the_program_has_said_which_gpu_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[Target] = []
    monkeypatch.setattr(cuda, "likely_target", lambda: None)
    monkeypatch.setattr(profiles, "limit_of", lambda spec, one, target: targets.append(target) or LIMIT)
    explainer = Explainer(file_of(tmp_path), None)
    explainer.match([CASE], Looked((CASE,), gpu="NVIDIA H200"))
    assert run_one(explainer)[1].profile == LIMIT
    assert targets == [find_target("h200")]


def test_a_gpu_that_the_table_does_not_hold_leaves_the_profile_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "likely_target", lambda: None)
    explainer = Explainer(file_of(tmp_path), None)
    explainer.match([CASE], Looked((CASE,), gpu="NVIDIA T1000"))
    spec, tuned = run_one(explainer)
    assert spec.profiled is None
    assert tuned.profile is None
    assert "--ncu is left out" in capsys.readouterr().err


def test_without_a_profile_nothing_is_asked_for() -> None:
    explainer = Explainer(None, None)
    explainer.match([CASE], Looked((CASE,)))
    assert run_one(explainer)[1] == TUNED


def test_a_program_that_failed_before_any_launch_is_told_as_that(tmp_path: Path) -> None:
    Explainer(file_of(tmp_path, "other"), None).match([], Looked((), failed="ValueError: mine"))
    with pytest.raises(UsageError, match="is of other"):
        Explainer(file_of(tmp_path, "other"), None).match([CASE], Looked((CASE,)))
