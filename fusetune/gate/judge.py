"""One entry, judged by whatever measures: whether its gain is still there, or its kernels are slower than before.

A regression is called one after two measurements that agree, the second in a fresh process with fresh inputs. Noise
is `inconclusive`, whatever the figures look like.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Gain, KeepRule, decide
from fusetune.gate.findings import Status
from fusetune.gate.recording import GateJournal
from fusetune.measure.paired import PairResult, compare, is_quiet
from fusetune.measure.protocol import BY_MACHINE, BlockTimes, Failure, Measurer
from fusetune.store.journal import Phase
from fusetune.store.schema import Entry
from fusetune.units import format_gain, format_interval, format_us

_WRONG = {"wrong_result", "nan"}


class Judgement(msgspec.Struct, frozen=True):
    """What one question came to, in a word and in a sentence, with the figures of its last measurement."""

    status: Status
    detail: str
    result: PairResult | None = None


class Allowance(msgspec.Struct, frozen=True):
    """The seed of the inputs, and the time by which all measurements have to end, as `clock` tells it in seconds."""

    seed: int = 0
    deadline: float | None = None
    clock: Callable[[], float] = time.monotonic

    def of(self, baseline: Config, name: str = "BASELINE") -> Limits:
        """The same for one problem, whose BASELINE, or Before, this is."""
        return Limits(baseline, self.seed, self.deadline, self.clock, name)

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.deadline is not None and self.clock() >= self.deadline


class Limits(msgspec.Struct, frozen=True):
    """Of the measurements of one problem: its BASELINE, or Before, as `name` says, and what an Allowance has."""

    baseline: Config
    seed: int = 0
    deadline: float | None = None
    clock: Callable[[], float] = time.monotonic
    name: str = "BASELINE"

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.deadline is not None and self.clock() >= self.deadline


def judge_gain(measurer: Measurer, entry: Entry, limits: Limits, journal: GateJournal) -> Judgement:
    """Whether the entry's config still gains its minimum over BASELINE, or over Before where the entry has one."""
    assert entry.gain is not None, "the schema gives every measured entry a gain"
    rule = KeepRule(min_gain=entry.gain.min_gain, confidence=entry.gain.confidence)

    def judge(result: PairResult) -> Judgement:
        statuses: dict[str, Status] = {"keep": "holds", "revert": "regression", "inconclusive": "inconclusive"}
        return Judgement(statuses[result.outcome], _told_gain(result), result)

    judgement = _twice(measurer, entry.before or limits.baseline, entry.config, rule, judge, limits, journal)
    if judgement.result is None:
        return judgement
    then = f"{format_gain(entry.gain.median)} when it was kept"
    return msgspec.structs.replace(judgement, detail=f"{judgement.detail}; {then}")


def judge_against(
    measurer: Measurer, config: Config, other: Config, name: str, rule: KeepRule, limits: Limits, journal: GateJournal
) -> Judgement:
    """Whether `config` is slower than `other`, the same config of the revision `name`, by the rule's minimum or more.

    The keep rule itself decides, with this revision in the place of BASELINE: were the other one a candidate, and would
    it be kept, then this one is a regression. A config that the other revision does not support, such as one of a
    variant that came later, is held against nothing; one that fails there is no pass.
    """

    def judge(result: PairResult) -> Judgement:
        gain = result.gain
        told = _told_against(result, name)
        if result.outcome == "keep":
            return Judgement("regression", told, result)
        if result.outcome == "inconclusive":
            return Judgement("inconclusive", told, result)
        return Judgement("slower" if gain.low > 0 else "holds", told, result)

    def failed(arm: Config, failure: Failure) -> Judgement:
        if arm == other and failure.reason == "unsupported":
            return Judgement("not_gated", f"{name} cannot launch it, so there is nothing to compare: {failure.detail}")
        return _failed(arm, failure)

    return _twice(measurer, config, other, rule, judge, limits, journal, failed)


def _twice(
    measurer: Measurer,
    baseline: Config,
    config: Config,
    rule: KeepRule,
    judge: Callable[[PairResult], Judgement],
    limits: Limits,
    journal: GateJournal,
    failed: Callable[[Config, Failure], Judgement] | None = None,
) -> Judgement:
    """The judgement of one measurement, or of two where the first would be a regression."""
    failed = failed or _failed
    first = _once(measurer, baseline, config, rule, judge, limits, journal, limits.seed, failed)
    if first.status != "regression":
        return first
    if limits.over:
        return msgspec.structs.replace(
            first, status="inconclusive", detail=f"{first.detail}; no time was left to confirm it"
        )
    second = _once(measurer, baseline, config, rule, judge, limits, journal, limits.seed + 1, failed)
    if second.status == "regression":
        return msgspec.structs.replace(second, detail=f"{second.detail}; a measurement before said so too")
    if second.status == "wrong_result":
        return second
    return msgspec.structs.replace(
        second,
        status="inconclusive",
        detail=f"{first.detail}; a fresh measurement does not confirm that: {second.detail}",
    )


def _once(
    measurer: Measurer,
    baseline: Config,
    config: Config,
    rule: KeepRule,
    judge: Callable[[PairResult], Judgement],
    limits: Limits,
    journal: GateJournal,
    seed: int,
    failed: Callable[[Config, Failure], Judgement],
) -> Judgement:
    rng = random.Random(seed)
    journal.sampling(measurer.prepare(seed), seed)
    for arm in dict.fromkeys((baseline, config)):
        if arm == limits.baseline:
            continue  # `prepare` has checked it.
        checked = measurer.check(arm)
        journal.checked(arm, checked)
        if isinstance(checked, Failure):
            return failed(arm, checked)
    measurer.warm_up()

    def pair(phase: Phase, one: Config, two: Config, decided: Callable[[Gain], bool]) -> PairResult | Failure:
        def record(times: BlockTimes) -> None:
            journal.block(phase, one, two, times)

        found = compare(
            measurer,
            one,
            two,
            rule,
            comparisons=1,
            rng=rng,
            on_block=record,
            decided=lambda gain: decided(gain) or limits.over,
        )
        if isinstance(found, PairResult):
            journal.compared(phase, one, two, found)
        elif found.reason != "throttled":
            journal.checked(two, found)
        return found

    # What is compared decides what has to be quiet: an arm against itself, in the order and the time of the others.
    noise = pair("control", baseline, baseline, is_quiet)
    name = limits.name if baseline == limits.baseline else baseline.label()
    if isinstance(noise, Failure):
        return Judgement("inconclusive", f"this machine is too noisy: {name} against itself shows {noise.detail}")
    if not is_quiet(noise.gain) and limits.over:
        return Judgement("inconclusive", f"no time was left to see how quiet this machine is: {_told_gain(noise)}")
    if not is_quiet(noise.gain):
        told = f"this machine is too noisy: {name} against itself shows {_told_gain(noise)}"
        return Judgement("inconclusive", told)
    result = pair("gate", baseline, config, lambda gain: decide(gain) != "inconclusive")
    if isinstance(result, Failure):
        return failed(config, result)
    return judge(result)


def _failed(_: Config, failure: Failure) -> Judgement:
    """A config that gave no time. Blocks that were all throttled say nothing about it, nor does what others did."""
    status: Status = "regression"
    if failure.reason in _WRONG:
        status = "wrong_result"
    elif failure.reason == "throttled" or failure.reason in BY_MACHINE:
        status = "inconclusive"
    return Judgement(status, f"{failure.reason}: {failure.detail}")


def _told_gain(result: PairResult) -> str:
    gain = result.gain
    return (
        f"gain {format_gain(gain.median)} in {format_interval(gain.low, gain.high)}, {gain.blocks} blocks, "
        f"{gain.min_gain * 100:g} % needed, {format_us(result.baseline_us)} to {format_us(result.config_us)}"
    )


def _told_against(result: PairResult, name: str) -> str:
    gain = result.gain
    times = f"{format_us(result.baseline_us)}, {format_us(result.config_us)} at {name}"
    interval = f"{format_interval(gain.low, gain.high)}, {gain.blocks} blocks"
    if gain.low > 0:
        return f"slower than at {name}, which gains {format_gain(gain.median)} in {interval} ({times})"
    if gain.high < 0:
        return f"faster than at {name}, which gains {format_gain(gain.median)} in {interval} ({times})"
    return f"as fast as at {name}, which gains {format_gain(gain.median)} in {interval} ({times})"
