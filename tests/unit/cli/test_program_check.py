"""What the program said of the kept configs, in one line and as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from fusetune.capture.programs import Program
from fusetune.capture.results import Difference
from fusetune.cli.program_check import FAILED, NO_GPU, NOT_ASKED, ProgramCheck, lines_of, run_again, why_not_asked
from fusetune.errors import MachineError
from fusetune.tune import again
from fusetune.tune.last_word import LastWord, Reverted


def word(**fields: Any) -> LastWord:
    usual = {"applied": 3, "launches": 12, "right": True, "difference": Difference(), "runs": 4}
    return LastWord(**{"changes": 3, **usual, "before_ms": 1.34, "after_ms": 0.91, **fields})


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        (
            word(),
            [
                "The program: 3 of 3 kept configs applied to 12 launches; result equal to Before's (max error 0); "
                "1.34 ms -> 0.91 ms (0.68x)"
            ],
        ),
        (
            word(right=None, why="two runs of it as it is differ: by 0.4", unlike_reference="relative error 4.0e-01"),
            [
                "The program: 3 of 3 kept configs applied to 12 launches; two runs of it as it is differ: by 0.4; "
                "1.34 ms -> 0.91 ms (0.68x)",
                "The program: as it is, its result is not its reference's: relative error 4.0e-01",
            ],
        ),
        (
            word(
                changes=2,
                applied=1,
                launches=1,
                reverted=(Reverted(1, "wrong", "NaN"),),
                left={"it has no grid": 2},
                others=5,
            ),
            [
                "The program: 1 of 1 kept config applied to 1 launch; result equal to Before's (max error 0); "
                "1.34 ms -> 0.91 ms (0.68x); 1 of 2 taken back",
                "The program: 2 launches ran as they are: it has no grid",
                "The program: 5 launches of the same kernels, with other arguments, ran as they are",
            ],
        ),
        (
            word(right=None, why="it gives nothing to compare, and ends as before", before_ms=None, after_ms=None),
            [
                "The program: 3 of 3 kept configs applied to 12 launches; "
                "it gives nothing to compare, and ends as before"
            ],
        ),
        (
            word(changes=1, applied=0, reverted=(Reverted(0, "slower", "a"),), right=None, why="none of them stays"),
            ["The program: none of the kept configs stays; 1 of 1 taken back"],
        ),
        (
            LastWord(changes=1, failed="OSError: gone"),
            [
                "The program could not be asked again: as it is, OSError: gone; the verdicts are those of its kernels",
            ],
        ),
    ],
)
def test_a_line_says_what_was_applied_whether_it_is_right_and_what_it_takes(said: LastWord, lines: list[str]) -> None:
    assert lines_of(said) == lines


def test_json_has_all_of_it_and_the_ratio() -> None:
    found = ProgramCheck(word(reverted=(Reverted(1, "wrong", "NaN"),))).to_builtins()
    assert found is not None
    assert (found["applied"], found["launches"], found["right"]) == (3, 12, True)
    assert found["ratio"] == pytest.approx(0.679, abs=1e-3)
    assert found["reverted"] == [{"change": 1, "why": "wrong", "detail": "NaN"}]
    assert ProgramCheck().to_builtins() is None
    assert ProgramCheck().lines() == []


@pytest.mark.parametrize(
    ("on_gpu", "wanted", "failed", "why_not"),
    [
        (True, True, None, None),
        (True, False, None, NOT_ASKED),
        (False, True, None, NO_GPU),
        (True, True, "ValueError: mine", FAILED),
    ],
)
def test_where_it_is_not_asked_a_sentence_says_so(
    on_gpu: bool, wanted: bool, failed: str | None, why_not: str | None
) -> None:
    assert why_not_asked(on_gpu=on_gpu, wanted=wanted, failed=failed) == why_not
    if why_not is not None:
        left, checked = run_again(Program("script", "a.py"), [], why_not=why_not, limit_s=None)
        assert (left, checked.to_builtins()) == ([], {"why_not": why_not})
        # The other two are said elsewhere: that no GPU was used, and how the program failed.
        assert checked.lines() == ([why_not] if why_not == NOT_ASKED else [])


def test_trouble_of_the_machine_is_told_and_the_verdicts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_program(*_: Any, **__: Any) -> Any:
        raise MachineError("no process could be started")

    monkeypatch.setattr(again, "ask_program", ask_program)
    left, checked = run_again(Program("script", "a.py"), [], why_not=None, limit_s=None)
    assert left == []
    assert checked.lines() == ["The program could not be run again: no process could be started"]
    assert checked.troubled


def test_a_result_or_a_test_says_that_launches_which_nobody_tuned_are_right() -> None:
    script, tests = Program("script", "bench.py"), Program("module", "pytest", ("test_a.py",))
    compared, ended = LastWord(changes=1, right=True), LastWord(changes=1, why="it gives nothing to compare")
    failed = LastWord(changes=1, failed="OSError: gone")
    said = [[ProgramCheck(word).says_right(one) for one in (script, tests)] for word in (compared, ended, failed, None)]
    assert said == [[True, True], [False, True], [False, False], [False, False]]
