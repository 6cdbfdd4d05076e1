"""What became of a program's kernels: a table for people, sentences beside it, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table

from fusetune.cli.explained import profile_lines, to_lines
from fusetune.cli.explained import to_builtins as explanation_to_builtins
from fusetune.core.decision import REASON_TEXT, Gain
from fusetune.core.text import printable, shortened
from fusetune.report.terminal_tables import make_table
from fusetune.store.schema import Entry
from fusetune.tune.program import Tuned
from fusetune.units import format_gain, format_interval, format_us

_LONGEST_PROBLEM = 40
_LEFT_OUT = frozenset({"cannot_win", "grid", "not_compiled", "predicted_slow", "registers"})
"""Reasons of what was not tried: nothing was found wrong with it."""


def table_of_tuned(tuned: Sequence[Tuned]) -> Table:
    """A row for each case: what runs, BASELINE and what was chosen, with times, the gain and the verdict.

    Where nothing was timed it says instead what is to be tried on a GPU. Cases of equal rows have one.
    """
    is_timed = not any(one.explanation is not None for one in tuned)
    headers = ("kernel", "sizes", "Before", ">us", ">BASELINE us", "chosen", ">us", ">gain", "verdict")
    table = make_table(headers if is_timed else ("kernel", "sizes", "Before", "to try", "verdict"))
    rows: Counter[tuple[str, ...]] = Counter()
    for one in tuned:
        entry = one.result.entry if one.result is not None else None
        times = _times(entry)
        gain = entry.gain if entry is not None else None
        cells = [
            one.case.kernel.name,
            shortened(sizes_of(one), _LONGEST_PROBLEM),
            one.before.label() if one.before is not None else one.case.config_text(),
            *(format_us(times[name]) if times.get(name) is not None else "" for name in ("before", "baseline")),
            entry.config.label() if entry is not None and entry.verdict in {"keep", "unverified"} else "",
            format_us(times["config"]) if entry is not None and entry.verdict == "keep" else "",
            _gain_text(gain),
            one.end,
        ]
        if not is_timed:
            cells = [*cells[:3], _to_try(one), one.end]
        rows[tuple(map(printable, cells))] += 1
    for (name, sizes, *others), count in rows.items():
        table.add_row(name, f"{sizes} ({count} cases)" if count > 1 else sizes, *others)
    return table


def _to_try(one: Tuned) -> str:
    """What a prediction proposes beside Before: warps and stages, and the constants that differ from Before's."""
    if one.explanation is None or one.before is None:
        return ""
    before = one.before.label().split()
    proposed = [made.config.label() for made in one.explanation.configs if made.proposed and made.config != one.before]
    return ", ".join(
        " ".join(word for word in label.split() if "=" not in word or word not in before) for label in proposed
    )


def sentences_on(tuned: Sequence[Tuned]) -> list[str]:
    """What the table does not say: reasons, and what was wrong among the candidates."""
    lines = []
    for one in tuned:
        name = one.case.kernel.name
        if one.why is not None:
            lines.append(f"{name}: {one.end}: {one.why}")
        elif one.result is not None and one.end != "keep" and one.explanation is None:
            lines.append(f"{name}: {one.end}: {REASON_TEXT[one.result.entry.reason]}")
        wrong = {reason: count for reason, count in one.failures.items() if reason not in _LEFT_OUT}
        if wrong:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(wrong.items(), key=lambda each: -each[1]))
            lines.append(f"{name}: of {one.tried} candidates {told}")
    return list(dict.fromkeys(lines))


def notes_of(tuned: Sequence[Tuned]) -> list[str]:
    """What was found out about the program's own configs while they were tuned, a sentence each."""
    return [
        f"note: {told}"
        for told in dict.fromkeys(f"{one.case.kernel.name}: {it}" for one in tuned for it in one.findings)
    ]


def explanations_of(tuned: Sequence[Tuned]) -> list[str]:
    """What predictions go by, and what a profile says of those that were measured; cases of equal lines have one."""
    told: Counter[tuple[str, ...]] = Counter()
    for one in tuned:
        name, sizes = one.case.kernel.name, shortened(sizes_of(one), 2 * _LONGEST_PROBLEM)
        if one.explanation is not None:
            told.update([tuple(to_lines(name, sizes, one.explanation))])
        elif one.profile is not None:
            told.update([(printable(f"{name}  {sizes}"), *profile_lines(one.profile, None))])
    lines: list[str] = []
    for (first, *others), count in told.items():
        lines += ["", f"{first}  ({count} cases)" if count > 1 else first, *others]
    return [*lines, ""] if lines else []


def to_builtins(program: str, gpu: str | None, seconds: float, tuned: Sequence[Tuned]) -> dict[str, Any]:
    """The same as JSON has it, cases under their kernels."""
    kernels: dict[tuple[str, str], dict[str, Any]] = {}
    for one in tuned:
        kernel = one.case.kernel
        told = kernels.setdefault(
            (kernel.file, kernel.name),
            {"op": one.op, "kernel": kernel.name, "file": kernel.file, "line": kernel.line, "cases": []},
        )
        told["cases"].append(_case(one))
    return {"program": program, "gpu": gpu, "seconds": round(seconds, 2), "kernels": list(kernels.values())}


def _case(one: Tuned) -> dict[str, Any]:
    entry = one.result.entry if one.result is not None else None
    times = _times(entry)
    stays = entry.config if entry is not None else one.before
    return {
        "problem": one.problem.to_builtins() if one.problem is not None else None,
        "launches": one.case.launches,
        "program_us": one.case.us,
        "before": one.before.to_builtins() if one.before is not None else None,
        "chosen": stays.to_builtins() if stays is not None else None,
        "verdict": one.end,
        "reason": one.reason,
        "why": one.why,
        "evidence": entry.evidence if entry is not None else None,
        "before_us": times.get("before"),
        "baseline_us": times.get("baseline"),
        "best_us": times.get("config"),
        "gain": _gain(entry.gain) if entry is not None else None,
        "tried": one.tried,
        "failures": dict(one.failures),
        "best": _best(one),
        "seconds": one.seconds,
        "run": one.result.run if one.result is not None else None,
        "findings": [*one.case.findings, *one.findings],
        "profile": msgspec.to_builtins(one.profile) if one.profile is not None else None,
        "prediction": explanation_to_builtins(one.explanation) if one.explanation is not None else None,
    }


def _best(one: Tuned) -> list[dict[str, Any]]:
    """The best by their times in screening; of a prediction what is to be tried, which has no times."""
    if one.explanation is not None:
        return [{"config": made.config.to_builtins(), "us": None} for made in one.explanation.to_try()]
    best = one.result.best if one.result is not None else ()
    return [{"config": ranked.config.to_builtins(), "us": ranked.time_us} for ranked in best]


def _times(entry: Entry | None) -> dict[str, float | None]:
    """Microseconds by what they are of; without a `before`, BASELINE is what ran before."""
    times = None if entry is None else entry.time_us
    if times is None:
        return {}
    before = times.baseline if times.before is None else times.before
    return {"before": before, "baseline": times.baseline, "config": times.config}


def _gain(gain: Gain | None) -> dict[str, float] | None:
    return None if gain is None else {"median": gain.median, "low": gain.low, "high": gain.high}


def _gain_text(gain: Gain | None) -> str:
    return "" if gain is None else f"{format_gain(gain.median)} {format_interval(gain.low, gain.high)}"


def sizes_of(one: Tuned) -> str:
    """The shapes of a case's largest tensors: what tells it from the kernel's other cases."""
    tensors = sorted(one.case.tensors.values(), key=lambda each: -each.storage_bytes)
    shapes = dict.fromkeys("x".join(map(str, each.shape)) + f" {each.dtype}" for each in tensors)
    return ", ".join(list(shapes)[:2])
