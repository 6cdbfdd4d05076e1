"""Screening: cheap interleaved timings that choose the finalists and are then thrown away."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence

import msgspec

from fusetune.core.config import BASELINE, Config
from fusetune.errors import MeasurementError
from fusetune.measure.protocol import Failure, Measurer
from fusetune.store.journal import Sample
from fusetune.tune.log import RunLog

BASELINE_EVERY = 16
"""BASELINE is timed again after so many candidates: its own times follow the GPU's drift."""
FINALISTS = 3
CONSERVATIVE_KEPT = 3
"""As many 4-warp / 2-stage candidates survive every cut, so that the fastest of them is known at the end."""
HOPELESS = 3.0
"""A candidate whose one launch took so many times the best one's, beyond the launch noise, is not screened."""
LAUNCH_NOISE_US = 100.0
BASELINE_TRIES = 3
"""A candidate may break the worker after its own sample was taken; BASELINE's next sample then fails, and is retried."""


class Round(msgspec.Struct, frozen=True):
    """One stage of the race: how many samples each gets, and how many go on."""

    samples: int
    survivors: int


ROUNDS = (Round(1, 96), Round(2, 24), Round(4, FINALISTS))
"""Successive halving, quartering rather: the fewer are left, the better each is timed."""


class Standing(msgspec.Struct, frozen=True):
    """A candidate's place: its time over BASELINE's beside it, and microseconds at BASELINE's median speed."""

    config: Config
    ratio: float
    time_us: float


class RaceResult(msgspec.Struct, frozen=True):
    """Who goes into the final, and the fastest 4-warp / 2-stage candidate."""

    finalists: tuple[Config, ...]
    conservative: Config
    standings: tuple[Standing, ...]


def race(measurer: Measurer, rough_us: dict[Config, float], rng: random.Random, log: RunLog) -> RaceResult:
    """Screen the checked candidates, given with the rough time of one launch each; BASELINE must be among them.

    Every sample is divided by BASELINE's nearest ones, so that a drift of the whole GPU falls out. A candidate that
    fails is recorded and out of the race.
    """
    field = _without_hopeless(rough_us)
    ratios: dict[Config, list[float]] = {config: [] for config in field}
    baseline_us: list[float] = []
    total = _planned_samples(len(field))
    with log.phase("screen", "Screening", total) as phase:
        for number, stage in enumerate(ROUNDS, start=1):
            for _ in range(stage.samples):
                order = rng.sample(field, len(field))
                _one_pass(measurer, order, number, ratios, baseline_us, log)
                phase.advance(len(order))
                field = [config for config in field if config in ratios]
            field = _survivors(field, ratios, stage.survivors)
    median_us = statistics.median(baseline_us)
    standings = sorted(
        (Standing(config, _score(r), _score(r) * median_us) for config, r in ratios.items() if r),
        key=lambda standing: (-len(ratios[standing.config]), standing.ratio),
    )
    by_ratio = sorted(field, key=lambda config: _score(ratios[config]))
    conservative = next((config for config in by_ratio if config.is_conservative), BASELINE)
    finalists = [config for config in by_ratio if config != BASELINE][:FINALISTS]
    return RaceResult(finalists=tuple(finalists), conservative=conservative, standings=tuple(standings))


def _one_pass(
    measurer: Measurer,
    order: Sequence[Config],
    number: int,
    ratios: dict[Config, list[float]],
    baseline_us: list[float],
    log: RunLog,
) -> None:
    """Time each config once, BASELINE before, between and after; add the ratios."""
    anchors: list[tuple[int, float]] = []
    taken: list[tuple[int, Config, float]] = []
    for index, config in enumerate(order):
        if index % BASELINE_EVERY == 0:
            anchors.append((index, _baseline_sample(measurer, number, log)))
        if config == BASELINE:
            taken.append((index, config, _baseline_sample(measurer, number, log)))
            continue
        time_us = measurer.sample(config)
        if isinstance(time_us, Failure):
            log.candidate(config, "failed", reason=time_us.reason, detail=time_us.detail)
            del ratios[config]
            continue
        log.journal.write(Sample(id=log.id_of(config), round=number, us=round(time_us, 4)))
        taken.append((index, config, time_us))
    anchors.append((len(order), _baseline_sample(measurer, number, log)))
    baseline_us.extend(time_us for _, time_us in anchors)
    for index, config, time_us in taken:
        ratios[config].append(time_us / _interpolated(anchors, index))


def _baseline_sample(measurer: Measurer, number: int, log: RunLog) -> float:
    """One time of BASELINE; raises MeasurementError where it cannot be timed BASELINE_TRIES times in a row."""
    seen = ""
    for _ in range(BASELINE_TRIES):
        time_us = measurer.sample(BASELINE)
        if not isinstance(time_us, Failure):
            log.journal.write(Sample(id=log.id_of(BASELINE), round=number, us=round(time_us, 4)))
            return time_us
        # The worker that a candidate broke is replaced on the next call; BASELINE was checked when it opened.
        seen = f"BASELINE could not be timed ({time_us.reason}: {time_us.detail})"
        log.note(seen)
        measurer.warm_up()
    raise MeasurementError(f"{seen}, {BASELINE_TRIES} times in a row; check the GPU and run the command again")


def _interpolated(anchors: Sequence[tuple[int, float]], index: int) -> float:
    """BASELINE's time at a place in the order, on the line between its two nearest samples."""
    for (left, left_us), (right, right_us) in itertools.pairwise(anchors):
        if left <= index <= right:
            share = (index - left) / (right - left)
            return left_us + share * (right_us - left_us)
    return anchors[-1][1]


def _without_hopeless(rough_us: dict[Config, float]) -> list[Config]:
    best = min(rough_us.values())
    limit = HOPELESS * best + LAUNCH_NOISE_US
    return [config for config, time_us in rough_us.items() if time_us <= limit or config == BASELINE]


def _survivors(field: Sequence[Config], ratios: dict[Config, list[float]], count: int) -> list[Config]:
    ordered = sorted(field, key=lambda config: _score(ratios[config]))
    conservative = [config for config in ordered if config.is_conservative][:CONSERVATIVE_KEPT]
    return list(dict.fromkeys([*ordered[:count], *conservative, BASELINE]))


def _score(ratios: Sequence[float]) -> float:
    return statistics.median(ratios) if ratios else math.inf


def _planned_samples(size: int) -> int:
    total = 0
    for stage in ROUNDS:
        total += stage.samples * size
        size = min(size, stage.survivors + CONSERVATIVE_KEPT + 1)
    return total
