"""A decision on one pair: fresh paired blocks until the interval of the gain decides, or the budget is spent."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Gain, KeepRule, Outcome, decide, summarize
from fusetune.measure.protocol import BlockTimes, Failure, Measurer

NOISE_LIMIT = 0.005
"""BASELINE against itself must come out equal within this gain, or nothing can be decided on this machine."""
MAX_DISCARDED_SHARE = 0.5
"""More throttled blocks than this share of the budget, and the pair stays undecided."""


class PairResult(msgspec.Struct, frozen=True):
    """What the blocks of one pair came to; times are medians in microseconds a launch."""

    gain: Gain
    outcome: Outcome
    baseline_us: float
    config_us: float
    discarded_blocks: int


def compare(
    measurer: Measurer,
    baseline: Config,
    config: Config,
    rule: KeepRule,
    *,
    comparisons: int,
    rng: random.Random,
    on_block: Callable[[BlockTimes], None],
    recorded: Sequence[BlockTimes] = (),
    decided: Callable[[Gain], bool] | None = None,
) -> PairResult | Failure:
    """Blocks of `config` against `baseline`, looked at after each of the rule's looks.

    `comparisons` pairs share the rule's error budget. It stops at the first look that decides (or at which `decided`,
    given instead, is true) and otherwise when the looks are used up. Blocks that the measurer discards are taken
    again, up to half the budget. A block that fails ends it with that Failure. `recorded` are the blocks that a killed
    run had already taken of this pair.
    """
    finished = decided or (lambda gain: decide(gain) != "inconclusive")
    blocks = [block for block in recorded if not block.discarded]
    discarded = len(recorded) - len(blocks)
    budget = int(rule.looks[-1] * (1 + MAX_DISCARDED_SHARE))
    result: PairResult | None = None
    for look in rule.looks:
        while len(blocks) < look and len(blocks) + discarded < budget:
            block = measurer.block(baseline, config, config_first=rng.random() < 0.5)
            if isinstance(block, Failure):
                return block
            on_block(block)
            if block.discarded:
                discarded += 1
            else:
                blocks.append(block)
        if not blocks:
            return Failure("throttled", f"all {discarded} blocks were discarded; let the GPU cool down")
        result = _summarized(blocks[:look], discarded, rule, comparisons)
        if finished(result.gain) or len(blocks) < look:
            break
    assert result is not None, "a rule has at least one look"
    return result


def is_quiet(gain: Gain) -> bool:
    """Whether a config against itself came out as equal: the whole interval lies within NOISE_LIMIT of zero."""
    return gain.low >= -NOISE_LIMIT and gain.high <= NOISE_LIMIT


def _summarized(blocks: list[BlockTimes], discarded: int, rule: KeepRule, comparisons: int) -> PairResult:
    gain = summarize([math.log(block.us / block.baseline_us) for block in blocks], rule, comparisons)
    return PairResult(
        gain=gain,
        outcome=decide(gain),
        baseline_us=statistics.median([block.baseline_us for block in blocks]),
        config_us=statistics.median([block.us for block in blocks]),
        discarded_blocks=discarded,
    )
