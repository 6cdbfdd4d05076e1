"""Values that only the source can vary: a few trials each, and each is a run of the whole program.

What a launch alone shows in microseconds takes seconds here, so that little is tried: what is proposed, twice a value,
and again twice while that is faster, else half of it. What is best then has to be borne out by fresh runs, in turns
with the program as it is.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from fusetune.capture.again import Ran
from fusetune.core.decision import Gain, KeepRule, decide, gain, summarize
from fusetune.tune.program_result import median_of, why_not_comparable, wrong_of
from fusetune.units import format_gain

PAIRS: Final = 6
"""Runs with the best values beside runs as it is: the fewest of which the exact interval of a median says anything at
95 %, and then it is all of them."""
MOST_STEPS: Final = 4
"""Trials of a value in one direction."""
LEAST_RUNS: Final = 3
"""As it is, twice, and a trial: a budget for fewer is none."""
_NOTHING_TO_COMPARE: Final = "it gives nothing to compare a trial with"
Values = Mapping[int, int]
"""What is tried: values by the number of what has them; all others are as they are."""


class Tried(msgspec.Struct, frozen=True):
    """One value that the program was run with: milliseconds of its work, and what was wrong with it, if anything."""

    value: int
    ms: float | None = None
    wrong: str | None = None


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """What trials came to.

    `tried` has the trials of each, in the order that they were given; `chosen` is what is to be given out, empty where
    nothing is, and `best` what the trials ended with. `gain` is that of `best` in pairs of fresh runs, with the
    milliseconds as it is and with it, None where nothing came so far. `why_not` is why nothing was tried, `not_kept`
    why `best` is not given out. `runs` counts processes.
    """

    tried: tuple[tuple[Tried, ...], ...] = ()
    best: dict[int, int] = {}
    chosen: dict[int, int] = {}
    gain: Gain | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    why_not: str | None = None
    not_kept: str | None = None
    runs: int = 0
    seconds: float = 0.0


def search(
    values: Sequence[int],
    run: Callable[[Values], Ran],
    *,
    budget_s: float,
    min_gain: float,
    tolerance: float = 0.0,
    ends_tell: bool = False,
    proposed: Sequence[Sequence[int]] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Searched:
    """Try other values for those of a program, the first ones first, where `run` runs it with some of them.

    `proposed` has what is to be tried first of each, as what its kernel's own launches were fastest with. No trial
    begins after `budget_s` seconds; what the fresh runs of the best take comes on top. `tolerance` is a relative error
    of the result that is allowed beside what its dtypes allow. Without a result to compare nothing is tried, unless
    `ends_tell`: how the program ends says whether it is right, as that of a test does.
    """
    found = _Search(values, run, budget_s, min_gain, tolerance, clock)
    return found.searched(proposed or [()] * len(values), ends_tell=ends_tell)


class _Search:
    def __init__(
        self,
        values: Sequence[int],
        run: Callable[[Values], Ran],
        budget_s: float,
        min_gain: float,
        tolerance: float,
        clock: Callable[[], float],
    ) -> None:
        self._values, self._asked, self._tolerance = values, run, tolerance
        self._rule = KeepRule(min_gain=min_gain, looks=(PAIRS,))
        self._budget_s = budget_s
        self._clock, self._began = clock, clock()
        self._ends = self._began + budget_s
        self._befores: list[Ran] = []
        self._tried: list[list[Tried]] = [[] for _ in values]
        self._best: dict[int, int] = {}
        self._best_ms = 0.0
        self._runs = 0

    def searched(self, proposed: Sequence[Sequence[int]], *, ends_tell: bool) -> Searched:
        why_not = self._begin(ends_tell=ends_tell)
        if why_not is not None:
            return self._ended(why_not=why_not)
        for number, first in enumerate(proposed):
            for value in first:
                self._is_faster(number, value)
            if not self._walk(number, _twice):
                self._walk(number, _half)
        return self._confirmed() if self._best else self._ended()

    def _begin(self, *, ends_tell: bool) -> str | None:
        """Run it as it is, twice; why nothing can be tried, if so."""
        for _ in range(2):
            self._befores.append(self._run({}))
            failed = self._befores[-1].failed
            if failed is not None:
                return f"it does not end well as it is: {failed}"
            took = self._clock() - self._began
            if len(self._befores) == 1 and LEAST_RUNS * took > self._budget_s:
                return f"one run of it takes {took:.0f} s, and --source-budget is {self._budget_s:g}"
        against = why_not_comparable(self._befores)
        if against is not None and not (ends_tell and not self._befores[0].gives):
            return against if self._befores[0].gives else _NOTHING_TO_COMPARE
        ms = median_of(self._befores)
        if not ms:
            return "its time could not be measured"
        self._best_ms = ms
        return None

    def _walk(self, number: int, step: Callable[[int], int | None]) -> bool:
        """Go on in one direction while that is faster; whether any step of it was."""
        value, found = self._best.get(number, self._values[number]), False
        for _ in range(MOST_STEPS):
            further = step(value)
            if further is None or not self._is_faster(number, further):
                break
            value, found = further, True
        return found

    def _is_faster(self, number: int, value: int) -> bool:
        """Whether a value is right and faster than the best so far, and is that then; False for one that was tried."""
        known = {self._values[number], *(one.value for one in self._tried[number])}
        if value in known or self._clock() >= self._ends:
            return False
        ran = self._run({**self._best, number: value})
        ms, wrong = ran.ms(), wrong_of(ran, self._befores, self._tolerance)
        self._tried[number].append(Tried(value, ms if wrong is None else None, wrong))
        if wrong is not None or ms is None or gain(ms, self._best_ms) < self._rule.min_gain:
            return False
        self._best[number], self._best_ms = value, ms
        return True

    def _confirmed(self) -> Searched:
        """Fresh runs in turns, as it is and with the best and the other way round, until a pair gains too little."""
        pairs: list[tuple[float, float]] = []
        for number in range(PAIRS):
            ran = {}
            for best in (False, True) if number % 2 == 0 else (True, False):
                ran[best] = self._run(self._best if best else {})
            wrong = wrong_of(ran[True], self._befores, self._tolerance)
            before_ms, after_ms = ran[False].ms(), ran[True].ms()
            if wrong is not None:
                return self._ended(pairs, not_kept=f"in a fresh run: {wrong}")
            if not before_ms or not after_ms:
                return self._ended(pairs, not_kept="a fresh run could not be timed")
            pairs.append((before_ms, after_ms))
            if (found := gain(after_ms, before_ms)) < self._rule.min_gain:
                told = f"a pair of fresh runs gains {format_gain(found)}, and each has to gain"
                return self._ended(pairs, not_kept=f"{told} {self._rule.min_gain * 100:g} %")
        return self._ended(pairs)

    def _ended(
        self, pairs: Sequence[tuple[float, float]] = (), *, why_not: str | None = None, not_kept: str | None = None
    ) -> Searched:
        measured = summarize([math.log(after / before) for before, after in pairs], self._rule) if pairs else None
        keeps = not_kept is None and measured is not None and decide(measured) == "keep"
        return Searched(
            tried=tuple(map(tuple, self._tried)),
            best=dict(self._best),
            chosen=dict(self._best) if keeps else {},
            gain=measured,
            before_ms=statistics.median(before for before, _ in pairs) if pairs else None,
            after_ms=statistics.median(after for _, after in pairs) if pairs else None,
            why_not=why_not,
            not_kept=not_kept,
            runs=self._runs,
            seconds=round(self._clock() - self._began, 2),
        )

    def _run(self, values: Values) -> Ran:
        self._runs += 1
        return self._asked(values)


def _twice(value: int) -> int | None:
    return value * 2


def _half(value: int) -> int | None:
    return value // 2 if value % 2 == 0 else None
