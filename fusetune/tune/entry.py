"""What a measured sweep writes into the YAML."""

from __future__ import annotations

from msgspec import structs

from fusetune.core.decision import Gain
from fusetune.core.environment import Environment
from fusetune.measure.paired import PairResult
from fusetune.store.schema import ConservativeGain, Entry, Times
from fusetune.tune.final import Final
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
    """What goes into the YAML. A reverted problem stores BASELINE, with the gain of the best that was not enough."""
    judged = final.best if final.decision.choice == "baseline" else final.chosen
    result = final.over_baseline.get(judged, aa)
    kept = final.decision.choice != "baseline"
    conservative_us = result.baseline_us if final.over_conservative is None else final.over_conservative.baseline_us
    if kept and final.chosen == final.conservative:
        conservative_us = result.config_us
    over_conservative = _conservative_gain(final) if kept and final.chosen != final.conservative else None
    return Entry(
        problem=request.problem,
        config=final.chosen,
        evidence="measured",
        verdict=final.decision.verdict,
        reason=final.decision.reason,
        environment=structs.replace(environment, kernel_hash=request.spec.source_hash(final.chosen)),
        run=run,
        date=today(),
        gain=_rounded(result.gain),
        gain_over_conservative=over_conservative,
        time_us=Times(
            baseline=round(result.baseline_us, 3),
            conservative=round(conservative_us, 3),
            config=round(result.config_us if kept else result.baseline_us, 3),
        ),
        library=library_row(final.chosen, reference),
    )


def _conservative_gain(final: Final) -> ConservativeGain | None:
    if final.over_conservative is None:
        return None
    gain = _rounded(final.over_conservative.gain)
    return ConservativeGain(
        median=gain.median, low=gain.low, high=gain.high, blocks=gain.blocks, config=final.conservative
    )


def _rounded(gain: Gain) -> Gain:
    return Gain(
        median=min(round(gain.median, 4), 0.9999),  # below 1, where rounding would make it just that
        low=round(gain.low, 4),
        high=round(gain.high, 4),
        confidence=gain.confidence,
        min_gain=gain.min_gain,
        blocks=gain.blocks,
    )
