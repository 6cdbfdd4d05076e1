"""What a sweep came to: its verdict, or its prediction, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusetune.cli.shown import echo
from fusetune.core.decision import reason_text
from fusetune.core.text import slugify
from fusetune.units import format_gain, format_interval, format_speedup, format_us

if TYPE_CHECKING:
    from fusetune.core.target import Target
    from fusetune.tune.request import SweepRequest, SweepResult


def print_verdict(result: SweepResult) -> None:
    """What was decided by measuring, and by what figures."""
    entry = result.entry
    assert entry.time_us is not None, "a measured entry has times"
    assert entry.gain is not None, "a measured entry has a gain"
    gain = entry.gain
    interval = format_interval(gain.low, gain.high)
    echo(f"\n{entry.verdict.upper()}: {entry.config.label()}  ({reason_text(entry.reason, entry.before)})")
    if entry.before is not None:
        echo(f"  Before          {format_us(entry.time_us.before)}, {entry.before.label()}")
    echo(f"  BASELINE        {format_us(entry.time_us.baseline)}")
    if entry.verdict == "keep":
        echo(f"  {entry.config.label():<15} {format_us(entry.time_us.config)}")
        echo(
            f"  gain            {format_gain(gain.median)} in {interval} at {gain.confidence * 100:g} %, "
            f"{format_speedup(gain.median)}, {gain.blocks} blocks"
        )
    else:
        needed = f"{gain.min_gain * 100:g} %"
        echo(f"  best candidate  {format_gain(gain.median)} in {interval}, where {needed} is needed")
    beside = entry.gain_over_baseline
    if beside is not None:
        echo(f"  over BASELINE: {format_gain(beside.median)} in {format_interval(beside.low, beside.high)}")
    over = entry.gain_over_conservative
    if over is not None:
        echo(
            f"  over {over.config.label()}, the fastest with 4 warps / 2 stages: {format_gain(over.median)} in "
            f"{format_interval(over.low, over.high)}"
        )
    library = entry.library_text()
    if library is not None:
        echo(f"  {library}")
    echo(f"Wrote {result.file} (run {result.run}, journal {result.journal})")


def print_prediction(result: SweepResult, request: SweepRequest, target: Target) -> None:
    """What comes first without a GPU, by what figures, and that nothing was timed."""
    predicted = result.entry.predicted_us
    assert predicted is not None, "a predicted entry has predicted times"
    if result.has_model:
        echo("\nBest three by the cost model, from the resources of the compiled kernels:")
        of = "predicted"
    else:
        echo(f"\nFirst three by the resources of the compiled kernels; {request.spec.name} has no cost model:")
        of = "by the roofline"
    for place, ranked in enumerate(result.best, start=1):
        echo(f"  {place}. {ranked.config.label():<22} {of} {format_us(ranked.time_us)}")
    if result.entry.before is not None:
        echo(f"     Before {'':<15} {of} {format_us(predicted.before)}")
    echo(f"     BASELINE {'':<13} {of} {format_us(predicted.baseline)}")
    why = "By the keep rule on these predictions" if result.has_model else "Until a GPU has timed them"
    echo(f"{why}: {result.entry.config.label()}")
    if result.file is not None:
        echo(f"Wrote {result.file} (evidence: predicted, verdict: unverified; journal {result.journal})")
    elif result.kept_instead is not None:
        where = request.output / slugify(target.name)
        echo(
            f"{where} already holds a measured entry for this problem, {result.kept_instead.config.label()}; "
            "it stays, and the prediction was not written."
        )
    echo(f"Nothing was timed: run the same command on an {target.name} to measure and verify.")
