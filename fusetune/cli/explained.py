"""Why a prediction proposes what it does, as text for a terminal, and as what JSON is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fusetune.core.diagnosis import Diagnosis
from fusetune.core.roofline import Roofline
from fusetune.core.text import printable, shown
from fusetune.core.values import to_builtins as named_to_builtins
from fusetune.report.wording import plural
from fusetune.tune.explained import Compiled, Explanation
from fusetune.units import format_bytes, format_us

_HEADINGS = ("config", "registers", "shared", "spills", "CTAs/SM", "occupancy", "limited by")
_LEAST_US = 0.01
"""A shorter time is told as that: each launch takes far more."""
NOTHING_TO_TRY = "nothing: 4 warps / 2 stages are the same code as what runs, and no rule asks for another"
_FIGURES = frozenset({"registers", "shared", "spills", "CTAs/SM", "occupancy"})


def to_lines(name: str, sizes: str, found: Explanation) -> list[str]:
    """One case for a terminal, every figure with its unit."""
    found = shown(found)
    lines = [printable(f"{name}  {sizes}"), *_profile_lines(found)]
    lines.append(f"  {found.bound.name}: {found.bound.why}")
    lines += [f"  {row}" for row in _table(found.configs)]
    lines += _rule_lines(found)
    proposed = [one for one in found.configs if one.proposed is not None]
    lines.append(f"  to try on a GPU (evidence: predicted):{'' if proposed else f' {NOTHING_TO_TRY}'}")
    for one in proposed:
        why_not = f"; but it cannot be used: {one.why_not}" if one.why_not else ""
        lines.append(f"    {_called(one)}: {one.proposed}{why_not}")
    lines.append(f"  {time_text(found.walls, found.target)}")
    return lines


def reasons(found: Explanation) -> Iterator[str]:
    """Why a prediction proposes what it does, as sentences without figures of the compiler, as for a module's top."""
    found = shown(found)
    if found.profile is not None:
        yield f"By the profile: {found.profile.sentence}"
    else:
        yield f"{found.bound.name}: {found.bound.why}"
    for rule in found.fired:
        yield f"Rule: {rule.name} ({rule.condition}): {rule.advice}"
    yield from found.left_out
    if not any(one.proposed is not None for one in found.configs):
        yield f"To try: {NOTHING_TO_TRY}"
    yield from (f"To try: {_called(one)}: {one.proposed}" for one in found.to_try())


def profile_lines(profile: Diagnosis, file: str | None) -> list[str]:
    """What a profile says of a case, and what is to be said of the profile."""
    profile = shown(profile)
    notes = [f"    note: {note}" for note in profile.notes]
    which = "the profile" if file is None else f"the profile {printable(file)}"
    return [f"  by {which}: {profile.sentence}", *notes]


def _profile_lines(found: Explanation) -> list[str]:
    return [] if found.profile is None else profile_lines(found.profile, found.profile_file)


def _table(configs: tuple[Compiled, ...]) -> Iterator[str]:
    rows = [_HEADINGS, *map(_cells, configs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        cells = [
            cell.rjust(width) if heading in _FIGURES else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _cells(one: Compiled) -> tuple[str, ...]:
    used, held = one.resources, one.occupancy
    if used is None or held is None:
        return (_called(one), "-", "-", "-", "-", "-", one.why_not or "not compiled")
    spills = format_bytes(used.stack_bytes) if used.spills else "none"
    fraction = f"{held.fraction * 100:.1f} %"
    limiter = one.why_not or held.limiter
    return (
        _called(one),
        str(used.registers),
        format_bytes(used.shared_bytes),
        spills,
        str(held.ctas_per_sm),
        fraction,
        limiter,
    )


def _called(one: Compiled) -> str:
    label = one.config.label()
    return f"{label} ({', '.join(one.names)})" if one.names else label


def _rule_lines(found: Explanation) -> Iterator[str]:
    yield f"  rules for warps and stages, by {found.rules_from} as compiled:"
    if not found.fired:
        yield "    none fires: other warps and stages are tried, one at a time"
    for rule in found.fired:
        yield f"    {rule.name} ({rule.condition}): {rule.advice}"
    yield from (f"    {sentence}" for sentence in found.left_out)
    if found.staged_loads:
        yield f"    {plural(found.staged_loads, 'load')} at each step of its loop"


def time_text(walls: Roofline | None, target: str) -> str:
    """What is known of time without a GPU, in words: no more than walls."""
    if walls is None:
        return f"time: nothing is known of it, the table of targets lacks a peak of {target}"
    least = "under 0.01 us" if walls.memory_us < _LEAST_US else f"{format_us(walls.memory_us)} at least"
    by_bytes = f"{least} by bytes over bandwidth"
    if not walls.compute_us:
        return f"time: {by_bytes}, the same for each config; nothing was timed"
    return (
        f"time: {by_bytes}, {format_us(walls.compute_us)} by operations over the peak rate, the same for each config; "
        "nothing was timed"
    )


def to_builtins(found: Explanation) -> dict[str, Any]:
    """The same for JSON."""
    raw: dict[str, Any] = msgspec.to_builtins(found, enc_hook=named_to_builtins)
    raw.pop("profile")  # It stands beside, as for a case that was measured.
    raw["evidence"] = "predicted"
    for one, told in zip(found.configs, raw["configs"], strict=True):
        told["label"] = one.config.label()
    raw["time"] = None if found.walls is None else time_text(found.walls, found.target)
    walls = found.walls
    raw["walls"] = walls and {"bytes_over_bandwidth_us": walls.memory_us, "operations_over_peak_us": walls.compute_us}
    return raw
