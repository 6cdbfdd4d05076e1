"""The last word on what was kept: the program itself, run again in fresh processes, as it is and with new configs."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal, Protocol

import msgspec

from fusetune.capture.again import Ran
from fusetune.capture.results import Difference
from fusetune.core.decision import ROUNDING
from fusetune.tune.program_result import median_of, times_of, unlike_reference, why_not_comparable, wrong_of
from fusetune.units import format_gain

MOST_ALONE: Final = 8
"""Changes that are tried one at a time where the result of all is wrong; beyond, none of them stays."""
NOISE: Final = 0.02
"""Two runs of the same whose times differ by more are each done once more."""
MOST_PAIRS: Final = 5
"""Runs as it is and with the changes, at most, to find out whether the whole gains what it has to."""
Why = Literal["wrong", "slower", "whole"]


class Runner(Protocol):
    """Runs the program in a fresh process."""

    def before(self) -> Ran:
        """As it is; the first one's result is what all later ones are compared with."""

    def after(self, changes: Collection[int]) -> Ran:
        """With the changes of these numbers; `launched` is in their order."""


class Reverted(msgspec.Struct, frozen=True):
    """A change that the program did not bear out, by its number, and why.

    `slower`: its own launches are not faster; `whole`: all of the program together does not gain what it has to.
    """

    change: int
    why: Why
    detail: str


class LastWord(msgspec.Struct, frozen=True, kw_only=True):
    """What the program said of `changes` kept configs.

    `applied` of them reached a launch, `launches` of one call or of the whole script then ran with them; `left` counts
    launches that ran as they are all the same, by reason, and `others` those of the same kernels with arguments that
    were not tuned. `right` is whether the result still is: None where nothing could be compared, and `why` says so.
    `difference` is that of the result to Before's. The times are of the same work as it is and with what is left after
    `reverted`; None where there is none. `failed` says how the program ended as it is, where it did not end well: then
    nothing else is said. `unlike_reference` says how far the program as it is lies off its own reference, where that is
    beyond any rounding. `runs` counts processes.
    """

    changes: int
    applied: int = 0
    launches: int = 0
    left: dict[str, int] = {}
    others: int = 0
    right: bool | None = None
    why: str | None = None
    difference: Difference | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    reverted: tuple[Reverted, ...] = ()
    failed: str | None = None
    unlike_reference: str | None = None
    runs: int = 0

    @property
    def ratio(self) -> float | None:
        """The program's time with the configs over its time before."""
        return None if not self.before_ms or self.after_ms is None else self.after_ms / self.before_ms


def last_word(
    count: int,
    runner: Runner,
    tolerance: float = 0.0,
    *,
    least_gain: float | None = None,
    befores: Sequence[Ran] = (),
) -> LastWord:
    """Ask the program about `count` changes: before, after, after, before, and each once more where it is noisy.

    Where its result is wrong, each change is tried alone, and those go with which it is wrong; where no single one is
    to blame, all of them. Then those go whose launches are not faster, at the median and at best. `tolerance` is what
    results may differ by, as a relative error, beside what their own dtypes and two runs of Before allow. With
    `least_gain` none stays unless the program as a whole is faster by that share, in pairs of runs up to MOST_PAIRS
    where it is not clear. `befores` are runs as it is that were made for earlier questions, the last one just now: that
    is the first of these turns, and all of them say by what results differ.
    """
    return _Asked(count, runner, tolerance, least_gain, befores).answer()


def unlike_before(runner: Runner, tolerance: float = 0.0, befores: Sequence[Ran] = ()) -> str | None:
    """What is wrong with the result where no change is to make any difference; None where nothing is, or can be said.

    One run of each is enough where they give the very same. `befores` as in `last_word`.
    """
    return _Asked(0, runner, tolerance, None, befores).unlike()


class _Asked:
    """The runs of one program so far."""

    def __init__(
        self, count: int, runner: Runner, tolerance: float, least_gain: float | None, befores: Sequence[Ran]
    ) -> None:
        self._count, self._runner, self._tolerance, self._least_gain = count, runner, tolerance, least_gain
        self._left = list(range(count))
        self._befores = list(befores)
        self._earlier = max(len(befores) - 1, 0)
        self._afters: list[Ran] = []
        self._reverted: list[Reverted] = []
        self._runs = 0

    def answer(self) -> LastWord:
        if not self._befores:
            self._before()
        if self._befores[0].failed is not None:
            return LastWord(changes=self._count, failed=self._befores[0].failed, runs=self._runs)
        self._after()
        self._after_again()
        self._before()
        while self._left and (found := self._objections()):
            self._reverted += found
            gone = {one.change for one in found}
            self._left = [number for number in self._left if number not in gone]
            self._afters = []
            if self._left:
                self._after()
                self._after_again()
        return self._told()

    def unlike(self) -> str | None:
        if not self._befores:
            self._before()
        if self._befores[0].failed is not None:
            return None
        self._after()
        if self._gives_the_same():
            return None
        self._after_again()
        if len(self._befores) == 1:
            self._before()
        return self._first_wrong()

    # Runs.

    def _before(self) -> None:
        self._runs += 1
        self._befores.append(self._runner.before())

    def _after(self) -> None:
        self._runs += 1
        self._afters.append(self._runner.after(self._left))

    def _after_again(self) -> None:
        """Once more, unless it failed: one that hangs would take its whole limit again."""
        if self._afters[-1].failed is None:
            self._after()

    def _gives_the_same(self) -> bool:
        found = self._afters[0].difference
        return found is not None and found.is_none() and self._first_wrong() is None

    def _objections(self) -> list[Reverted]:
        """What goes now: whatever makes the result wrong, or else what is not faster."""
        wrong = self._first_wrong()
        if wrong is not None:
            return list(self._to_blame(wrong))
        if self._is_noisy():
            self._after()
            self._before()
        found = self._slower() or self._of_whole()
        wrong = None if found else self._first_wrong()
        return found if wrong is None else list(self._to_blame(wrong))

    def _first_wrong(self) -> str | None:
        return next(
            (told for ran in self._afters if (told := wrong_of(ran, self._befores, self._tolerance)) is not None), None
        )

    def _slower(self) -> list[Reverted]:
        """The changes whose own launches are not faster."""
        return [
            Reverted(
                number,
                "slower",
                f"{statistics.median(before):.2f} us a launch as it is, {statistics.median(after):.2f} us with it",
            )
            for number, before, after in self._times()
            if _is_slower(before, after)
        ]

    def _of_whole(self) -> list[Reverted]:
        """All changes, where the program with them does not gain what it has to."""
        least = self._least_gain
        if least is None:
            return []
        while len(self._afters) < MOST_PAIRS and self._is_close(1.0 - least):
            self._after()
            self._before()
        before, after = median_of(self._timed_befores()), median_of(self._afters)
        if not before or after is None:
            why = "a time that could not be measured"
        elif after <= (1.0 - least + ROUNDING) * before:
            return []
        else:
            why = f"{before:.3g} ms as it is, {after:.3g} ms with it: {format_gain(1.0 - after / before)}"
        return [Reverted(number, "whole", f"{why}, and it has to gain {least * 100:g} %") for number in self._left]

    def _is_close(self, most: float) -> bool:
        """Whether some runs say that the program takes at most this share of its time before, and others not."""
        before, after = times_of(self._timed_befores()), times_of(self._afters)
        return bool(before and after) and min(after) <= most * max(before) and max(after) > most * min(before)

    def _to_blame(self, wrong: str) -> Iterator[Reverted]:
        if len(self._left) == 1 or len(self._left) > MOST_ALONE:
            yield from (Reverted(number, "wrong", wrong) for number in self._left)
            return
        found = []
        for number in self._left:
            self._runs += 1
            told = wrong_of(self._runner.after([number]), self._befores, self._tolerance)
            if told is not None:
                found.append(Reverted(number, "wrong", told))
        together = f"with all of them, and with none alone: {wrong}"
        yield from found or (Reverted(number, "wrong", together) for number in self._left)

    # Times.

    def _timed_befores(self) -> list[Ran]:
        """Those of these turns."""
        return self._befores[self._earlier :]

    def _is_noisy(self) -> bool:
        arms = [times_of(arm) for arm in (self._timed_befores(), self._afters)]
        if any(len(arm) > 1 and max(arm) > (1 + NOISE) * min(arm) for arm in arms):
            return True
        return any(max(after) >= min(before) for _, before, after in self._times())

    def _times(self) -> Iterator[tuple[int, list[float], list[float]]]:
        """Of each change that reached a launch: the microseconds of one in runs as it is, and with it."""
        for place, number in enumerate(self._left):
            before = [us for ran in self._timed_befores() if (us := ran.launched[number].us) is not None]
            with_it = [ran.launched[place] for ran in self._afters]
            after = [one.us for one in with_it if one.us is not None and one.applied]
            if before and after:
                yield number, before, after

    # The answer.

    def _told(self) -> LastWord:
        before_ms = median_of(self._timed_befores())
        if not self._left:
            return LastWord(
                changes=self._count,
                before_ms=before_ms,
                after_ms=before_ms,
                reverted=tuple(self._reverted),
                why="none of them stays",
                unlike_reference=unlike_reference(self._befores),
                runs=self._runs,
            )
        last = self._afters[-1]
        left: dict[str, int] = {}
        for one in last.launched:
            for why, count in one.left.items():
                left[why] = left.get(why, 0) + count
        not_comparable = why_not_comparable(self._befores)
        return LastWord(
            changes=self._count,
            applied=sum(one.applied > 0 for one in last.launched),
            launches=sum(one.applied for one in last.launched),
            left=left,
            others=last.others,
            right=True if not_comparable is None else None,
            why=not_comparable,
            difference=last.difference,
            before_ms=before_ms,
            after_ms=median_of(self._afters),
            reverted=tuple(self._reverted),
            unlike_reference=unlike_reference(self._befores),
            runs=self._runs,
        )


def _is_slower(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether runs say that a change gains nothing: in the middle and at their best, which no disturbance shortens.

    A process gives one time, and a small gain lies within its noise: one of the two alone would take back what paired
    blocks have shown.
    """
    return statistics.median(after) >= statistics.median(before) and min(after) >= min(before)
