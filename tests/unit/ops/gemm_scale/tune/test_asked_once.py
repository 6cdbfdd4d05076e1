"""A sweep asks the op for its candidates once, and about each once a stage: what it answered is handed on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC, GemmScale
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.store.journal import Candidate, read_journal
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import install

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


class Counting(GemmScale):
    """gemm_scale, which counts what it is asked: with Resources (`resources`) or from the numbers alone."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, Any]] = Counter()
        self.listed: dict[str, tuple[Config, ...]] = {}

    def candidates(self, problem: Any, target: Any, space: Any) -> Any:
        self.asked["candidates", space] += 1
        self.listed[space] = super().candidates(problem, target, space)
        return self.listed[space]

    def reject(self, config: Any, problem: Any, target: Any) -> Any:
        self.asked["reject", config] += 1
        return super().reject(config, problem, target)

    def estimate(self, config: Any, problem: Any, target: Any, resources: Any = None) -> Any:
        self.asked["guess" if resources is None else "estimate", config] += 1
        return super().estimate(config, problem, target, resources)

    def questions(self, kind: str) -> dict[Any, int]:
        return {what: count for (asked, what), count in self.asked.items() if asked == kind}


def measured(request: SweepRequest) -> SweepResult:
    return sweep(request, FakeMeasurer(RTX4090, lambda config: 20.0 - config.num_stages), SilentProgress())


def predicted(request: SweepRequest) -> SweepResult:
    return predict(request, RTX4090, SilentProgress())


@pytest.mark.parametrize("run", [measured, predicted])
def test_each_question_about_a_candidate_is_asked_once(tmp_path: Path, run: Any) -> None:
    spec = Counting()
    result = run(SweepRequest(spec=spec, problem=PROBLEM, output=tmp_path, runs=tmp_path / "runs"))
    assert spec.questions("candidates") == {"standard": 1}
    listed = spec.listed["standard"]
    assert spec.questions("reject") == dict.fromkeys(listed, 1)
    last = {one.config: one for one in read_journal(result.journal) if isinstance(one, Candidate)}
    passed = [config for config in listed if SPEC.reject(config, PROBLEM, RTX4090) is None]
    guessed, estimated = spec.questions("guess"), spec.questions("estimate")
    assert guessed == dict.fromkeys(passed, 1), "each that is let through, and no other"
    assert set(estimated.values()) == {1}
    with_resources = {config for config, one in last.items() if one.resources is not None and not config.is_library}
    assert {config for config in estimated if not config.is_library} == with_resources
    assert result.entry.config in with_resources


def test_a_predicted_entry_for_a_candidate_asks_nothing_again(tmp_path: Path) -> None:
    spec = Counting()
    request = SweepRequest(spec=spec, problem=PROBLEM, output=tmp_path, runs=tmp_path / "runs")
    predicted(request)
    spec.asked.clear()
    measured(request)
    assert spec.questions("candidates") == {"standard": 1}
    assert set(spec.questions("reject").values()) == {1}
    assert set(spec.questions("guess").values()) == {1}
