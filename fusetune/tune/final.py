"""What the final of a sweep came to, and what its two rules have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import TIE, Decision, Gain, Outcome, Reason
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import Failure
from fusetune.tune.bench import Bench


class Final(msgspec.Struct, frozen=True):
    """Every pair that was compared and what follows from it.

    `reference` is what all are held against: Before, or else BASELINE itself. `best` and `conservative` may be the same
    config; `over_conservative` is None then. `over_baseline` holds what was compared with BASELINE where that is not
    the reference. Where a library was chosen it is `best`, and `ours` is what would stay without it.
    """

    decision: Decision
    reference: Config
    best: Config
    conservative: Config
    over_reference: Mapping[Config, PairResult]
    over_conservative: PairResult | None
    baseline: Config
    over_baseline: Mapping[Config, PairResult] = {}
    ours: Final | None = None

    @property
    def chosen(self) -> Config:
        """The config that stays."""
        of_choice = {"conservative": self.conservative, "baseline": self.baseline, "before": self.reference}
        return of_choice.get(self.decision.choice, self.best)


def has_baseline(final: Final) -> bool:
    """Whether BASELINE was compared beside a reference that it is not."""
    return final.baseline != final.reference and final.baseline in final.over_reference


def stays(bench: Bench, verdict: Outcome, reason: Reason) -> Decision:
    """The reference stays."""
    return Decision("baseline" if bench.before is None else "before", verdict, reason)


def nobody_left(bench: Bench) -> Final:
    """The final in which every candidate fell."""
    decision = stays(bench, "revert", "no_candidate_left")
    return Final(decision, *(bench.reference,) * 3, {}, None, bench.baseline)


def failed_again(bench: Bench, final: Final) -> Final:
    """The final whose choice failed in a fresh process."""
    bench.log.note(f"{final.chosen.label()} failed in a fresh process; {bench.log.reference_name} stays")
    disagrees = stays(bench, "revert", "revalidation_disagrees")
    return msgspec.structs.replace(final, decision=disagrees, best=final.chosen)


def times_over_first(bench: Bench, finalists: Sequence[Config], comparisons: int) -> dict[Config, float]:
    """Each finalist's time as a share of the first one's, from pairs of the two; without those that fail."""
    first, *others = finalists
    times = {first: 1.0}
    for other in others:
        pair = bench.compare("confirm", first, other, comparisons=comparisons, decided=_tells_ties)
        if not isinstance(pair, Failure):
            times[other] = 1 - pair.gain.median
    return times


def _tells_ties(gain: Gain) -> bool:
    """Whether it is known how near the two are, or that the second is no equal of the first, nor of a faster one."""
    return gain.high - gain.low <= TIE or gain.high < -TIE


def lightest_of_fastest(times: Mapping[Config, float], used: Mapping[Config, tuple[float, ...]]) -> Config:
    """The config of the least time; among those within TIE of it, the one that takes least of an SM."""
    fastest = min(times.values())
    equals = [config for config, time in times.items() if time <= fastest * (1 + TIE)]
    # The config itself comes last, so that two that take the same fall the same way in every run.
    return min(equals, key=lambda config: (used[config], config))
