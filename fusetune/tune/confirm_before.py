"""The final of a sweep where another config than BASELINE ran before: it has to beat both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Outcome, all_of, choose_over_before
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import Failure
from fusetune.tune.bench import Bench
from fusetune.tune.final import (
    Final,
    failed_again,
    has_baseline,
    lightest_of_fastest,
    nobody_left,
    stays,
    times_over_first,
)

BEFORE_PAIRS = 3
"""Pairs beyond one a contender: where the best is no conservative one, Before is compared with it, with BASELINE and
with the fastest conservative config, and BASELINE with that."""


def best_over_before(
    bench: Bench,
    finalists: Sequence[Config],
    conservative: Sequence[Config],
    used: Mapping[Config, tuple[float, ...]],
    comparisons: int,
) -> Final:
    """The best finalist with the pairs that judge it; where it fails after all, the next best takes its place.

    BASELINE, which is among the conservative ones where it came so far, is compared with Before whatever the others
    are: where it breaks, the rule goes without it. Choosing and judging are done on different blocks.
    """
    over_before: dict[Config, PairResult] = {}
    left, safe = list(finalists), list(conservative)
    if bench.baseline in safe:
        pair = bench.compare("confirm", bench.reference, bench.baseline, comparisons=comparisons)
        if isinstance(pair, Failure):
            bench.log.note(f"BASELINE failed ({pair.reason}: {pair.detail}); the rule goes without it")
            safe.remove(bench.baseline)
            left = [config for config in left if config != bench.baseline]
        else:
            over_before[bench.baseline] = pair
    while left:
        best = lightest_of_fastest(times_over_first(bench, left, comparisons), used)
        left.remove(best)
        pair = over_before.get(best) or bench.compare("confirm", bench.reference, best, comparisons=comparisons)
        if isinstance(pair, Failure):
            continue
        judged = _judged(bench, best, {**over_before, best: pair}, safe, comparisons)
        if judged is not None:
            return judged
    if bench.baseline in over_before:
        return _of_baseline(bench, over_before)
    return nobody_left(bench)


def _of_baseline(bench: Bench, over_before: Mapping[Config, PairResult]) -> Final:
    """The final in which BASELINE is the best."""
    baseline = bench.baseline
    decision = choose_over_before(None, None, over_before[baseline].outcome)
    return Final(decision, bench.reference, baseline, baseline, over_before, None, baseline)


def _judged(
    bench: Bench,
    best: Config,
    over_before: Mapping[Config, PairResult],
    conservative: Sequence[Config],
    comparisons: int,
) -> Final | None:
    """What becomes of the best finalist; None where it fails beside BASELINE or a conservative config."""
    baseline = bench.baseline
    if best == baseline:
        return _of_baseline(bench, over_before)
    results, over_baseline = dict(over_before), dict[Config, PairResult]()
    # A conservative config is held against BASELINE alone, as where BASELINE is all that ran before.
    beside = [config for config in conservative if config == baseline or not best.is_conservative]
    over_safe: dict[Config, PairResult] = {}
    for config in beside:
        pair = bench.compare("confirm", config, best, comparisons=comparisons)
        if isinstance(pair, Failure):
            return None
        over_safe[config] = pair
    if baseline in over_safe:
        over_baseline[best] = over_safe[baseline]
    # The fastest of those with 4 warps and 2 stages is the one that the best gains least on.
    safest = min(over_safe, key=lambda config: over_safe[config].gain.median, default=bench.reference)
    of_best = all_of(
        results[best].outcome, *(over_safe[config].outcome for config in {baseline, safest} & {*over_safe})
    )
    of_safest: Outcome | None = None
    # What is no faster than one that does not gain enough on Before does not gain enough either.
    hopeless = results[best].outcome == "revert" and safest in over_safe and over_safe[safest].gain.low >= 0
    if hopeless:
        of_safest = "revert"
    elif of_best != "keep" and safest in over_safe and safest != baseline:
        of_safest = _safest(bench, safest, results, over_baseline, comparisons)
    decision = choose_over_before(of_best, of_safest, results[baseline].outcome if baseline in results else None)
    return Final(
        decision=decision,
        reference=bench.reference,
        best=best,
        conservative=best if best.is_conservative else safest,
        over_reference=results,
        over_conservative=None if best.is_conservative else over_safe.get(safest),
        baseline=baseline,
        over_baseline=over_baseline,
    )


def _safest(
    bench: Bench,
    safest: Config,
    results: dict[Config, PairResult],
    over_baseline: dict[Config, PairResult],
    comparisons: int,
) -> Outcome | None:
    """What the gains of the fastest conservative config over Before and over BASELINE come to; None where it fails."""
    pair = bench.compare("confirm", bench.reference, safest, comparisons=comparisons)
    if isinstance(pair, Failure):
        return None
    results[safest] = pair
    if bench.baseline not in results:
        return pair.outcome
    beside = bench.compare("confirm", bench.baseline, safest, comparisons=comparisons)
    if isinstance(beside, Failure):
        return None
    over_baseline[safest] = beside
    return all_of(pair.outcome, beside.outcome)


def revalidate_over_before(bench: Bench, final: Final, comparisons: int) -> Final:
    """The gains of the chosen config over Before, BASELINE and the conservative one, as far as it needs them."""
    chosen, baseline = final.chosen, final.baseline
    needed = [bench.reference]
    if has_baseline(final) and chosen != baseline:
        needed.append(baseline)
    if final.decision.choice == "best" and final.over_conservative is not None:
        needed.append(final.conservative)
    needed = list(dict.fromkeys(needed))
    results: dict[Config, PairResult] = {}
    with bench.log.phase("revalidate", "Revalidating in a new process", len(needed)) as phase:
        for reference in needed:
            pair = bench.compare("revalidate", reference, chosen, comparisons=comparisons + len(needed))
            phase.advance()
            if isinstance(pair, Failure):
                return failed_again(bench, final)
            results[reference] = pair
    decision, best = final.decision, final.best
    if all_of(*(pair.outcome for pair in results.values())) != "keep":
        decision, best = stays(bench, "revert", "revalidation_disagrees"), chosen
    over_baseline = {chosen: results[baseline]} if baseline in results else {}
    return msgspec.structs.replace(
        final,
        decision=decision,
        best=best,
        over_reference={**final.over_reference, chosen: results[bench.reference]},
        over_conservative=final.over_conservative and results.get(final.conservative, final.over_conservative),
        over_baseline={**final.over_baseline, **over_baseline},
    )
