"""Which candidates can still win, by what was measured of others: the rest need not be compiled.

The cost model's predictions order the candidates. How far it errs here is seen as soon as some are measured, and errs
alike for launches of one kind (`KernelSpec.signature`), differently for others. So a few of each kind are compiled
first, the pilots. From then on a line through the errors of a kind tells what to expect of those that wait, and how
surely. They are dropped where the chances to win of all that are dropped of a kind, added up, come to CHANCE at most.

The 4-warp / 2-stage candidates are held against the fastest of their own, since that one is a reference.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

from fusetune.core.config import Config
from fusetune.core.space import Rejection
from fusetune.core.stats import chances_below

FIRST: Final = 40
"""So many of the best predicted are compiled in any case.

This and the figures below are chosen by replays of measured sweeps, and of the same ones with predictions made worse at
random (`python benchmarks/early_stop.py`)."""
FIRST_CONSERVATIVE: Final = 32
"""As many of the best predicted with 4 warps and 2 stages."""
FIRST_OF_KIND: Final = 6
"""Of each kind of launches, beside its 4-warp / 2-stage ones, of which it is FIRST_OF_KIND_CONSERVATIVE."""
FIRST_OF_KIND_CONSERVATIVE: Final = 4
SPREAD: Final = 16
"""So many more lie evenly among the rest: those that are predicted best are more often flattered than others."""
LATE: Final = 0.1
"""This share of the pilots may still be at the compiler, which takes some of them very long, when others are judged."""
CHANCE: Final = 0.05
"""How many winners may be expected among all that are dropped of one kind."""
EQUAL: Final = 0.01
"""Who is no more than this faster does not win: finalists that are so near are equals."""
LEAST_SPREAD: Final = 0.03
"""The cost model is not taken to err by less, one standard deviation, however well a few samples fit."""
LEAST_MEASURED: Final = 4
"""Nothing is said of a kind of which fewer were measured."""
AGAIN: Final = 4
"""It is looked at again after so many new times."""

KindOf = Callable[[Config], Hashable]


def pilots_of(order: Sequence[Config], kind_of: KindOf) -> tuple[Config, ...]:
    """What is compiled before anything is dropped, of candidates in the order of their predicted times, in that order.

    `kind_of` is what tells apart launches that the cost model may judge differently.
    """
    safe = [config for config in order if config.is_conservative]
    chosen = {*order[:FIRST], *safe[:FIRST_CONSERVATIVE]}
    kinds: defaultdict[tuple[Hashable, bool], list[Config]] = defaultdict(list)
    for config in order:
        kinds[kind_of(config), config.is_conservative].append(config)
    for (_, is_safe), members in kinds.items():
        chosen.update(members[: FIRST_OF_KIND_CONSERVATIVE if is_safe else FIRST_OF_KIND])
    rest = [config for config in order if config not in chosen and not config.is_conservative]
    chosen.update(rest[:: max(1, len(rest) // SPREAD)])
    return tuple(config for config in order if config in chosen)


class _Measured(NamedTuple):
    """A candidate's predicted time, and how its time compares with that: the logarithms of both."""

    predicted: float
    error: float


class Outlook:
    """Tells which of those that wait can win no more; nothing without `pilots`, and never one of these or of `never`.

    `predicted` are the predicted times of all that are planned, from before they were compiled.
    """

    def __init__(
        self,
        predicted: Mapping[Config, float],
        pilots: Collection[Config],
        kind_of: KindOf,
        never: Collection[Config | None] = (),
    ) -> None:
        self._predicted, self._pilots, self._kind_of = predicted, frozenset(pilots), kind_of
        self._never = {*pilots, *never}
        self._seen = 0

    def hopeless(
        self, waiting: Collection[Config], times: Callable[[], Mapping[Config, float]], count: int
    ) -> dict[Config, Rejection]:
        """Those of `waiting` that cannot win, with the reason; `times`, of which there are `count`, are in any unit."""
        if not self._pilots or count < self._seen + AGAIN:
            return {}
        if sum(config in self._pilots for config in waiting) > LATE * len(self._pilots):
            return {}
        self._seen = count
        return self._judged([config for config in waiting if config in self._predicted], times())

    def _judged(self, waiting: Sequence[Config], times: Mapping[Config, float]) -> dict[Config, Rejection]:
        known = {config: time for config, time in times.items() if config in self._predicted}
        measured: defaultdict[Hashable, list[_Measured]] = defaultdict(list)
        for config, time in known.items():
            log = math.log(self._predicted[config])
            measured[self._kind_of(config)].append(_Measured(log, math.log(time) - log))
        groups: defaultdict[tuple[Hashable, bool], list[Config]] = defaultdict(list)
        for config in waiting:
            if config not in self._never:
                groups[self._kind_of(config), config.is_conservative].append(config)
        dropped: dict[Config, Rejection] = {}
        for (kind, is_safe), members in groups.items():
            best = min((time for config, time in known.items() if config.is_conservative or not is_safe), default=None)
            if best is not None and len(measured[kind]) >= LEAST_MEASURED:
                dropped |= self._of_kind(members, measured[kind], best)
        return dropped

    def _of_kind(
        self, members: Sequence[Config], measured: Sequence[_Measured], best: float
    ) -> dict[Config, Rejection]:
        """As many of a kind as have together no more than CHANCE, the least likely first."""
        goal = math.log(best * (1 - EQUAL))
        logs = [math.log(self._predicted[config]) for config in members]
        chances = chances_below(measured, [(log, goal - log) for log in logs], least_spread=LEAST_SPREAD)
        dropped: dict[Config, Rejection] = {}
        together = 0.0
        for chance, config in sorted(zip(chances, members, strict=True)):
            together += chance
            if together > CHANCE:
                break
            told = f"its chance to win is {chance:.1g}, by {len(measured)} others of its kind that were timed"
            dropped[config] = Rejection("cannot_win", told)
        return dropped
