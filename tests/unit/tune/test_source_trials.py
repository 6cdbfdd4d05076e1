"""A few runs of a program with other values in its source: what is tried, what stops that, and what is given out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fusetune.capture.again import Ran
from fusetune.capture.results import Difference
from fusetune.tune.source_trials import MOST_STEPS, PAIRS, Searched, Values, search

OTHER = Difference(error=0.3, largest=0.9, part="result", allowed=1e-5)


class Program:
    """Takes `ms` of its values, is wrong where `wrong` says so, and notes its runs; a run takes four seconds."""

    def __init__(
        self,
        values: Sequence[int],
        ms: Callable[[Sequence[int]], float | None],
        wrong: Callable[[Sequence[int]], bool] = lambda _: False,
        **fields: Any,
    ) -> None:
        self.values, self.ms, self.wrong, self.fields = values, ms, wrong, fields
        self.runs: list[list[int]] = []
        self.seconds = 0.0

    def run(self, given: Values) -> Ran:
        values = [given.get(number, value) for number, value in enumerate(self.values)]
        difference = None if not self.runs else OTHER if self.wrong(values) else Difference()
        self.runs.append(values)
        self.seconds += 4.0
        return Ran(**{"gives": True, "forward_ms": self.ms(values), "difference": difference, **self.fields})

    def searched(self, **options: Any) -> Searched:
        usual = {"budget_s": 100.0, "min_gain": 0.02, "clock": lambda: self.seconds}
        return search(self.values, self.run, **{**usual, **options})


def tried(found: Searched, number: int = 0) -> list[int]:
    return [one.value for one in found.tried[number]]


def test_a_value_is_doubled_while_that_is_faster_and_the_best_is_run_again_in_pairs() -> None:
    program = Program([64], lambda values: {64: 2.0, 128: 1.5, 256: 1.2, 512: 1.3}.get(values[0]))
    found = program.searched()
    assert tried(found) == [128, 256, 512]
    assert [one.ms for one in found.tried[0]] == [1.5, 1.2, 1.3]
    assert found.chosen == {0: 256}
    pairs = program.runs[5:]
    assert pairs[:4] == [[64], [256], [256], [64]]
    assert (len(pairs), found.runs) == (2 * PAIRS, 5 + 2 * PAIRS)
    assert found.gain is not None
    assert (found.before_ms, found.after_ms, found.gain.blocks) == (2.0, 1.2, PAIRS)
    assert found.gain.low == pytest.approx(0.4)


def test_what_is_no_faster_doubled_is_halved_and_an_odd_one_is_not() -> None:
    found = Program([64], lambda values: float(values[0])).searched()
    assert tried(found) == [128, 32, 16, 8, 4]
    assert len(found.tried[0]) == 1 + MOST_STEPS
    assert found.chosen == {0: 4}
    assert tried(Program([7], lambda values: float(values[0])).searched()) == [14]


def test_a_wrong_value_ends_its_direction_however_fast_it_is() -> None:
    program = Program([64], lambda values: 64 / values[0], lambda values: values[0] > 64)
    found = program.searched()
    assert (tried(found), found.chosen, found.best) == ([128, 32], {}, {})
    assert found.tried[0][0].wrong == "relative error 3.0e-01"
    assert found.tried[0][0].ms is None
    assert found.runs == 4, "nothing is left to run again"


def test_what_was_fast_once_is_not_given_out() -> None:
    times = iter([2.0, 2.0, 1.0, 2.0, 1.99])
    program = Program([64], lambda _: next(times))
    found = program.searched(budget_s=12.0)
    assert (found.best, found.chosen) == ({0: 128}, {})
    assert found.not_kept == "a pair of fresh runs gains +0.5 %, and each has to gain 2 %"
    assert found.runs == 5


def test_the_best_of_the_first_is_kept_for_the_trials_of_the_second() -> None:
    program = Program([64, 32], lambda values: 100 / values[0] + abs(values[1] - 16))
    found = program.searched(budget_s=40.0)
    assert program.runs[2:5] == [[128, 32], [256, 32], [512, 32]]
    assert [256, 64] in program.runs
    assert found.best == {0: 256, 1: 16}


def test_what_is_proposed_is_tried_first_and_what_lies_around_it_then() -> None:
    program = Program([32], lambda values: abs(values[0] - 1024) + 1.0)
    found = program.searched(proposed=[[512]])
    assert (tried(found), found.chosen) == ([512, 1024, 2048], {0: 1024})
    worse = Program([32], lambda values: float(values[0])).searched(proposed=[[32, 64]], budget_s=24.0)
    assert (tried(worse), worse.best) == ([64, 16, 8, 4], {0: 4})


def test_a_program_that_takes_too_long_for_the_budget_is_not_tried() -> None:
    program = Program([32], lambda values: float(values[0]))
    found = program.searched(budget_s=11.0)
    assert (found.why_not, found.runs) == ("one run of it takes 4 s, and --source-budget is 11", 1)


def test_no_trial_begins_after_the_budget() -> None:
    program = Program([64, 64], lambda values: 1 / values[0])
    found = program.searched(budget_s=13.0)
    assert (tried(found, 0), tried(found, 1)) == ([128, 256], [])
    assert found.chosen == {0: 256}


@pytest.mark.parametrize(
    ("fields", "ends_tell", "why"),
    [
        ({"failed": "OSError: gone"}, False, "it does not end well as it is: OSError: gone"),
        ({"gives": False}, False, "it gives nothing to compare a trial with"),
        ({"gives": False}, True, None),
        ({"forward_ms": None}, False, "its time could not be measured"),
        ({"difference": OTHER}, True, "two runs of it as it is differ: relative error 3.0e-01"),
    ],
)
def test_nothing_is_tried_where_nothing_tells_right_from_wrong(
    fields: dict[str, Any], ends_tell: bool, why: str | None
) -> None:
    found = Program([64], lambda _: 2.0, **fields).searched(ends_tell=ends_tell)
    assert (found.why_not or "").startswith(why or "")
    assert bool(found.tried[0]) == (why is None)
