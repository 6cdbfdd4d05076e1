"""The final: fresh paired blocks decide which config stays, and a new process has to agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import TIE, Decision, Gain, Outcome, choose
from fusetune.errors import MeasurementError, NoisyMachineError
from fusetune.measure.paired import NOISE_LIMIT, PairResult, is_quiet
from fusetune.measure.protocol import Failure
from fusetune.store.journal import Phase
from fusetune.tune.bench import Bench
from fusetune.tune.final import Final
from fusetune.tune.race import RaceResult

LIBRARY_PAIRS = 3
"""Pairs that a library which may win adds: with BASELINE, with the conservative config, and with our choice."""


def control(bench: Bench) -> PairResult:
    """BASELINE against itself: raises NoisyMachineError where that does not come out as 0 within NOISE_LIMIT.

    So it does where all blocks are throttled: such a run is over, and the next one measures anew.
    """
    with bench.log.phase("control", "Timing BASELINE against itself"):
        result = bench.compare("control", bench.baseline, bench.baseline, comparisons=1, decided=is_quiet)
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


def confirm(
    bench: Bench, raced: RaceResult, used: Mapping[Config, tuple[float, ...]], library: Config | None = None
) -> Final:
    """The finalists against one another; then the best against BASELINE and against the conservative config.

    `used` is what each takes of an SM (plan.resource_use), for choosing among equals. `library` is a library's config
    that may win, the last to be compared.
    """
    baseline = bench.baseline
    contenders = [config for config in dict.fromkeys([*raced.finalists, raced.conservative]) if config != baseline]
    comparisons = len(contenders) + 1 + (LIBRARY_PAIRS if library else 0)
    finalists = [config for config in raced.finalists if config != baseline]
    conservative = [config for config in contenders if config.is_conservative]
    ours = _best_of_ours(bench, finalists or conservative, conservative, used, comparisons)
    if library is None:
        return ours
    with bench.log.phase("confirm_library", "Confirming the library in paired blocks"):
        wins, results = _library_wins(bench, "confirm", ours, library, comparisons)
    return _with_library(ours, library, results) if wins else ours


def _best_of_ours(
    bench: Bench,
    finalists: Sequence[Config],
    conservative: Sequence[Config],
    used: Mapping[Config, tuple[float, ...]],
    comparisons: int,
) -> Final:
    """The best finalist with the pairs that judge it; where it fails after all, the next best takes its place.

    Choosing it and judging it are done on different blocks, so that the judgement is no better for the choice.
    """
    with bench.log.phase("confirm", "Confirming in paired blocks"):
        left = list(finalists)
        while left:
            best = lightest_of_fastest(_times_over_first(bench, left, comparisons), used)
            # Whoever failed beside the first is asked again where it is the first that goes.
            left.remove(best)
            over_baseline = bench.compare("confirm", bench.baseline, best, comparisons=comparisons)
            if isinstance(over_baseline, Failure):
                continue
            judged = _judged(bench, best, over_baseline, conservative, comparisons)
            if judged is not None:
                return judged
    return Final(Decision("baseline", "revert", "no_candidate_left"), *(bench.baseline,) * 3, {}, None)


def _times_over_first(bench: Bench, finalists: Sequence[Config], comparisons: int) -> dict[Config, float]:
    """Each finalist's time as a share of the first one's, from pairs of the two; without those that fail."""
    first, *others = finalists
    times = {first: 1.0}
    for other in others:
        pair = bench.compare("confirm", first, other, comparisons=comparisons, decided=_tells_ties)
        if not isinstance(pair, Failure):
            times[other] = 1 - pair.gain.median
    return times


def _tells_ties(gain: Gain) -> bool:
    return gain.high - gain.low <= TIE


def _judged(
    bench: Bench, best: Config, over_baseline: PairResult, conservative: Sequence[Config], comparisons: int
) -> Final | None:
    """What becomes of the best finalist; None where it fails beside a conservative config."""
    results = {best: over_baseline}
    if best.is_conservative:
        decision = choose(over_baseline.outcome, None, over_baseline.outcome)
        return Final(decision, bench.baseline, best, best, results, None)
    # Of BASELINE and the others with 4 warps and 2 stages, the fastest is the one that the best gains least on.
    reference, over_reference = bench.baseline, over_baseline
    for config in conservative:
        pair = bench.compare("confirm", config, best, comparisons=comparisons)
        if isinstance(pair, Failure):
            return None
        if pair.gain.median < over_reference.gain.median:
            reference, over_reference = config, pair
    reference_over_baseline: Outcome = "revert"
    kept = over_baseline.outcome == over_reference.outcome == "keep"
    # What is no faster than one that does not gain enough does not gain enough either.
    hopeless = over_baseline.outcome == "revert" and over_reference.gain.low >= 0
    if reference != bench.baseline and not kept and not hopeless:
        pair = bench.compare("confirm", bench.baseline, reference, comparisons=comparisons)
        if not isinstance(pair, Failure):
            results[reference], reference_over_baseline = pair, pair.outcome
    decision = choose(over_baseline.outcome, over_reference.outcome, reference_over_baseline)
    return Final(decision, bench.baseline, best, reference, results, over_reference)


def _library_wins(
    bench: Bench, phase: Phase, ours: Final, library: Config, comparisons: int
) -> tuple[bool, dict[Config, PairResult]]:
    """Whether a library surely gains what any config must, and more than a TIE on what would stay without it."""
    minimums = dict.fromkeys((bench.baseline, ours.conservative), bench.rule.min_gain)
    minimums[ours.chosen] = max(minimums.get(ours.chosen, 0.0), TIE)
    results: dict[Config, PairResult] = {}
    for reference, minimum in minimums.items():
        rule = msgspec.structs.replace(bench.rule, min_gain=minimum)
        result = bench.compare(phase, reference, library, comparisons=comparisons, rule=rule)
        if isinstance(result, Failure):
            return False, results
        results[reference] = result
        if result.outcome != "keep":
            return False, results
    return True, results


def _with_library(ours: Final, library: Config, results: Mapping[Config, PairResult]) -> Final:
    """The final that the library won."""
    return Final(
        decision=Decision("library", "keep", "library_gain_confirmed"),
        baseline=ours.baseline,
        best=library,
        conservative=ours.conservative,
        over_baseline={**ours.over_baseline, library: results[ours.baseline]},
        over_conservative=results[ours.conservative],
        ours=ours,
    )


def lightest_of_fastest(times: Mapping[Config, float], used: Mapping[Config, tuple[float, ...]]) -> Config:
    """The config of the least time; among those within TIE of it, the one that takes least of an SM."""
    fastest = min(times.values())
    equals = [config for config, time in times.items() if time <= fastest * (1 + TIE)]
    # The config itself comes last, so that two that take the same fall the same way in every run.
    return min(equals, key=lambda config: (used[config], config))


def revalidate(bench: Bench, final: Final) -> Final:
    """The same question about the chosen config in a fresh process; its figures replace those of the final.

    Where they do not confirm every gain that the decision rests on, BASELINE stays: `revalidation_disagrees`. What a
    library does not win after all goes to ours. The caller has prepared the measurer anew, with another seed.
    """
    if final.ours is not None:
        return _revalidate_library(bench, final, final.ours)
    return _revalidate_ours(bench, final, comparisons=0)


def _revalidate_library(bench: Bench, final: Final, ours: Final) -> Final:
    comparisons = LIBRARY_PAIRS + 2
    with bench.log.phase("revalidate_library", "Revalidating the library in a new process"):
        wins, results = _library_wins(bench, "revalidate", ours, final.best, comparisons)
    if wins:
        return _with_library(ours, final.best, results)
    if ours.decision.verdict == "keep":
        bench.log.note(f"{final.best.label()} did not win again in a fresh process; {ours.chosen.label()} is next")
        return _revalidate_ours(bench, ours, comparisons=LIBRARY_PAIRS)
    over_baseline = {final.best: results[bench.baseline]} if bench.baseline in results else {}
    return msgspec.structs.replace(
        final,
        decision=Decision("baseline", "revert", "revalidation_disagrees"),
        over_baseline={**final.over_baseline, **over_baseline},
    )


def _revalidate_ours(bench: Bench, final: Final, *, comparisons: int) -> Final:
    """`comparisons` others share the error budget."""
    chosen = final.chosen
    against_conservative = final.decision.choice == "best" and final.conservative != bench.baseline
    pairs = 2 if against_conservative else 1
    comparisons += pairs
    with bench.log.phase("revalidate", "Revalidating in a new process", pairs) as phase:
        over_baseline = bench.compare("revalidate", bench.baseline, chosen, comparisons=comparisons)
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
        baseline=final.baseline,
        best=best,
        conservative=final.conservative,
        over_baseline={**final.over_baseline, chosen: over_baseline},
        over_conservative=over_conservative or final.over_conservative,
    )
