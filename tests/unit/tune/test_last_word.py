"""What a program's runs come to: what is right and faster stays, what spoils it is found, and noise is asked again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest

from fusetune.capture.again import Ran
from fusetune.capture.applying import Launched
from fusetune.capture.results import Difference
from fusetune.tune.last_word import MOST_ALONE, MOST_PAIRS, LastWord, last_word, unlike_before

SAME, OTHER = Difference(), Difference(error=0.3, largest=0.9, part="result", allowed=1e-5)


class Program:
    """Answers as a program would in which the changes of `wrong` spoil the result, alone or, `together`, all at once.

    `us` has the microseconds of a launch as it is and with its change, `ms` those of the whole, run by run.
    """

    def __init__(
        self,
        us: Sequence[tuple[float, float]],
        *,
        wrong: Collection[int] = (),
        together: Collection[int] = (),
        spread: Sequence[Difference] = (),
        **fields: Any,
    ) -> None:
        self.us, self.bad, self.together = us, set(wrong), set(together)
        self.spread = [None, *spread]
        self.fields = {"gives": True, **fields}
        self.runs: list[Any] = []
        self.before_ms, self.after_ms = [2.0], [1.0]

    def before(self) -> Ran:
        number = sum(one == "before" for one in self.runs)
        self.runs.append("before")
        launched = tuple(Launched(us=before) for before, _ in self.us)
        difference = None if number == 0 else self.spread[number] if number < len(self.spread) else SAME
        ms = self.before_ms[min(number, len(self.before_ms) - 1)]
        return Ran(launched=launched, forward_ms=ms, difference=difference, **self.fields)

    def after(self, changes: Collection[int]) -> Ran:
        number = sum(one != "before" for one in self.runs)
        self.runs.append(list(changes))
        launched = tuple(Launched(applied=2, us=self.us[one][1]) for one in changes)
        spoiled = self.bad & set(changes) or (self.together and self.together <= set(changes))
        ms = self.after_ms[min(number, len(self.after_ms) - 1)]
        return Ran(launched=launched, forward_ms=ms, difference=OTHER if spoiled else SAME, **self.fields)


def ask(program: Program, least_gain: float | None = None) -> LastWord:
    return last_word(len(program.us), program, least_gain=least_gain)


def reverted(word: LastWord) -> dict[int, str]:
    return {one.change: one.why for one in word.reverted}


def test_right_and_faster_stays_after_four_interleaved_runs() -> None:
    program = Program([(10.0, 8.0), (5.0, 4.0)])
    word = ask(program)
    assert program.runs == ["before", [0, 1], [0, 1], "before"]
    assert (word.right, word.applied, word.launches, word.reverted) == (True, 2, 4, ())
    assert (word.before_ms, word.after_ms, word.ratio) == (2.0, 1.0, 0.5)


def test_the_one_of_three_that_spoils_the_result_is_found_and_the_others_are_asked_again() -> None:
    program = Program([(10.0, 8.0)] * 3, wrong=[1])
    word = ask(program)
    assert program.runs[4:] == [[0], [1], [2], [0, 2], [0, 2]]
    assert reverted(word) == {1: "wrong"}
    assert "relative error 3.0e-01" in word.reverted[0].detail
    assert (word.right, word.applied) == (True, 2)


def test_where_none_alone_is_to_blame_none_stays() -> None:
    program = Program([(10.0, 8.0)] * 3, together=[0, 2])
    word = ask(program)
    assert reverted(word) == {0: "wrong", 1: "wrong", 2: "wrong"}
    assert all("none alone" in one.detail for one in word.reverted)
    assert (word.applied, word.after_ms, word.ratio) == (0, 2.0, 1.0)


def test_of_very_many_none_is_tried_alone() -> None:
    program = Program([(10.0, 8.0)] * (MOST_ALONE + 1), wrong=[3])
    assert len(ask(program).reverted) == MOST_ALONE + 1
    assert len(program.runs) == 4


def test_what_is_not_faster_in_the_program_goes_after_it_was_asked_once_more() -> None:
    program = Program([(10.0, 8.0), (5.0, 5.0)])
    word = ask(program)
    assert program.runs[4:6] == [[0, 1], "before"]
    assert reverted(word) == {1: "slower"}
    assert word.reverted[0].detail == "5.00 us a launch as it is, 5.00 us with it"
    assert program.runs[-1] == [0]


def test_a_noisy_program_is_run_once_more_each() -> None:
    program = Program([(10.0, 8.0)])
    program.before_ms = [2.0, 2.2, 2.1]
    word = ask(program)
    assert program.runs[4:] == [[0], "before"]
    assert word.before_ms == 2.1


def test_a_program_that_fails_with_a_change_is_wrong_and_one_that_fails_by_itself_says_nothing() -> None:
    class Fails(Program):
        def after(self, changes: Collection[int]) -> Ran:
            super().after(changes)
            return Ran(failed="AssertionError: not close")

    program = Fails([(10.0, 8.0)])
    word = ask(program)
    assert program.runs == ["before", [0], "before"], "one that hangs takes all of its limit each time"
    assert reverted(word) == {0: "wrong"}
    assert "AssertionError" in word.reverted[0].detail

    class FailsAlways(Program):
        def before(self) -> Ran:
            return Ran(failed="OSError: no such file")

    word = ask(FailsAlways([(10.0, 8.0)]))
    assert (word.failed, word.right, word.reverted, word.runs) == ("OSError: no such file", None, (), 1)


@pytest.mark.parametrize(
    ("error", "right"), [(1e-7, {0: "wrong"}), (0.1, {}), (0.02, {0: "wrong"})], ids=["steady", "random", "between"]
)
def test_the_spread_of_before_counts_and_what_differs_altogether_is_not_compared(error: float, right: Any) -> None:
    program = Program([(10.0, 8.0)], wrong=[0], spread=[Difference(error, 2 * error, "result", 1e-5)])
    word = ask(program)
    assert reverted(word) == right
    if error == 0.1:
        assert word.right is None
        assert "two runs of it as it is differ" in (word.why or "")


def test_within_rounding_or_a_few_times_the_spread_is_right() -> None:
    near = Difference(error=0.03, largest=0.1, part="result", allowed=1e-5)

    class Near(Program):
        def after(self, changes: Collection[int]) -> Ran:
            ran = super().after(changes)
            return Ran(launched=ran.launched, gives=True, difference=near)

    assert ask(Near([(10.0, 8.0)], spread=[Difference(0.01, 0.04, "result", 1e-5)])).right
    assert reverted(ask(Near([(10.0, 8.0)]))) == {0: "wrong"}
    assert last_word(1, Near([(10.0, 8.0)]), tolerance=0.05).right


def test_a_reference_judges_where_before_is_near_it() -> None:
    class Beside(Program):
        error = 1.4e-3

        def after(self, changes: Collection[int]) -> Ran:
            ran = super().after(changes)
            reference = Difference(self.error, 2 * self.error, "result", 1e-5)
            return Ran(launched=ran.launched, gives=True, difference=OTHER, reference=reference)

    base = Difference(1e-3, 2e-3, "result", 1e-5)
    assert ask(Beside([(10.0, 8.0)], reference=base)).right
    Beside.error = 1.6e-3
    assert reverted(ask(Beside([(10.0, 8.0)], reference=base))) == {0: "wrong"}
    far = Difference(0.5, 1.0, "result", 1e-5)
    assert reverted(ask(Beside([(10.0, 8.0)], reference=far))) == {0: "wrong"}, "then Before itself judges"
    assert ask(Beside([(10.0, 8.0)], reference=base)).unlike_reference is None
    assert ask(Beside([(10.0, 8.0)], reference=far)).unlike_reference == far.told()


def test_a_reference_says_nothing_of_what_is_left_in_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    class InPlace(Program):
        first: Difference | None = None
        then, changed = SAME, OTHER

        def before(self) -> Ran:
            ran = msgspec.structs.replace(super().before(), inputs=self.first)
            self.first = self.then
            return ran

        def after(self, changes: Collection[int]) -> Ran:
            return msgspec.structs.replace(super().after(changes), inputs=self.changed, difference=SAME)

    base = Difference(1e-3, 2e-3, "result", 1e-5)
    word = ask(InPlace([(10.0, 8.0)], reference=base))
    assert reverted(word) == {0: "wrong"}
    assert word.reverted[0].detail == "in its inputs: relative error 3.0e-01"
    monkeypatch.setattr(InPlace, "changed", SAME)
    assert ask(InPlace([(10.0, 8.0)], reference=base)).reverted == ()
    monkeypatch.setattr(InPlace, "changed", OTHER)
    monkeypatch.setattr(InPlace, "then", OTHER)
    assert ask(InPlace([(10.0, 8.0)], reference=base)).reverted == (), "they are other ones each time"


def test_a_script_that_gives_nothing_is_judged_by_its_end_and_its_launches() -> None:
    word = ask(Program([(10.0, 8.0)], gives=False))
    assert (word.right, word.reverted) == (None, ())
    assert "nothing to compare" in (word.why or "")


@pytest.mark.parametrize(("after", "stays"), [(1.96, True), (1.961, False)])
def test_a_whole_that_gains_exactly_what_it_has_to_stays_and_one_that_gains_less_does_not(
    after: float, stays: bool
) -> None:
    program = Program([(10.0, 8.0), (5.0, 4.0)])
    program.after_ms = [after]
    word = ask(program, 0.02)
    assert reverted(word) == ({} if stays else {0: "whole", 1: "whole"})
    if not stays:
        assert word.reverted[0].detail == "2 ms as it is, 1.96 ms with it: +1.9 %, and it has to gain 2 %"
        assert word.after_ms == word.before_ms == 2.0
    assert ask(program).reverted == (), "without a least gain each change's own launches say it"


def test_a_whole_near_what_it_has_to_gain_is_asked_more_often_and_its_median_decides() -> None:
    program = Program([(10.0, 8.0)])
    program.before_ms, program.after_ms = [2.0], [1.95, 1.97, 1.95, 1.95, 1.97]
    word = ask(program, 0.02)
    assert (len(program.runs), word.reverted) == (2 * MOST_PAIRS, ())
    far = Program([(10.0, 8.0)])
    assert (len(far.runs), ask(far, 0.02).runs) == (0, 4)


def test_a_whole_whose_time_is_not_known_gains_nothing() -> None:
    class Untimed(Program):
        def before(self) -> Ran:
            return msgspec.structs.replace(super().before(), forward_ms=None)

    word = ask(Untimed([(10.0, 8.0)]), 0.02)
    assert word.reverted[0].detail == "a time that could not be measured, and it has to gain 2 %"


def test_a_result_that_is_wrong_only_when_asked_once_more_is_wrong() -> None:
    class Late(Program):
        def after(self, changes: Collection[int]) -> Ran:
            ran = super().after(changes)
            late = sum(one != "before" for one in self.runs) > 2
            return msgspec.structs.replace(ran, difference=OTHER) if late else ran

    program = Late([(10.0, 8.0)])
    program.after_ms = [1.95, 1.97, 1.95]
    assert reverted(ask(program, 0.02)) == {0: "wrong"}


def test_where_nothing_is_to_change_one_run_of_each_is_enough_if_they_are_the_very_same() -> None:
    same = Program([])
    assert unlike_before(same) is None
    assert same.runs == ["before", []]

    class Other(Program):
        then = OTHER

        def after(self, changes: Collection[int]) -> Ran:
            return msgspec.structs.replace(super().after(changes), difference=self.then)

    other = Other([])
    assert unlike_before(other) == OTHER.told()
    assert other.runs == ["before", [], [], "before"], "two runs as it is may differ, too"
    assert unlike_before(Other([], spread=[OTHER])) is None
    Other.then = Difference(1e-6, 2e-6, "result", 1e-5)
    assert unlike_before(Other([])) is None, "within rounding"


def test_a_program_without_a_change_that_fails_is_unlike_and_one_that_fails_as_it_is_says_nothing() -> None:
    class Fails(Program):
        def after(self, changes: Collection[int]) -> Ran:
            super().after(changes)
            return Ran(failed="NameError: rows")

    program = Fails([])
    assert unlike_before(program) == "the program fails: NameError: rows"
    assert program.runs == ["before", [], "before"]

    class FailsAlways(Program):
        def before(self) -> Ran:
            self.runs.append("before")
            return Ran(failed="OSError: no such file")

    always = FailsAlways([])
    assert unlike_before(always) is None
    assert always.runs == ["before"]


def test_runs_as_it_is_for_an_earlier_question_are_not_made_again() -> None:
    earlier = Program([(10.0, 8.0)])
    befores = [earlier.before(), earlier.before()]
    program = Program([(10.0, 8.0)])
    program.runs = ["before", "before"]  # It goes on from there.
    word = last_word(1, program, befores=befores)
    assert program.runs[2:] == [[0], [0], "before"]
    assert (word.right, word.ratio) == (True, 0.5)
    program = Program([])
    assert unlike_before(program, befores=befores) is None
    assert program.runs == [[]]


def test_of_earlier_runs_as_it_is_the_last_one_alone_is_timed_and_all_tell_by_what_results_differ() -> None:
    cold, random = Ran(gives=True, forward_ms=8.0), Difference(0.1, 0.2, "result", 1e-5)
    befores = [cold, Ran(gives=True, forward_ms=2.0, difference=random, launched=(Launched(us=10.0),))]
    word = last_word(1, Program([(10.0, 8.0)], wrong=[0]), least_gain=0.02, befores=befores)
    assert (word.before_ms, word.after_ms) == (2.0, 1.0)
    assert word.right is None, "two runs as it is differ altogether, so that nothing can be called wrong"
