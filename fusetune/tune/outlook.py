"""Which candidates can still win, by what was measured of others: the rest need not be compiled.

The cost model's predictions order the candidates. How far it errs here is seen as soon as some are measured, and errs
alike for launches of one kind (`KernelSpec.signature`), differently for others. So a few of each kind are compiled
first, the pilots. From then on a line through the errors of a kind tells what to expect of those that wait, and how
surely. They are dropped where the chances to win of all that are dropped of a kind, added up, come to CHANCE at most.
Of twins (`KernelSpec.twins`) the best predicted goes first, and its error is what to expect of the others.

The 4-warp / 2-stage candidates are held against the fastest of their own, since that one is a reference.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from fusetune.core.config import Config
from fusetune.core.space import Rejection
from fusetune.core.stats import chance_below, chances_below
from fusetune.ops.spec import KernelSpec

FIRST: Final = 32
"""So many of the best predicted are compiled in any case.

This and the figures below are chosen by replays of measured sweeps, and of the same ones with predictions made worse at
random (`python benchmarks/early_stop.py`)."""
FIRST_CONSERVATIVE: Final = 24
"""As many of the best predicted with 4 warps and 2 stages."""
FIRST_OF_KIND: Final = 6
"""Of each kind of launches, beside its 4-warp / 2-stage ones, of which it is FIRST_OF_KIND_CONSERVATIVE."""
FIRST_OF_KIND_CONSERVATIVE: Final = 4
SPREAD: Final = 12
"""So many more lie evenly among the rest: those that are predicted best are more often flattered than others."""
LATE: Final = 0.1
"""This share of the pilots may still be at the compiler, which takes some of them very long, when others are judged."""
CHANCE: Final = 0.1
"""How many winners may be expected among all that are dropped of one kind."""
EQUAL: Final = 0.01
"""Who is no more than this faster does not win: finalists that are so near are equals."""
LEAST_SPREAD: Final = 0.03
"""The cost model is not taken to err by less, one standard deviation, however well a few samples fit."""
TWIN_SPREAD: Final = 0.03
"""What the errors of twins are taken to differ by, as if TWIN_FREEDOM pairs of this run had shown it.

In 128 sweeps on an H200 or an H100 it was 0.017 in the median, and 0.1 at worst."""
TWIN_FREEDOM: Final = 6
LEAST_MEASURED: Final = 4
"""Nothing is said of a kind of which fewer were measured."""
AGAIN: Final = 4
"""It is looked at again after so many new times."""


class Kinds(NamedTuple):
    """What the cost model may judge differently, and alike: the signature of a config's launches, and its twins."""

    of: Callable[[Config], Hashable]
    twins: Callable[[Config], Hashable] = lambda config: config


def kinds_of(spec: KernelSpec, problem: Any) -> Kinds:
    """Those of an op's configs for a problem."""
    return Kinds(partial(spec.signature, problem), partial(spec.twins, problem))


def pilots_of(candidates: Sequence[Config], kinds: Kinds) -> tuple[Config, ...]:
    """What is compiled before anything is dropped, of candidates in the order of their predicted times, in that order.

    Of twins it is one.
    """
    of_twins: dict[Hashable, Config] = {}
    for config in candidates:
        of_twins.setdefault(kinds.twins(config), config)
    order = list(of_twins.values())
    safe = [config for config in order if config.is_conservative]
    chosen = {*order[:FIRST], *safe[:FIRST_CONSERVATIVE]}
    of_kind: defaultdict[tuple[Hashable, bool], list[Config]] = defaultdict(list)
    for config in order:
        of_kind[kinds.of(config), config.is_conservative].append(config)
    for (_, is_safe), members in of_kind.items():
        chosen.update(members[: FIRST_OF_KIND_CONSERVATIVE if is_safe else FIRST_OF_KIND])
    rest = [config for config in order if config not in chosen and not config.is_conservative]
    chosen.update(rest[:: max(1, len(rest) // SPREAD)])
    return tuple(config for config in order if config in chosen)


class _Measured:
    """How the times compare with the predicted ones: logarithms of the predicted time, and of how far that was off."""

    def __init__(self, predicted: Mapping[Config, float], times: Mapping[Config, float], kinds: Kinds) -> None:
        self.of_kind: defaultdict[Hashable, list[tuple[float, float]]] = defaultdict(list)
        self.of_twins: defaultdict[Hashable, list[float]] = defaultdict(list)
        for config, time in times.items():
            log = math.log(predicted[config])
            error = math.log(time) - log
            self.of_kind[kinds.of(config)].append((log, error))
            self.of_twins[kinds.twins(config)].append(error)
        groups = [errors for errors in self.of_twins.values() if len(errors) > 1]
        squares = sum(statistics.variance(errors) * (len(errors) - 1) for errors in groups)
        self.twin_freedom = TWIN_FREEDOM + sum(len(errors) - 1 for errors in groups)
        self.twin_spread = math.sqrt((TWIN_FREEDOM * TWIN_SPREAD**2 + squares) / self.twin_freedom)

    def chance_of_twin(self, errors: Sequence[float], needed: float) -> float:
        """The chance that a config's error is below what it needs, by those of its twins."""
        spread = self.twin_spread * math.sqrt(1 + 1 / len(errors))
        return chance_below(needed, statistics.fmean(errors), spread, self.twin_freedom)


class Outlook:
    """Tells which of those that wait can win no more; nothing without `pilots`, and never one of these or of `never`.

    `predicted` are the predicted times of all that are planned, from before they were compiled.
    """

    def __init__(
        self,
        predicted: Mapping[Config, float],
        pilots: Collection[Config],
        kinds: Kinds,
        never: Collection[Config | None] = (),
    ) -> None:
        self._predicted, self._pilots, self._kinds = predicted, frozenset(pilots), kinds
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
        measured = _Measured(self._predicted, known, self._kinds)
        groups: defaultdict[tuple[Hashable, bool], list[Config]] = defaultdict(list)
        for config in waiting:
            if config not in self._never:
                groups[self._kinds.of(config), config.is_conservative].append(config)
        dropped: dict[Config, Rejection] = {}
        for (kind, is_safe), members in groups.items():
            best = min((time for config, time in known.items() if config.is_conservative or not is_safe), default=None)
            if best is not None and len(measured.of_kind[kind]) >= LEAST_MEASURED:
                dropped |= self._of_kind(members, measured, measured.of_kind[kind], best)
        return dropped

    def _of_kind(
        self, members: Sequence[Config], measured: _Measured, of_kind: Sequence[tuple[float, float]], best: float
    ) -> dict[Config, Rejection]:
        """As many of a kind as have together no more than CHANCE, the least likely first."""
        goal = math.log(best * (1 - EQUAL))
        logs = [math.log(self._predicted[config]) for config in members]
        chances = chances_below(of_kind, [(log, goal - log) for log in logs], least_spread=LEAST_SPREAD)
        judged: list[tuple[float, Config, str]] = []
        for config, log, by_kind in zip(members, logs, chances, strict=True):
            twins = measured.of_twins.get(self._kinds.twins(config), [])
            chance = measured.chance_of_twin(twins, goal - log) if twins else by_kind
            others = f"{len(twins)} of nearly the same" if twins else f"{len(of_kind)} others of its kind"
            judged.append((chance, config, f"its chance to win is {chance:.1g}, by {others} that were timed"))
        dropped: dict[Config, Rejection] = {}
        together = 0.0
        for chance, config, told in sorted(judged):
            together += chance
            if together > CHANCE:
                break
            dropped[config] = Rejection("cannot_win", told)
        return dropped
