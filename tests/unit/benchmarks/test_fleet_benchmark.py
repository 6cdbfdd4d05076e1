"""benchmarks/fleet.py: its stages are on equal terms, and what it asks can be answered with no."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from fleet import Bench, judged

from fusetune.core.progress import SilentProgress
from fusetune.fleet.gpus import GpuHere
from fusetune.tune.request import SweepRequest
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import install
from tests.support.sample import SPEC, make_problem
from tests.support.simulated_lane import Simulated

GPUS = tuple(GpuHere(number, f"GPU-{number}", "NVIDIA H200", "9.0") for number in range(2))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Namespace(output=tmp_path, work=None, problems=2, latest=90.0, space="seed"), GPUS)


def stage(seconds: float, **changes: Any) -> dict[str, Any]:
    told = {"seconds": seconds, "verdicts": {"a": "keep", "b": "revert"}, "environment": {}, "compiled": 0}
    killed = {"cached": 100, "kills_after_s": [1, 2, 3, 4, 5, 6], "refused": {"exit_code": 4}}
    return {**told, **killed, "repeated": {"checks": 0, "samples": 0, "blocks": 0, "journals": 0}, **changes}


def judgement(bench: Bench, folder: Path, **stages: dict[str, Any]) -> dict[str, bool]:
    for name, told in {"killed": stage(5), "one": stage(10), "two": stage(5), **stages}.items():
        (folder / f"fleet-stage-{name}.json").write_text(json.dumps(told))
    bench.judge()
    told = json.loads((folder / "fleet-nvidia-h200.json").read_text())
    return {name: value for name, value in told.items() if isinstance(value, bool)}


def test_each_question_can_be_answered_with_no(bench: Bench, tmp_path: Path) -> None:
    assert all(judgement(bench, tmp_path).values())
    for no, stages in {
        "both_warm": {"one": stage(10, compiled=30)},
        "killed_as_often_as_asked": {"killed": stage(5, kills_after_s=[1, 2])},
        "nothing_measured_twice": {"killed": stage(5, repeated={"journals": 1})},
        "second_worker_refused": {"killed": stage(5, refused={"exit_code": 0})},
        "ratio_holds": {"two": stage(6)},
    }.items():
        assert [name for name, yes in judgement(bench, tmp_path, **stages).items() if not yes] == [no]


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_timed_stage_does_not_begin_with_an_empty_cache(bench: Bench, tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit, match="let the stage killed fill"):
        bench.run(name)
    (tmp_path / "fleet-stage-killed.json").write_text("{}")  # Of another machine, whose cache is not here.
    with pytest.raises(SystemExit, match="let the stage killed fill"):
        bench.run(name)


def test_a_problem_that_a_card_began_twice_is_measured_twice_and_an_empty_journal_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    problem = make_problem(64, 512, 512, "float32")
    for fresh in (False, True):
        request = SweepRequest(
            spec=SPEC, problem=problem, output=tmp_path / "configs", runs=tmp_path / "runs", space="seed", fresh=fresh
        )
        sweep(request, Simulated(problem, "GPU-of-a-benchmark", {}), SilentProgress())
        told = judged(tmp_path)
        assert told["repeated"] == {"checks": 0, "samples": 0, "blocks": 0, "journals": int(fresh)}
    (tmp_path / "runs" / "killed-at-once.jsonl").touch()
    assert judged(tmp_path)["unfinished"] == 1
