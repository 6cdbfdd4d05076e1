"""What a measured sweep writes into the YAML."""

from __future__ import annotations

from msgspec import structs

from fusetune.core.config import Config
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment
from fusetune.measure.paired import PairResult
from fusetune.store.schema import Entry, GainOver, Times
from fusetune.tune.final import Final, has_baseline
from fusetune.tune.references import Reference, library_row
from fusetune.tune.request import SweepRequest, today


def entry_of(
    request: SweepRequest,
    environment: Environment,
    final: Final,
    aa: PairResult,
    reference: Reference | None,
    run: str,
) -> Entry:
    """What goes into the YAML. A reverted problem stores the reference, with the gain of the best that fell short."""
    kept = final.decision.verdict == "keep"
    judged = final.chosen if kept else final.best
    result = final.over_reference.get(judged, aa)
    over_baseline, over_conservative = _other_gains(final, judged, kept=kept)
    return Entry(
        problem=request.problem,
        before=request.before,
        config=final.chosen,
        evidence="measured",
        verdict=final.decision.verdict,
        reason=final.decision.reason,
        environment=structs.replace(environment, kernel_hash=request.spec.source_hash(final.chosen)),
        run=run,
        date=today(),
        gain=_rounded(result.gain),
        gain_over_baseline=over_baseline,
        gain_over_conservative=over_conservative,
        time_us=_times(request, final, judged, result, kept=kept),
        library=library_row(final.chosen, reference),
    )


def _other_gains(final: Final, judged: Config, *, kept: bool) -> tuple[GainOver | None, GainOver | None]:
    """The gains of the judged config over BASELINE and over the conservative config, where the rule asked for them."""
    if final.baseline == final.reference and not kept:
        return None, None
    over_baseline = final.over_baseline.get(judged)
    over_conservative = final.over_conservative if judged not in {final.conservative, final.baseline} else None
    if final.baseline != final.reference and judged.is_conservative:
        over_conservative = None  # Held against BASELINE alone: what is here is the gain of another.
    return _gain_over(over_baseline, final.baseline), _gain_over(over_conservative, final.conservative)


def _times(request: SweepRequest, final: Final, judged: Config, result: PairResult, *, kept: bool) -> Times:
    config_us = round(result.config_us if kept else result.baseline_us, 3)
    reference_us = round(result.baseline_us, 3)
    if request.before is None:
        conservative_us = result.baseline_us if final.over_conservative is None else final.over_conservative.baseline_us
        if kept and final.chosen == final.conservative:
            conservative_us = result.config_us
        return Times(baseline=reference_us, conservative=round(conservative_us, 3), config=config_us)
    baseline_us = _baseline_us(final, judged, result)
    if judged.is_conservative:
        safe_us: float | None = result.config_us
    elif final.over_conservative is not None:
        safe_us = final.over_conservative.baseline_us
    else:
        safe_us = baseline_us
    return Times(
        before=reference_us,
        baseline=None if baseline_us is None else round(baseline_us, 3),
        conservative=None if safe_us is None else round(safe_us, 3),
        config=config_us,
    )


def _baseline_us(final: Final, judged: Config, result: PairResult) -> float | None:
    """BASELINE's time where Before is the reference; None where it did not come through."""
    if not has_baseline(final):
        return None
    if judged == final.baseline:
        return result.config_us
    beside = final.over_baseline.get(judged)
    return final.over_reference[final.baseline].config_us if beside is None else beside.baseline_us


def _gain_over(result: PairResult | None, config: Config) -> GainOver | None:
    if result is None:
        return None
    gain = _rounded(result.gain)
    return GainOver(median=gain.median, low=gain.low, high=gain.high, blocks=gain.blocks, config=config)


def _rounded(gain: Gain) -> Gain:
    return Gain(
        median=min(round(gain.median, 4), 0.9999),  # below 1, where rounding would make it just that
        low=round(gain.low, 4),
        high=round(gain.high, 4),
        confidence=gain.confidence,
        min_gain=gain.min_gain,
        blocks=gain.blocks,
    )
