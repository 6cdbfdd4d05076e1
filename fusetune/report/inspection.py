"""An inspection as text for a terminal, and as what JSON is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fusetune.compiler.facts import KernelFacts
from fusetune.compiler.inspect import Inspection, Row, Suggestion, reason_counts
from fusetune.core.diagnosis import Diagnosis
from fusetune.core.target import Target
from fusetune.core.text import printable, shown
from fusetune.core.values import to_builtins as named_to_builtins
from fusetune.report.wording import plural
from fusetune.units import format_bytes, format_us

_WIDTH = 19
_INSTRUCTION_NAMES = {
    "mma": "mma",
    "wgmma": "wgmma",
    "tcgen05_mma": "tcgen05.mma",
    "ldmatrix": "ldmatrix",
    "stmatrix": "stmatrix",
    "cp_async": "cp.async",
    "tma_load": "TMA loads",
    "tma_store": "TMA stores",
    "global_load": "LDG",
    "global_store": "STG",
    "shared_load": "LDS",
    "shared_store": "STS",
    "local_load": "LDL",
    "local_store": "STL",
    "barrier": "barriers",
    "atomic": "atomics",
}
_ALWAYS_TOLD = ("local_load", "local_store")


def to_text(found: Inspection) -> str:
    """One config for a terminal; every figure with its unit."""
    lines = [
        f"{found.op}  {found.problem.describe()}",
        f"{found.config.label()} compiled for {found.target.name} (sm_{found.target.sm}); nothing was run.",
    ]
    for kernel in found.kernels:
        lines += ["", *_kernel_lines(kernel)]
    lines += ["", *_occupancy_lines(found)]
    lines += _prediction_lines(found)
    if found.rejection is not None:
        lines += ["", _row("a sweep rejects it", f"{found.rejection.reason}: {printable(found.rejection.detail)}")]
    lines += ["", *_rule_lines(found)]
    return "\n".join(lines) + "\n"


def _row(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}} {text}"


def _kernel_lines(kernel: KernelFacts) -> Iterator[str]:
    used = kernel.resources
    yield f"kernel {kernel.name}"
    yield _row("  registers", f"{used.registers} a thread")
    counts = kernel.instructions
    if used.spills or counts.local_load or counts.local_store:
        moved = f"{counts.spill_store_bytes} B stored and {counts.spill_load_bytes} B loaded, once through the code"
        yield _row("  stack", f"{used.stack_bytes} B a thread: it spills, {moved}")
    else:
        yield _row("  stack", "none, no spill")
    shared = f"{format_bytes(used.shared_bytes)} dynamic, {format_bytes(kernel.static_shared_bytes)} static"
    yield _row("  shared memory", shared)
    told = [
        f"{label} {getattr(counts, field)}"
        for field, label in _INSTRUCTION_NAMES.items()
        if getattr(counts, field) or field in _ALWAYS_TOLD
    ]
    yield _row("  instructions", f"{counts.total} in all: " + ", ".join(told))


def _occupancy_lines(found: Inspection) -> Iterator[str]:
    held, target = found.occupancy, found.target
    if held.ctas_per_sm == 0:
        yield _row("occupancy", f"none: not one CTA fits on an SM, for its {held.limiter}")
        return
    yield _row(
        "occupancy",
        f"{held.fraction * 100:.1f} %: {plural(held.ctas_per_sm, 'CTA')} an SM, {held.warps_per_sm} of "
        f"{target.max_warps_per_sm} warps, limited by {held.limiter}",
    )
    grid = " x ".join(str(extent) for extent in found.kernels[found.main].grid)
    yield _row(
        "grid",
        f"{grid} CTAs = {found.waves:.2f} waves of {held.ctas_per_sm * target.sms}; whole waves would keep "
        f"{found.tail_efficiency * 100:.0f} % of the SMs busy",
    )


def _prediction_lines(found: Inspection) -> Iterator[str]:
    if found.estimate is None or found.roofline is None:
        yield _row("predicted", f"nothing: {found.why_no_estimate}")
        return
    guess, walls = found.estimate, found.roofline
    rows = guess.lines(walls.time_us)
    yield from (_row(label, text) for label, text in rows if not label.startswith(" "))
    yield _row(
        "roofline",
        f"{walls.intensity:.0f} FLOP a byte, the ridge is at {walls.ridge:.0f}: {walls.bound}-bound, "
        f"{format_us(walls.time_us)} at least",
    )
    yield _row("predicted", f"{format_us(guess.time_us)}, {walls.time_us / guess.time_us * 100:.0f} % of the roofline")
    yield from (_row(label, text) for label, text in rows if label.startswith(" "))


def _rule_lines(found: Inspection) -> Iterator[str]:
    yield "conditional rules for warps and stages"
    if not found.fired:
        yield "  none fires"
    for rule in found.fired:
        yield f"  {rule.name} ({rule.condition}): {rule.advice}"
    yield (
        f"  {plural(found.staged_loads, 'load')} staged per step of the loop; loads before and after it are not "
        "buffered, so they do not count"
    )
    for suggestion in found.suggestions:
        yield f"  try {_suggested(suggestion)}"
    for sentence in found.contradictions:
        yield f"  against it: {sentence}"


def _suggested(one: Suggestion) -> str:
    if one.resources is None:
        return f"{one.config.label()}: cannot run, {one.why_not}"
    facts = f"{one.resources.registers} registers, {format_bytes(one.resources.shared_bytes)} shared"
    told = f"{one.config.label()}: {facts}"
    if one.resources.spills:
        told += f", spills {one.resources.stack_bytes} bytes of stack a thread"
    elif one.why_not:
        told += f", {one.why_not}"
    return told + (f", predicted {format_us(one.predicted_us)}" if one.predicted_us else "")


def diagnosis_text(answers: Sequence[Diagnosis]) -> str:
    """What a profile says, a sentence a kernel."""
    lines = []
    for answer in shown(tuple(answers)):
        lines += [answer.sentence, *(f"  note: {note}" for note in answer.notes)]
    return "\n".join(lines) + "\n"


def to_builtins(found: Inspection, answers: Sequence[Diagnosis] = ()) -> dict[str, Any]:
    """The same for JSON; the code itself is left out."""
    raw: dict[str, Any] = msgspec.to_builtins(found, enc_hook=named_to_builtins)
    raw["target"] = found.target.name
    raw["label"] = found.config.label()
    for kernel in raw["kernels"]:
        kernel.pop("ptx")
        kernel.pop("sass")
    raw["evidence"] = "predicted"
    raw["roofline"] = found.roofline and {
        **msgspec.to_builtins(found.roofline, enc_hook=named_to_builtins),
        "bound": found.roofline.bound,
        "time_us": found.roofline.time_us,
    }
    if answers:
        raw["profile"] = msgspec.to_builtins(tuple(answers), enc_hook=named_to_builtins)
    return raw


def space_text(rows: Sequence[Row], target: Target, shown: int) -> str:
    """A space as a table: the best predicted, then what was rejected and why."""
    possible = [row for row in rows if row.status != "rejected"]
    compiled = sum(row.status == "compiled" for row in possible)
    lines = [f"{len(rows)} configs for {target.name}: {len(possible)} can run, {compiled} of them compiled."]
    if possible:
        lines += ["", f"{'config':<36} {'predicted':>10} {'registers':>9} {'shared':>10} {'occupancy':>9}  limited by"]
    for row in possible[:shown]:
        if row.resources is not None and row.occupancy is not None:
            facts = f"{row.resources.registers:>9} {format_bytes(row.resources.shared_bytes):>10} "
            facts += f"{row.occupancy.fraction * 100:>7.1f} %  {row.occupancy.limiter}"
        else:
            facts = f"{'not compiled, resources guessed':>30}"
        lines.append(f"{row.config.label():<36} {format_us(row.predicted_us):>10} {facts}")
    if len(possible) > shown:
        lines.append(f"... and {len(possible) - shown} more; --top or --json shows them")
    counts = reason_counts(rows)
    if counts:
        lines += ["", f"{sum(counts.values())} rejected:"]
        for reason, count in counts.items():
            example = next(row for row in rows if row.reason == reason)
            lines.append(
                f"  {count:>5}  {reason:<24} such as {example.config.label()}: {printable(example.detail or '')}"
            )
    return "\n".join(lines) + "\n"


def space_builtins(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same for JSON: every config, with its reason where it was rejected."""
    return [{"label": row.config.label(), **msgspec.to_builtins(row, enc_hook=named_to_builtins)} for row in rows]
