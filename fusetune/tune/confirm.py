"""The final: fresh paired blocks decide which config stays, and a new process has to agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import TIE, Decision, Outcome, choose
from fusetune.errors import MeasurementError, NoisyMachineError
from fusetune.measure.paired import NOISE_LIMIT, PairResult, is_quiet
from fusetune.measure.protocol import Failure
from fusetune.store.journal import Phase
from fusetune.tune.bench import Bench
from fusetune.tune.confirm_before import BEFORE_PAIRS, best_over_before, revalidate_over_before
from fusetune.tune.final import (
    Final,
    failed_again,
    has_baseline,
    lightest_of_fastest,
    nobody_left,
    stays,
    times_over_first,
)
from fusetune.tune.race import RaceResult

LIBRARY_PAIRS = 3
"""Pairs that a library which may win adds: with BASELINE, with the conservative config, and with our choice."""


def control(bench: Bench) -> PairResult:
    """The reference against itself: raises NoisyMachineError where that does not come out as 0 within NOISE_LIMIT.

    So it does where all blocks are throttled: such a run is over, and the next one measures anew.
    """
    name, reference = bench.log.reference_name, bench.reference
    with bench.log.phase("control", f"Timing {name} against itself"):
        result = bench.compare("control", reference, reference, comparisons=1, decided=is_quiet)
    if isinstance(result, Failure) and result.reason == "throttled":
        raise NoisyMachineError(
            f"{name} against itself: {result.detail} and run the command again; nothing was written"
        )
    if isinstance(result, Failure):
        raise MeasurementError(f"{name} could not be timed ({result.reason}: {result.detail}); run the command again")
    if not is_quiet(result.gain):
        raise NoisyMachineError(
            f"{name} against itself shows a gain of {result.gain.median:+.2%} in [{result.gain.low:+.2%}, "
            f"{result.gain.high:+.2%}] after {result.gain.blocks} blocks, where 0 within {NOISE_LIMIT:.1%} is needed; "
            "nothing was written. Stop what else uses this GPU, let it cool, and run the command again"
        )
    return result


def confirm(
    bench: Bench, raced: RaceResult, used: Mapping[Config, tuple[float, ...]], library: Config | None = None
) -> Final:
    """The finalists against one another; then the best against the reference and against the conservative config.

    `used` is what each takes of an SM (plan.resource_use), for choosing among equals. `library` is a library's config
    that may win, the last to be compared.
    """
    entered = [*raced.finalists, raced.conservative, *([raced.baseline] if raced.baseline else [])]
    contenders = [config for config in dict.fromkeys(entered) if config != bench.reference]
    pairs = 1 if bench.before is None else BEFORE_PAIRS
    comparisons = len(contenders) + pairs + (LIBRARY_PAIRS if library else 0)
    finalists = [config for config in raced.finalists if config != bench.reference]
    conservative = [config for config in contenders if config.is_conservative]
    with bench.log.phase("confirm", "Confirming in paired blocks"):
        if bench.before is None:
            ours = _best_of_ours(bench, finalists or conservative, conservative, used, comparisons)
        else:
            ours = best_over_before(bench, finalists or conservative, conservative, used, comparisons)
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
    left = list(finalists)
    while left:
        best = lightest_of_fastest(times_over_first(bench, left, comparisons), used)
        # Whoever failed beside the first is asked again where it is the first that goes.
        left.remove(best)
        over_baseline = bench.compare("confirm", bench.reference, best, comparisons=comparisons)
        if isinstance(over_baseline, Failure):
            continue
        judged = _judged(bench, best, over_baseline, conservative, comparisons)
        if judged is not None:
            return judged
    return nobody_left(bench)


def _judged(
    bench: Bench, best: Config, over_baseline: PairResult, conservative: Sequence[Config], comparisons: int
) -> Final | None:
    """What becomes of the best finalist; None where it fails beside a conservative config."""
    baseline = bench.reference
    results = {best: over_baseline}
    if best.is_conservative:
        decision = choose(over_baseline.outcome, None, over_baseline.outcome)
        return Final(decision, baseline, best, best, results, None, baseline)
    # Of BASELINE and the others with 4 warps and 2 stages, the fastest is the one that the best gains least on.
    safest, over_safest = baseline, over_baseline
    for config in conservative:
        pair = bench.compare("confirm", config, best, comparisons=comparisons)
        if isinstance(pair, Failure):
            return None
        if pair.gain.median < over_safest.gain.median:
            safest, over_safest = config, pair
    safest_over_baseline: Outcome = "revert"
    kept = over_baseline.outcome == over_safest.outcome == "keep"
    # What is no faster than one that does not gain enough does not gain enough either.
    hopeless = over_baseline.outcome == "revert" and over_safest.gain.low >= 0
    if safest != baseline and not kept and not hopeless:
        pair = bench.compare("confirm", baseline, safest, comparisons=comparisons)
        if not isinstance(pair, Failure):
            results[safest], safest_over_baseline = pair, pair.outcome
    decision = choose(over_baseline.outcome, over_safest.outcome, safest_over_baseline)
    return Final(decision, baseline, best, safest, results, over_safest, baseline)


def _library_wins(
    bench: Bench, phase: Phase, ours: Final, library: Config, comparisons: int
) -> tuple[bool, dict[Config, PairResult]]:
    """Whether a library surely gains what any config must, and more than a TIE on what would stay without it."""
    references = (bench.reference, ours.conservative, *([ours.baseline] if has_baseline(ours) else []))
    minimums = dict.fromkeys(references, bench.rule.min_gain)
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
        reference=ours.reference,
        best=library,
        conservative=ours.conservative,
        over_reference={**ours.over_reference, library: results[ours.reference]},
        over_conservative=results[ours.conservative],
        baseline=ours.baseline,
        over_baseline={library: results[ours.baseline]} if has_baseline(ours) else {},
        ours=ours,
    )


def revalidate(bench: Bench, final: Final) -> Final:
    """The same question about the chosen config in a fresh process; its figures replace those of the final.

    Where they do not confirm every gain that the decision rests on, the reference stays: `revalidation_disagrees`. What
    a library does not win after all goes to ours. The caller has prepared the measurer anew, with another seed.
    """
    if final.ours is not None:
        return _revalidate_library(bench, final, final.ours)
    return _ours_again(bench, final, comparisons=0)


def _ours_again(bench: Bench, final: Final, *, comparisons: int) -> Final:
    """`comparisons` others share the error budget."""
    if bench.before is not None:
        return revalidate_over_before(bench, final, comparisons)
    return _revalidate_ours(bench, final, comparisons)


def _revalidate_library(bench: Bench, final: Final, ours: Final) -> Final:
    comparisons = LIBRARY_PAIRS + 2
    with bench.log.phase("revalidate_library", "Revalidating the library in a new process"):
        wins, results = _library_wins(bench, "revalidate", ours, final.best, comparisons)
    if wins:
        return _with_library(ours, final.best, results)
    if ours.decision.verdict == "keep":
        bench.log.note(f"{final.best.label()} did not win again in a fresh process; {ours.chosen.label()} is next")
        return _ours_again(bench, ours, comparisons=LIBRARY_PAIRS)
    over_reference = {final.best: results[bench.reference]} if bench.reference in results else {}
    return msgspec.structs.replace(
        final,
        decision=stays(bench, "revert", "revalidation_disagrees"),
        over_reference={**final.over_reference, **over_reference},
    )


def _revalidate_ours(bench: Bench, final: Final, comparisons: int) -> Final:
    chosen, baseline = final.chosen, bench.reference
    against_conservative = final.decision.choice == "best" and final.conservative != baseline
    pairs = 2 if against_conservative else 1
    comparisons += pairs
    with bench.log.phase("revalidate", "Revalidating in a new process", pairs) as phase:
        over_baseline = bench.compare("revalidate", baseline, chosen, comparisons=comparisons)
        phase.advance()
        over_conservative: PairResult | Failure | None = None
        if against_conservative:
            over_conservative = bench.compare("revalidate", final.conservative, chosen, comparisons=comparisons)
            phase.advance()
    if isinstance(over_baseline, Failure) or isinstance(over_conservative, Failure):
        return failed_again(bench, final)
    decision, best = final.decision, final.best
    confirmed = over_baseline.outcome == "keep" and (over_conservative is None or over_conservative.outcome == "keep")
    if not confirmed:
        # What did not come through is what was chosen: its figures, not those of a faster one, are the evidence.
        decision, best = stays(bench, "revert", "revalidation_disagrees"), chosen
    if over_conservative is None and final.decision.choice == "best":
        over_conservative = over_baseline  # BASELINE is itself the fastest 4-warp / 2-stage config.
    return msgspec.structs.replace(
        final,
        decision=decision,
        best=best,
        over_reference={**final.over_reference, chosen: over_baseline},
        over_conservative=over_conservative or final.over_conservative,
    )
