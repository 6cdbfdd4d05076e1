"""A function that is called again finds its inputs and its random numbers as they were the first time."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fusetune.capture.programs import Program
from fusetune.capture.repeated import Arguments, Repeated, repeated
from fusetune.capture.results import difference

SOURCE = """import torch

calls = []


def pure(x, scale=1.0):
    calls.append(x.clone())
    return {"y": x * scale, "noise": torch.rand(3)}


def in_place(x, counts):
    calls.append(x.clone())
    x += 1
    counts["seen"] = counts.get("seen", 0) + 1
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "repeated_program.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "repeated_program"
    sys.modules.pop("repeated_program", None)


def calls() -> list[torch.Tensor]:
    found: list[torch.Tensor] = sys.modules["repeated_program"].calls  # type: ignore[attr-defined]
    return found


def test_random_inputs_and_numbers_are_the_same_at_each_call(program: str) -> None:
    with repeated(Program("function", f"{program}:pure", expression="torch.randn(5), scale=2.0")) as again:
        again.first_call()
        assert not again.changes_inputs
        results = [again.results() for _ in range(2)]
        assert list(results[0]) == ["result.y", "result.noise"]
        assert difference(*results).told() == "max error 0"
        assert not again.has_reference
        assert again.of_reference(results[0]) is None
        assert all(torch.equal(one, calls()[0]) for one in calls())


def test_inputs_that_a_call_changes_are_made_anew_and_belong_to_what_it_gives(program: str) -> None:
    with repeated(Program("function", f"{program}:in_place", expression="torch.randn(5), {}")) as again:
        again.first_call()
        assert again.changes_inputs
        results = again.results()
        assert results["inputs.0.0"].shape == (5,)
        assert results["inputs.0.1.seen"] == 1
        assert difference(again.results(), results).told() == "max error 0"
        assert all(torch.equal(one, calls()[0]) for one in calls())


def test_a_call_s_time_is_that_of_the_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clock = itertools.count()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(clock)
            told.append("event")

        def elapsed_time(self, other: Event) -> float:
            return float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("wait"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: told.append("busy"))
    again = Repeated(lambda: Arguments((), {}), lambda: told.append("call"))
    assert again.forward_ms(calls=2) == 1.0
    assert told[2:8] == ["wait", "busy", "event", "call", "event", "wait"]


def test_what_is_left_in_the_inputs_is_told_apart_from_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusetune.capture.again import AgainRequest
    from fusetune.capture.again_child import ran_of

    monkeypatch.chdir(tmp_path)
    program = Program("function", "leaves_its_inputs:called", expression="torch.ones(3)")
    text = "STEP = 1.0\n\n\ndef called(x):\n    x += STEP\n    return x.sum() * 0\n"
    (tmp_path / "leaves_its_inputs.py").write_text(text, encoding="utf-8")
    saved = str(tmp_path / "before.pt")
    assert ran_of(AgainRequest(program, (), apply=False, save=saved)).inputs is None
    same = ran_of(AgainRequest(program, (), apply=False, against=saved))
    sys.modules["leaves_its_inputs"].STEP = 2.0  # type: ignore[attr-defined]
    other = ran_of(AgainRequest(program, (), apply=False, against=saved))
    assert same.inputs is not None
    assert other.inputs is not None
    assert (same.inputs.error, other.inputs.error) == (0.0, 0.5)
    assert sys.modules.pop("leaves_its_inputs")
