"""Without a GPU: what is given out of predicted changes is what the program ends well with, its launches compiled."""

from __future__ import annotations

from typing import Any

import pytest

from fusetune.capture.programs import Program
from fusetune.cli.source_check import Decided, Form, SourceCheck, checked_by_compiling
from fusetune.errors import MachineError
from fusetune.tune import source_again
from fusetune.tune.source_again import Source

ALL, NONE = ("changed", (0, 1)), ("changed", ())


def asked(
    monkeypatch: pytest.MonkeyPatch,
    form: Form,
    fails: dict[Any, str | Exception],
    changes: int = 2,
    took_s: float = 8.0,
) -> tuple[Any, SourceCheck | None, list[Any]]:
    """The plan and what was said, where sources of some plans fail; and the plans whose sources were run."""
    ran: list[Any] = []

    def why_it_fails(source: Any, target: str, limit_s: float) -> str | None:
        assert (target, limit_s) == ("NVIDIA H200", 100.0)
        ran.append(source.texts["plan"])
        said = fails.get(ran[-1])
        if isinstance(said, Exception):
            raise said
        return said

    def plan_with(numbers: Any) -> Any:
        return ("changed", tuple(numbers))

    def source_of(plan: Any) -> Source:
        return Source(Program("script", "a.py"), {"plan": plan})

    monkeypatch.setattr(source_again, "why_it_fails", why_it_fails)
    decided = Decided(tuple((f"k{number}",) for number in range(changes)), plan_with)
    return *checked_by_compiling(form, decided, source_of, "NVIDIA H200", took_s), ran


@pytest.mark.parametrize("form", ["module", "patch"])
def test_where_it_ends_well_all_is_given_out_and_nothing_said(monkeypatch: pytest.MonkeyPatch, form: Form) -> None:
    assert asked(monkeypatch, form, {}) == (ALL, None, [ALL])


@pytest.mark.parametrize(("form", "runs"), [("module", [ALL, NONE]), ("patch", [ALL])])
def test_where_it_fails_nothing_is_changed_and_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, form: Form, runs: list[Any]
) -> None:
    plan, check, ran = asked(monkeypatch, form, {ALL: "TypeError: no kernel"})
    assert (plan, ran) == (NONE, runs)
    assert check is not None
    assert check.sentences() == ["no launch is changed: the program fails with it: TypeError: no kernel"]
    assert check.left_out() == {0, 1}
    assert check.to_builtins()["given_out"] == 0


@pytest.mark.parametrize("changes", [0, 2])
def test_a_module_that_fails_by_itself_is_unlike_the_program(monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
    fails: dict[Any, str | Exception] = {ALL: "NameError: rows", NONE: "NameError: rows"}
    plan, check, _ = asked(monkeypatch, "module", fails, changes)
    assert plan == NONE
    assert check is not None
    assert check.unlike == "it fails: NameError: rows"
    assert check.sentences()[0] == "no launch is changed"


def test_a_patch_that_changes_nothing_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, "patch", {}, changes=0) == (NONE, None, [])


def test_trouble_of_the_machine_gives_nothing_out_and_blames_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, check, _ = asked(monkeypatch, "module", {ALL: MachineError("no space left")})
    assert plan == NONE
    assert check is not None
    assert check.refused == "the program could not be run with it: no space left"


def test_a_program_that_takes_long_on_the_cpu_is_not_run_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, check, ran = asked(monkeypatch, "module", {}, took_s=30.2)
    assert (plan, ran) == (ALL, [])
    assert check is not None
    assert check.sentences() == ["the program was not run with it: without a GPU it takes 30 s"]
    assert check.left_out() == set()
