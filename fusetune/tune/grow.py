"""More candidates where the first ones do well: an op names the neighbours of the best, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from fusetune.core.config import Config
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.store.journal import Growth, Record
from fusetune.tune.log import RunLog
from fusetune.tune.plan import Plan, record_plan
from fusetune.tune.request import SweepRequest

GROWN_MOST = 160
"""So many candidates are added to a sweep at most: some two minutes of compiling on eight cores."""
BEST = 3
"""Neighbours are asked for of so many of the fastest, and of the fastest with 4 warps and 2 stages."""


def rounds_of(records: Iterable[Record]) -> int:
    """How many rounds of growth a recorded run had: `SweepRequest.grow_rounds` of its replay."""
    return max((record.number for record in records if isinstance(record, Growth)), default=0)


def grow(
    request: SweepRequest,
    plan: Plan,
    ratios: Callable[[], Mapping[Config, float]],
    try_more: Callable[[Sequence[Config]], None],
    log: RunLog,
    began: float,
) -> list[Config]:
    """Have the neighbours of the best tried, those of the best of them, and so on; returns all that were added.

    `ratios` are the times of the first round so far, and `try_more` compiles, checks and times what is new. It ends
    where the best have no new neighbours, after GROWN_MOST candidates or `request.grow_rounds` rounds, or where
    `request.budget_s` seconds have passed since `began` (time.monotonic); what has begun by then is finished.
    """
    seen = {*plan.configs, *plan.skipped, *plan.rejected, *plan.references}
    asked: set[Config] = set()
    added: list[Config] = []
    number = 0
    while len(added) < GROWN_MOST and not _is_over(request, number, began):
        around = [config for config in best_of(ratios()) if config not in asked]
        asked.update(around)
        new = _new(request, plan.target, around, seen)[: GROWN_MOST - len(added)]
        if not new:
            break
        seen.update(new)
        number += 1
        passed, rejected = _let_through(request, plan.target, new)
        record_plan(passed, rejected, log)
        log.journal.write(Growth(number, tuple(log.id_of(config) for config in around), len(new)))
        added += new
        if passed:
            try_more(passed)
    return added


def best_of(ratios: Mapping[Config, float]) -> list[Config]:
    """The fastest, and the fastest with 4 warps and 2 stages; of equals in a fixed order."""
    order = sorted(ratios, key=lambda config: (ratios[config], config))
    conservative = [config for config in order if config.is_conservative]
    return list(dict.fromkeys((*order[:BEST], *conservative[:1])))


def _is_over(request: SweepRequest, number: int, began: float) -> bool:
    if request.space in {"rules", "seed"}:  # Spaces that are chosen to be small.
        return True
    if request.grow_rounds is not None and number >= request.grow_rounds:
        return True
    return request.budget_s is not None and time.monotonic() - began >= request.budget_s


def _new(request: SweepRequest, target: Target, around: Sequence[Config], seen: set[Config]) -> list[Config]:
    """The neighbours that are none of those `seen`, in turns of those whose they are: a cut takes from all alike."""
    lists = [request.spec.neighbours(request.problem, config, target) for config in around]
    longest = max(map(len, lists), default=0)
    turns = (found[place] for place in range(longest) for found in lists if place < len(found))
    return [config for config in dict.fromkeys(turns) if config not in seen]


def _let_through(
    request: SweepRequest, target: Target, new: Sequence[Config]
) -> tuple[list[Config], dict[Config, Rejection]]:
    told = {config: request.spec.reject(config, request.problem, target) for config in new}
    rejected = {config: why for config, why in told.items() if why is not None}
    return [config for config in new if config not in rejected], rejected
