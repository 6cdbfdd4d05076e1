"""The final: fresh paired blocks decide which config stays, and a new process has to agree."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import msgspec

from fusetune.core.config import BASELINE, Config
from fusetune.core.decision import Decision, Gain, KeepRule, choose
from fusetune.core.resources import Resources
from fusetune.errors import MeasurementError, NoisyMachineError
from fusetune.measure.paired import NOISE_LIMIT, PairResult, compare, is_quiet
from fusetune.measure.protocol import BlockTimes, Failure, Measurer
from fusetune.store.journal import Phase
from fusetune.tune.log import RunLog
from fusetune.tune.plan import resource_use
from fusetune.tune.race import RaceResult

TIE = 0.01
"""Finalists whose times differ by less are equals; the one that takes less of an SM wins."""


class Final(msgspec.Struct, frozen=True):
    """Every pair that was compared and what follows from it.

    `best` and `conservative` may be the same config; `over_conservative` is None then.
    """

    decision: Decision
    best: Config
    conservative: Config
    over_baseline: Mapping[Config, PairResult]
    over_conservative: PairResult | None

    @property
    def chosen(self) -> Config:
        """The config that stays."""
        return {"best": self.best, "conservative": self.conservative, "baseline": BASELINE}[self.decision.choice]


class Bench:
    """What every comparison of one run shares: measurer, rule, journal, and the coin that picks a block's lead."""

    def __init__(self, measurer: Measurer, rule: KeepRule, seed: int, log: RunLog) -> None:
        self.measurer, self.rule, self.seed, self.log = measurer, rule, seed, log

    def compare(
        self,
        phase: Phase,
        baseline: Config,
        config: Config,
        *,
        comparisons: int,
        decided: Callable[[Gain], bool] | None = None,
    ) -> PairResult | Failure:
        """Blocks of one pair, each into the journal, and what they came to."""

        def record(times: BlockTimes) -> None:
            self.log.block(phase, baseline, config, times)

        recorded = self.log.ledger.blocks(phase, baseline, config)
        rng = random.Random(f"{self.seed}/{phase}/{baseline}/{config}/{len(recorded)}")
        self.measurer.warm_up()
        result = compare(
            self.measurer,
            baseline,
            config,
            self.rule,
            comparisons=comparisons,
            rng=rng,
            on_block=record,
            recorded=recorded,
            decided=decided,
        )
        if isinstance(result, Failure):
            self.log.candidate(config, "failed", reason=result.reason, detail=result.detail)
        else:
            self.log.comparison(phase, baseline, config, result)
        return result


def control(bench: Bench) -> PairResult:
    """BASELINE against itself: raises NoisyMachineError where that does not come out as 0 within NOISE_LIMIT.

    So it does where all blocks are throttled: such a run is over, and the next one measures anew.
    """
    with bench.log.phase("control", "Timing BASELINE against itself"):
        result = bench.compare("control", BASELINE, BASELINE, comparisons=1, decided=is_quiet)
    if isinstance(result, Failure) and result.reason == "throttled":
        raise NoisyMachineError(
            f"BASELINE against itself: {result.detail} and run the command again; nothing was written"
        )
    if isinstance(result, Failure):
        raise MeasurementError(f"BASELINE could not be timed ({result.reason}: {result.detail}); run the command again")
    if not is_quiet(result.gain):
        raise NoisyMachineError(
            f"BASELINE against itself shows a gain of {result.gain.median:+.2%} in [{result.gain.low:+.2%}, "
            f"{result.gain.high:+.2%}] after {result.gain.blocks} blocks, where 0 within {NOISE_LIMIT:.1%} is needed; "
            "nothing was written. Stop what else uses this GPU, let it cool, and run the command again"
        )
    return result


def confirm(bench: Bench, raced: RaceResult, resources: Mapping[Config, Resources]) -> Final:
    """Every finalist and the conservative config against BASELINE; then the best against the conservative one."""
    contenders = [config for config in dict.fromkeys([*raced.finalists, raced.conservative]) if config != BASELINE]
    comparisons = len(contenders) + 1
    results: dict[Config, PairResult] = {}
    with bench.log.phase("confirm", "Confirming in paired blocks", comparisons) as phase:
        for config in contenders:
            result = bench.compare("confirm", BASELINE, config, comparisons=comparisons)
            if not isinstance(result, Failure):
                results[config] = result
            phase.advance()
        while results:
            best = lightest_of_fastest(results, resources)
            conservative = _fastest_conservative(results)
            over_conservative: PairResult | Failure | None = results[best]
            if best.is_conservative:
                conservative, over_conservative = best, None
            elif conservative != BASELINE:
                over_conservative = bench.compare("confirm", conservative, best, comparisons=comparisons)
            if not isinstance(over_conservative, Failure):
                break
            del results[best]  # It failed after all: the next best takes its place.
        else:
            return Final(Decision("baseline", "revert", "no_candidate_left"), BASELINE, BASELINE, {}, None)
        phase.advance()
    decision = choose(
        best_over_baseline=results[best].outcome,
        best_over_conservative=over_conservative.outcome if over_conservative else None,
        conservative_over_baseline=results[conservative].outcome if conservative in results else "revert",
    )
    return Final(decision, best, conservative, results, over_conservative)


def _fastest_conservative(results: Mapping[Config, PairResult]) -> Config:
    """The 4-warp / 2-stage config with the largest gain over BASELINE; BASELINE, itself one, where none gains."""
    gains = {config: result.gain.median for config, result in results.items() if config.is_conservative}
    return max(gains, key=lambda config: gains[config]) if max(gains.values(), default=0.0) > 0 else BASELINE


def lightest_of_fastest(results: Mapping[Config, PairResult], resources: Mapping[Config, Resources]) -> Config:
    """The config with the largest gain; among those within TIE of its time, the one that takes least of an SM."""
    fastest = min(1 - result.gain.median for result in results.values())
    equals = [config for config, result in results.items() if 1 - result.gain.median <= fastest * (1 + TIE)]
    # The config itself comes last, so that two that take the same fall the same way in every run.
    return min(equals, key=lambda config: (resource_use(config, resources[config]), config))


def revalidate(bench: Bench, final: Final) -> Final:
    """The same question about the chosen config in a fresh process; its figures replace those of the final.

    Where they do not confirm every gain that the decision rests on, BASELINE stays: `revalidation_disagrees`.
    The caller has prepared the measurer anew, with another seed.
    """
    chosen = final.chosen
    against_conservative = final.decision.choice == "best" and final.conservative != BASELINE
    comparisons = 2 if against_conservative else 1
    with bench.log.phase("revalidate", "Revalidating in a new process", comparisons) as phase:
        over_baseline = bench.compare("revalidate", BASELINE, chosen, comparisons=comparisons)
        phase.advance()
        over_conservative: PairResult | Failure | None = None
        if against_conservative:
            over_conservative = bench.compare("revalidate", final.conservative, chosen, comparisons=comparisons)
            phase.advance()
    if isinstance(over_baseline, Failure) or isinstance(over_conservative, Failure):
        bench.log.note(f"{chosen.label()} failed in a fresh process; BASELINE stays")
        disagrees = Decision("baseline", "revert", "revalidation_disagrees")
        return msgspec.structs.replace(final, decision=disagrees, best=chosen)
    decision, best = final.decision, final.best
    confirmed = over_baseline.outcome == "keep" and (over_conservative is None or over_conservative.outcome == "keep")
    if not confirmed:
        # What did not come through is what was chosen: its figures, not those of a faster one, are the evidence.
        decision, best = Decision("baseline", "revert", "revalidation_disagrees"), chosen
    if over_conservative is None and final.decision.choice == "best":
        over_conservative = over_baseline  # BASELINE is itself the fastest 4-warp / 2-stage config.
    return Final(
        decision=decision,
        best=best,
        conservative=final.conservative,
        over_baseline={**final.over_baseline, chosen: over_baseline},
        over_conservative=over_conservative or final.over_conservative,
    )
