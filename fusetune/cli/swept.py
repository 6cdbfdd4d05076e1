"""What a sweep came to: its verdict, or its prediction, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import structs

from fusetune.cli.shown import echo, echo_json, is_json
from fusetune.core.decision import Gain, reason_text
from fusetune.core.text import slugify
from fusetune.units import format_gain, format_interval, format_speedup, format_us

if TYPE_CHECKING:
    from fusetune.core.config import Config
    from fusetune.core.target import Target
    from fusetune.store.schema import GainOver, Library, Times
    from fusetune.tune.request import SweepRequest, SweepResult

SWEEP_VERSION: Final = 1
"""History of the JSON form: 1, the first version."""


class Swept(NamedTuple):
    """One problem that was swept or predicted, what came of it, and the exit code for it."""

    request: SweepRequest
    result: SweepResult
    exit_code: int


class Failed(NamedTuple):
    """One problem of a list, at its place there, that an error ended or that nothing was decided of."""

    place: str
    request: SweepRequest
    exit_code: int
    why: str


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


def tell_document(done: Sequence[Swept], failed: Sequence[Failed], exit_code: int) -> None:
    """Print what was decided as JSON, where that was asked for: times in microseconds, gains as ratios."""
    if not is_json():
        return
    body = {
        "sweep": SWEEP_VERSION,
        "exit_code": exit_code,
        "problems": [_builtins(one) for one in done],
        "failed": [
            {
                "place": one.place,
                "op": one.request.spec.name,
                "problem": one.request.problem.to_builtins(),
                "exit_code": one.exit_code,
                "why": one.why,
            }
            for one in failed
        ],
    }
    echo_json(msgspec.json.format(msgspec.json.encode(body), indent=2).decode())  # It has no infinity: null.


def _builtins(one: Swept) -> dict[str, Any]:
    """In the words that `tune --json` has. A figure that there is not is null."""
    result, entry = one.result, one.result.entry
    library, us = entry.library, "us" if entry.evidence == "measured" else "predicted_us"
    return {
        "op": one.request.spec.name,
        "problem": entry.problem.to_builtins(),
        "gpu": result.target_name,
        "evidence": entry.evidence,
        "verdict": entry.verdict,
        "reason": entry.reason,
        "why": reason_text(entry.reason, entry.before),
        "before": _config(entry.before),
        "chosen": _config(entry.config),
        "label": entry.config.label(),
        **{f"{name}_us": us for name, us in _times(entry.time_us).items()},
        "predicted_us": None if entry.predicted_us is None else _times(entry.predicted_us),
        "gain": _gain(entry.gain),
        "gain_over_baseline": _gain(entry.gain_over_baseline),
        "gain_over_conservative": _gain(entry.gain_over_conservative),
        "library": None if library is None else _library(library),
        "best": [{"config": ranked.config.to_builtins(), us: ranked.time_us} for ranked in result.best],
        "tried": result.tried,
        "failures": dict(result.failures),
        "file": None if result.file is None else str(result.file),
        "kept_instead": None if result.kept_instead is None else _config(result.kept_instead.config),
        "run": result.run,
        "journal": str(result.journal),
    }


def _times(times: Times | None) -> dict[str, float | None]:
    """Microseconds by what they are of: `before` is BASELINE's where nothing else ran."""
    of = {"before": "reference", "baseline": "baseline", "conservative": "conservative", "best": "config"}
    return {name: None if times is None else getattr(times, field) for name, field in of.items()}


def _library(library: Library) -> dict[str, Any]:
    return {"config": _config(library.config), "us": library.us, "gain": structs.asdict(library.gain)}


def _config(config: Config | None) -> dict[str, Any] | None:
    return None if config is None else config.to_builtins()


def _gain(gain: Gain | GainOver | None) -> dict[str, Any] | None:
    """The figures alone: the config that a gain is over stands beside it."""
    return None if gain is None else {name: value for name, value in structs.asdict(gain).items() if name != "config"}
