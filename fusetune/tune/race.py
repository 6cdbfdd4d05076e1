"""Screening: cheap interleaved timings that choose the finalists and are then thrown away."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec
import numpy

from fusetune.core.config import Config
from fusetune.errors import MeasurementError
from fusetune.measure.protocol import Failure, Measurer
from fusetune.store.journal import Sample
from fusetune.tune.ledger import Taken
from fusetune.tune.log import RunLog

REFERENCE_EVERY = 16
"""The reference, Before or BASELINE, is timed again after so many candidates: its own times follow the GPU's drift."""
FINALISTS = 3
CONSERVATIVE_KEPT = 3
"""As many 4-warp / 2-stage candidates survive every cut, so that the fastest of them is known at the end."""
HOPELESS = 3.0
"""A candidate whose one launch took so many times the best one's, beyond the launch noise, is not screened."""
LAUNCH_NOISE_US = 100.0
REFERENCE_TRIES = 3
"""A candidate may break the worker after its own sample; what then fails is the reference's, and is taken again."""


class Round(msgspec.Struct, frozen=True):
    """One stage of the race: how many samples each gets, and how many go on."""

    samples: int
    survivors: int


ROUNDS = (Round(1, 32), Round(2, 8), Round(4, 4), Round(8, FINALISTS))
"""Successive halving, quartering rather: the fewer are left, the better each is timed. The first is FirstRound's.

So few still find, among 150 simulated candidates of which ten lie within 2 %, one within 1 % of the best in 99 of 100
races (tests/unit/tune/test_race.py).
"""


class Standing(msgspec.Struct, frozen=True):
    """A candidate's place: its time over the reference's beside it, and microseconds at that one's median speed."""

    config: Config
    ratio: float
    time_us: float


class RaceResult(msgspec.Struct, frozen=True):
    """Who goes into the final, and the fastest 4-warp / 2-stage candidate.

    `baseline` is BASELINE where it is not what all are held against, and came through.
    """

    finalists: tuple[Config, ...]
    conservative: Config
    standings: tuple[Standing, ...]
    baseline: Config | None = None


class FirstRound:
    """The first round: one sample of each candidate as it comes from its check, while others still compile.

    The order is that of completion, which the compiler sets and no coin; what it could do to a candidate is the GPU's
    drift, and that is divided out by the reference's neighbours, exactly as in the rounds that `race` runs in random
    order. Samples of `planned` that the run's ledger holds are not taken again.
    """

    def __init__(self, measurer: Measurer, planned: Sequence[Config], log: RunLog) -> None:
        self.rough_us: dict[Config, float] = {}
        self._measurer, self._planned, self._log, self._reference = measurer, planned, log, log.reference
        self._always = {log.reference, log.baseline}
        own, others = log.ledger.samples(1)
        self._have = {config for config, _ in (*own, *others)}
        self._new: list[Taken] = []
        self._taken = 0
        self._waiting: list[Config] = []
        self._failed: set[Config] = set()

    def add(self, config: Config, rough_us: float) -> None:
        """Time a candidate that is right, unless one launch of it took far too long against the best one so far."""
        self.rough_us[config] = rough_us
        if config != self._reference:
            self._waiting.append(config)
        # Not before the reference is in the journal: its samples belong to no candidate until then.
        while self._waiting and self._reference in self.rough_us:
            self._time(self._waiting.pop(0))

    def _time(self, config: Config) -> None:
        if config in self._have or config not in _without_hopeless(self.rough_us, self._always):
            return
        # Does nothing where the GPU has just been timing; while it waited for the compiler it may have slowed down.
        self._measurer.warm_up()
        if self._taken % REFERENCE_EVERY == 0:
            self._time_reference()
        self._taken += 1
        time_us = _candidate_sample(self._measurer, config, 1, self._log)
        if time_us is None:
            self._failed.add(config)
        else:
            self._new.append((config, time_us))

    def _time_reference(self) -> None:
        self._new.append((self._reference, _reference_sample(self._measurer, 1, self._log)))

    def plan_more(self, configs: Sequence[Config]) -> None:
        """Let these come into the round, too."""
        self._planned = (*self._planned, *configs)

    def ratios(self) -> dict[Config, float]:
        """The times so far over the reference's beside them, of those that are in the race; empty where there are none.

        Samples that the ledger holds count, and are written down again by `finish` only.
        """
        own, others = self._log.ledger.samples(1)
        sequence = [taken for taken in (*own, *self._new, *others) if taken[0] in self.rough_us]
        if all(config != self._reference for config, _ in sequence):
            return {}
        found: dict[Config, list[float]] = {}
        for config, ratio in _ratios(sequence, self._reference):
            found.setdefault(config, []).append(ratio)
        in_race = set(_without_hopeless(self.rough_us, self._always)) - self._failed
        return {config: statistics.median(of_config) for config, of_config in found.items() if config in in_race}

    def at_least(self) -> dict[Config, float]:
        """`ratios`, and of those that one launch sufficed to give up on, the least that theirs can be."""
        found = self.ratios()
        if found:
            in_race = set(_without_hopeless(self.rough_us, self._always)) | self._failed
            least = HOPELESS * min(found.values())
            found |= {config: least for config in self.rough_us if config not in in_race}
        return found

    def finish(self) -> tuple[list[Config], list[Taken]]:
        """The field of the race, the reference in it, and all samples of the round, closed by one of the reference."""
        own, others = _taken_over(1, list(self.rough_us), self._log)
        before = [*own, *self._new]
        if (before or not others) and (not before or before[-1][0] != self._reference):
            self._measurer.warm_up()
            self._time_reference()
        hopeful = set(_without_hopeless(self.rough_us, self._always)) - self._failed
        return [config for config in self._planned if config in hopeful], [*own, *self._new, *others]


def race(measurer: Measurer, first: FirstRound, seed: int, log: RunLog) -> RaceResult:
    """Screen the candidates of a first round in which the reference was; it ends here.

    Every sample is divided by the reference's nearest ones, so that a drift of the whole GPU falls out. Samples that
    the run's ledger holds are not taken again. A candidate that fails is recorded and out of the race.
    """
    reference, baseline = log.reference, log.baseline
    always = list(dict.fromkeys((reference, baseline)))
    field, sequence = first.finish()
    # Not before, when a candidate had one sample. From here on it has several, and one that is disturbed is outvoted.
    measurer.open_ahead()
    ratios: dict[Config, list[float]] = {config: [] for config in field}
    reference_us: list[float] = []
    with log.phase("screen", "Screening", _planned_samples(len(field), len(always))) as phase:
        for number, stage in enumerate(ROUNDS, start=1):
            if number > 1:
                own, others = _taken_over(number, field, log)
                sequence = own + others
            for take in range(stage.samples if number > 1 else 0):
                have = Counter(config for config, _ in sequence)
                todo = [config for config in field if config == reference or have[config] <= take]
                phase.advance(len(field) - len(todo))
                order = random.Random(f"{seed}/{number}/{take}").sample(todo, len(todo))
                failed = _one_pass(measurer, order, number, sequence, log, phase.advance)
                field = [config for config in field if config not in failed]
                ratios = {config: r for config, r in ratios.items() if config not in failed}
            for config, ratio in _ratios(sequence, reference):
                ratios.get(config, []).append(ratio)
            reference_us += [time_us for config, time_us in sequence if config == reference]
            field = _survivors(field, ratios, stage.survivors, always)
    by_ratio = sorted(field, key=lambda config: _score(ratios[config]))
    conservative = next((config for config in by_ratio if config.is_conservative), reference)
    finalists = [config for config in by_ratio if config != reference][:FINALISTS]
    standings = _standings(ratios, reference, statistics.median(reference_us))
    return RaceResult(
        finalists=tuple(finalists),
        conservative=conservative,
        standings=tuple(standings),
        baseline=baseline if baseline != reference and baseline in field else None,
    )


def _standings(ratios: Mapping[Config, list[float]], reference: Config, reference_us: float) -> list[Standing]:
    """Who got furthest comes first, and of those the fastest. The reference got as far as any; it has more samples."""
    samples = {config: len(r) for config, r in ratios.items() if r}
    samples[reference] = max((count for config, count in samples.items() if config != reference), default=1)
    scored = (Standing(config, score, score * reference_us) for config in samples for score in [_score(ratios[config])])
    return sorted(scored, key=lambda standing: (-samples[standing.config], standing.ratio))


def _taken_over(number: int, field: Sequence[Config], log: RunLog) -> tuple[list[Taken], list[Taken]]:
    """The field's samples of a round that the ledger holds, own ones and those of other runs, written down again."""
    here = set(field)
    own, others = ([taken for taken in samples if taken[0] in here] for samples in log.ledger.samples(number))
    for config, time_us in others:
        log.journal.write(Sample(id=log.id_of(config), round=number, us=time_us, reused=True))
    return own, others


def _one_pass(
    measurer: Measurer,
    order: Sequence[Config],
    number: int,
    sequence: list[Taken],
    log: RunLog,
    advance: Callable[[], None],
) -> set[Config]:
    """Time each config once, the reference before, between and after; returns those that failed."""
    failed: set[Config] = set()
    reference = log.reference
    others = [config for config in order if config != reference]
    if not others and sequence and sequence[-1][0] == reference:
        return failed  # Taken over whole, down to the reference that closes it.
    for index, config in enumerate(others):
        if index % REFERENCE_EVERY == 0:
            sequence.append((reference, _reference_sample(measurer, number, log)))
        time_us = _candidate_sample(measurer, config, number, log)
        advance()
        if time_us is None:
            failed.add(config)
        else:
            sequence.append((config, time_us))
    sequence.append((reference, _reference_sample(measurer, number, log)))
    return failed


def _candidate_sample(measurer: Measurer, config: Config, number: int, log: RunLog) -> float | None:
    """One time of a candidate; None where it failed, which is then recorded."""
    time_us = measurer.sample(config)
    if isinstance(time_us, Failure):
        log.candidate(config, "failed", reason=time_us.reason, detail=time_us.detail)
        return None
    time_us = round(time_us, 4)
    log.journal.write(Sample(id=log.id_of(config), round=number, us=time_us))
    return time_us


def _reference_sample(measurer: Measurer, number: int, log: RunLog) -> float:
    """One time of the reference; raises MeasurementError where it cannot be timed REFERENCE_TRIES times in a row."""
    seen = ""
    for _ in range(REFERENCE_TRIES):
        time_us = measurer.sample(log.reference)
        if not isinstance(time_us, Failure):
            time_us = round(time_us, 4)
            log.journal.write(Sample(id=log.id_of(log.reference), round=number, us=time_us))
            return time_us
        # The worker that a candidate broke is replaced on the next call; the reference was checked when it opened.
        seen = f"{log.reference_name} could not be timed ({time_us.reason}: {time_us.detail})"
        log.note(seen)
        measurer.warm_up()
    raise MeasurementError(f"{seen}, {REFERENCE_TRIES} times in a row; check the GPU and run the command again")


def _ratios(sequence: Sequence[Taken], reference: Config) -> Iterator[tuple[Config, float]]:
    """Each sample over the reference's time at that place, which lies on the line between its two nearest samples."""
    anchors = [(index, time_us) for index, (config, time_us) in enumerate(sequence) if config == reference]
    places, times = zip(*anchors, strict=True)
    steady = _without_single_outliers(times)
    for index, (config, time_us) in enumerate(sequence):
        yield config, time_us / float(numpy.interp(index, places, steady))


def _without_single_outliers(times: Sequence[float]) -> list[float]:
    """Each time, or where it stands out, the nearer of its neighbours'; what drifts or jumps to stay is left alone.

    One disturbed sample of the reference would flatter all candidates around it, as many as survive the first round.
    Running medians of three with Tukey's rule for the ends (Exploratory Data Analysis, 1977, chapter 7): there, the
    third is what the next two extrapolate to.
    """
    if len(times) < 3:
        return list(times)
    inner = [statistics.median(three) for three in zip(times, times[1:], times[2:], strict=False)]
    nearest, after = (inner[0], inner[-1]), (inner[1:2] or inner, inner[-2:-1] or inner)
    first, last = (
        statistics.median((end, near, 3 * near - 2 * beyond[0]))
        for end, near, beyond in zip((times[0], times[-1]), nearest, after, strict=True)
    )
    return [first, *inner, last]


def _without_hopeless(rough_us: Mapping[Config, float], always: Collection[Config]) -> list[Config]:
    best = min(rough_us.values())
    limit = HOPELESS * best + LAUNCH_NOISE_US
    return [config for config, time_us in rough_us.items() if time_us <= limit or config in always]


def _survivors(
    field: Sequence[Config], ratios: dict[Config, list[float]], count: int, always: Collection[Config]
) -> list[Config]:
    """Who goes on, the best first; `always` those of the field."""
    ordered = sorted(field, key=lambda config: _score(ratios[config]))
    conservative = [config for config in ordered if config.is_conservative][:CONSERVATIVE_KEPT]
    return list(dict.fromkeys([*ordered[:count], *conservative, *(one for one in always if one in field)]))


def _score(ratios: Sequence[float]) -> float:
    return statistics.median(ratios) if ratios else math.inf


def _planned_samples(size: int, always: int) -> int:
    """How many samples the rounds after the first take, at most."""
    total = 0
    for number, stage in enumerate(ROUNDS):
        total += stage.samples * size if number else 0
        size = min(size, stage.survivors + CONSERVATIVE_KEPT + always)
    return total
