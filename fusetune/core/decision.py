"""The keep rule: what gain is, what an interval of it proves, and which config stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from fusetune.core.stats import median_interval

Outcome = Literal["keep", "revert", "inconclusive"]
VerdictName = Literal["keep", "revert", "inconclusive", "unverified"]
Evidence = Literal["measured", "predicted"]
Reason = Literal[
    "gain_confirmed",
    "conservative_gain_confirmed",
    "library_gain_confirmed",
    "baseline_gain_confirmed",
    "gain_below_minimum",
    "no_candidate_left",
    "budget_exhausted",
    "revalidation_disagrees",
    "program_result_wrong",
    "program_not_faster",
    "predicted_not_timed",
]

REASON_TEXT: Final[dict[Reason, str]] = {
    "gain_confirmed": "the gain over BASELINE and over the fastest 4-warp / 2-stage config is confirmed",
    "conservative_gain_confirmed": "the fastest 4-warp / 2-stage config gains enough; no other surely adds as much",
    "library_gain_confirmed": "the library is faster than all of ours, and its gain over BASELINE is confirmed",
    "baseline_gain_confirmed": "BASELINE gains enough on what ran before; no other surely adds as much",
    "gain_below_minimum": "no config gains the minimum over every reference that it must beat",
    "no_candidate_left": "no candidate but BASELINE compiled and gave right results",
    "budget_exhausted": "the blocks allowed did not settle it; the safer config stays",
    "revalidation_disagrees": "a fresh process did not confirm the gain",
    "program_result_wrong": "the program's own result was wrong with it",
    "program_not_faster": "in the program itself, run again, its launches were not faster with it",
    "predicted_not_timed": "predicted from compile facts; nothing was timed",
}

_REASON_TEXT_BEFORE: Final[dict[Reason, str]] = {
    "gain_confirmed": "the gain over Before, over BASELINE and over the fastest 4-warp / 2-stage config is confirmed",
    "conservative_gain_confirmed": "the fastest 4-warp / 2-stage config gains enough on Before and BASELINE; no other "
    "surely adds as much",
    "library_gain_confirmed": "the library is faster than all of ours, and its gain over Before is confirmed",
    "no_candidate_left": "no candidate but Before compiled and gave right results",
}
"""Where Before is what everything was held against."""


def reason_text(reason: Reason, before: object | None) -> str:
    """What a reason says, where `before` is the config that ran before, None where that was BASELINE."""
    return (_REASON_TEXT_BEFORE if before is not None else REASON_TEXT).get(reason, REASON_TEXT[reason])


def reference_name(before: object | None) -> str:
    """What people call the config that all are held against: Before, or BASELINE where that was what ran before."""
    return "BASELINE" if before is None else "Before"


LOOKS: Final[tuple[int, ...]] = (25, 50, 100, 200, 400)
"""After how many blocks an interval is looked at; every look spends a share of the error budget."""


# What a file says has to be possible. No NaN is within any bounds.
MinGain = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
MedianGain = Annotated[float, msgspec.Meta(gt=-1e300, lt=1.0)]
"""Below 1, since all that runs takes time."""
LowGain = Annotated[float, msgspec.Meta(le=1.0)]
"""The lower end of an interval, which too few blocks leave at minus infinity."""
HighGain = Annotated[float, msgspec.Meta(gt=-1e300)]
BlockCount = Annotated[int, msgspec.Meta(ge=1)]


class KeepRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a gain must prove: at least `min_gain`, at a total `confidence` over all looks and comparisons."""

    min_gain: MinGain = 0.02
    confidence: Annotated[float, msgspec.Meta(gt=0.5, lt=1.0)] = 0.95
    looks: Annotated[tuple[BlockCount, ...], msgspec.Meta(min_length=1)] = LOOKS

    def look_confidence(self, comparisons: int) -> float:
        """The confidence of one look at one of `comparisons` pairs, so that all together err at most 1 - confidence.

        Bonferroni's inequality: the error budget is split evenly over looks and comparisons.
        """
        shared = 1.0 - (1.0 - self.confidence) / (len(self.looks) * comparisons)
        return min(shared, math.nextafter(1.0, 0.0))  # Not even rounding makes it certain.


class Gain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The median gain of a candidate with its interval, and what the interval rests on."""

    median: MedianGain
    """The share of time that is saved: 0.5 is twice as fast, below 0 is slower."""
    low: LowGain
    """The lower end of the interval of the median."""
    high: HighGain
    """Its upper end."""
    confidence: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]
    """How sure the interval is, over all looks and finalists together."""
    min_gain: MinGain
    """What the lower end has to reach for a keep."""
    blocks: BlockCount
    """How many paired blocks it rests on."""


def gain(time_us: float, baseline_us: float) -> float:
    """`1 - t_candidate / t_baseline`: 0.02 means two percent less time, below 0 a slowdown."""
    return 1.0 - time_us / baseline_us


def gain_from_log_ratio(log_ratio: float) -> float:
    """The gain whose ln(t_candidate / t_baseline) is `log_ratio`."""
    return -math.expm1(log_ratio)


def summarize(log_ratios: Sequence[float], rule: KeepRule, comparisons: int = 1) -> Gain:
    """The median gain of paired blocks with the exact distribution-free interval of the median.

    `log_ratios` are ln(t_candidate / t_baseline), one a block. `confidence` of the result is the rule's total one;
    the interval itself is wider, because looks and comparisons share the error budget.
    """
    interval = median_interval(log_ratios, rule.look_confidence(comparisons))
    return Gain(
        median=gain_from_log_ratio(interval.median),
        low=gain_from_log_ratio(interval.high),
        high=gain_from_log_ratio(interval.low),
        confidence=rule.confidence,
        min_gain=rule.min_gain,
        blocks=len(log_ratios),
    )


def inverted(measured: Gain) -> Gain:
    """The same blocks seen from the other side: the gain of the baseline over the candidate."""
    median, low, high = (gain_over_other(side) for side in (measured.median, measured.high, measured.low))
    return msgspec.structs.replace(measured, median=median, low=low, high=high)


def gain_over_other(gain_of_other: float) -> float:
    """The gain of A over B where B's gain over A is this; nothing bounds it where B took no time at all."""
    return 1.0 - 1.0 / (1.0 - gain_of_other) if gain_of_other < 1.0 else -math.inf


ROUNDING = 1e-12
"""What double arithmetic may take from a gain of exactly the minimum, which is kept."""


def decide(measured: Gain) -> Outcome:
    """Keep when the whole interval is at or above the minimum gain, revert when it is below it, else inconclusive."""
    minimum = measured.min_gain - ROUNDING
    if measured.low >= minimum:
        return "keep"
    if measured.high < minimum:
        return "revert"
    return "inconclusive"


Choice = Literal["best", "conservative", "baseline", "before", "library"]

TIE: Final = 0.01
"""Configs whose times differ by less are equals; the one that takes less of an SM wins, and ours over a library's."""


class Decision(msgspec.Struct, frozen=True):
    """Which of the configs stays, and why."""

    choice: Choice
    verdict: Outcome
    reason: Reason


def choose(
    best_over_baseline: Outcome, best_over_conservative: Outcome | None, conservative_over_baseline: Outcome
) -> Decision:
    """The keep rule over both readings of "the 4-warp / 2-stage baseline".

    A config with other warps or stages stays only if it gains on BASELINE and on the fastest 4-warp / 2-stage
    config; otherwise that one stays if it gains on BASELINE; otherwise BASELINE. `best_over_conservative` is None
    when the best config is itself the conservative one.
    """
    if best_over_conservative is None:
        if conservative_over_baseline == "keep":
            return Decision("conservative", "keep", "gain_confirmed")
    elif best_over_baseline == "keep" and best_over_conservative == "keep":
        return Decision("best", "keep", "gain_confirmed")
    elif conservative_over_baseline == "keep":
        return Decision("conservative", "keep", "conservative_gain_confirmed")
    # One gain below the minimum settles that the best config goes, whatever the other would have come to.
    best_may_gain = "revert" not in {best_over_baseline, best_over_conservative}
    if best_may_gain or conservative_over_baseline == "inconclusive":
        return Decision("baseline", "inconclusive", "budget_exhausted")
    return Decision("baseline", "revert", "gain_below_minimum")


def all_of(*outcomes: Outcome | None) -> Outcome:
    """What several gains come to that are all needed; None is for one that is not."""
    if "revert" in outcomes:
        return "revert"
    return "inconclusive" if "inconclusive" in outcomes else "keep"


def choose_over_before(best: Outcome | None, conservative: Outcome | None, baseline: Outcome | None) -> Decision:
    """The keep rule where another config than BASELINE ran before, Before.

    Each outcome is that of all gains which the config needs (`all_of`): over Before, of every other than BASELINE over
    BASELINE, too, and of the best, where its warps or stages are others, over the fastest 4-warp / 2-stage config. None
    is for a config that could not run, or that is named already: the best may be BASELINE or the conservative one.
    """
    if best == "keep":
        return Decision("best", "keep", "gain_confirmed")
    if conservative == "keep":
        return Decision("conservative", "keep", "conservative_gain_confirmed")
    if baseline == "keep":
        return Decision("baseline", "keep", "baseline_gain_confirmed")
    if "inconclusive" in {best, conservative, baseline}:
        return Decision("before", "inconclusive", "budget_exhausted")
    return Decision("before", "revert", "gain_below_minimum")
