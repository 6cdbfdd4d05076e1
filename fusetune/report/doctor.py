"""What `fusetune doctor` found, in words: the machine line by line, then the installed ops in tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusetune.core.text import shown
from fusetune.report.terminal_tables import first_that_fits, make_table
from fusetune.report.wording import plural
from fusetune.store.doctor_file import DoctorFile, Examined, Finding, Launched, Level
from fusetune.units import format_gain, format_interval, format_us

_WORDS: Final[dict[Level, str]] = {"ok": "ok", "note": "note", "unfit": "UNFIT", "no_gpu": "NO GPU", "wrong": "WRONG"}
_WIDTH: Final = max(map(len, _WORDS.values()))
_CHECK: Final = 16
WITHOUT_GPU: Final = (
    "Without a GPU that torch can use, this machine can measure nothing. It can predict for another one (`fusetune "
    "sweep --target NAME`, `fusetune tune --target NAME PROGRAM`), compile and check configs (`fusetune gate "
    "--static`, `fusetune inspect`), and show what was measured elsewhere (`fusetune report --shipped`, or --doctor)."
)
_FIT: Final = "This machine is fit to tune on."
_MOST_NOT_REACHED: Final = 5
_TRIED: Final = frozenset({"variant", "library"})
_FEWEST: Final = 10
"""Launches below which no spread is told."""
_LEGEND: Final = (
    "gain: time saved over BASELINE, in paired blocks with its 95 % interval; then: the gain that the file of configs "
    "records; predicted: by the cost model, from what the compiler made, and its ratio to the time here"
)


def finding_lines(finding: Finding, private: str = "") -> list[str]:
    """A finding in one line or two: what it is, and what to do. `private` is for this user's screen."""
    told = f"{finding.told} ({private})" if private else finding.told
    lines = [f"{_WORDS[finding.level]:<{_WIDTH}} {finding.check:<{_CHECK}} {told}".rstrip()]
    if finding.do:
        lines.append(f"{'':<{_WIDTH}} {'':<{_CHECK}} -> {finding.do}")
    return lines


def verdict_line(findings: Sequence[Finding]) -> str:
    """Whether the machine is fit, in a sentence."""
    levels = [finding.level for finding in findings]
    if "no_gpu" in levels:
        return WITHOUT_GPU
    counts = (("wrong", "kernels gave wrong results"), ("unfit", "what is measured here now is not to be trusted"))
    for level, told in counts:
        if level in levels:
            return f"This machine is not fit to tune on: {plural(levels.count(level), 'finding')}, {told}."
    return _FIT


def render_doctor(file: DoctorFile, console: Console) -> None:
    """Print a whole file: where it comes from, the findings, and what its GPU did."""
    file = shown(file)
    console.print(Text(_headline(file), style="bold"), soft_wrap=True)
    console.print(Text(_made_with(file)), soft_wrap=True)
    console.print()
    for finding in file.findings:
        for line in finding_lines(finding):
            console.print(Text(line), soft_wrap=True)
    console.print()
    render_kernels(file, console)
    console.print(Text(verdict_line(file.findings)), soft_wrap=True)


def render_kernels(file: DoctorFile, console: Console) -> None:
    """Print what the installed ops did; nothing where they were not tried."""
    file = shown(file)
    if file.kernels:
        _print_right(file, console)
        rows = [(examined, one) for examined in file.kernels for one in examined.launched if one.us is not None]
        if rows:
            console.print(
                Text("\nBeside BASELINE: measured here, recorded in the file of configs, predicted", style="bold")
            )
            for op in dict.fromkeys(examined.op for examined, _ in rows):
                own = [row for row in rows if row[0].op == op]
                console.print(Text(op))
                console.print(first_that_fits(console, _time_table(own, wide=True), _time_table(own, wide=False)))
            console.print(Text(_LEGEND), soft_wrap=True)
        told = _prediction_text(file)
        if told:
            console.print(Text(told), soft_wrap=True)
        console.print()
    if file.not_reached:
        console.print(Text(_not_reached(file)), soft_wrap=True)
        console.print()


def _print_right(file: DoctorFile, console: Console) -> None:
    """The problems at which variants were tried, one a line; of the others how many; and all that went wrong."""
    examples = [one for one in file.kernels if any(launched.source in _TRIED for launched in one.launched)]
    others = [launched for one in file.kernels if one not in examples for launched in one.launched]
    console.print(Text("Held against float64", style="bold"))
    for op in dict.fromkeys(one.op for one in examples):
        console.print(Text(op))
        console.print(_right_table([one for one in examples if one.op == op]))
    if others:
        right = sum(one.outcome == "right" for one in others)
        console.print(
            Text(f"and of what stands in files of configs, with its BASELINE: {right} of {len(others)} right")
        )
    for line in _fallen(file):
        console.print(Text(line), soft_wrap=True)


def _prediction_text(file: DoctorFile) -> str:
    """How the cost model's times lie to the measured ones, over all that was measured."""
    ratios = sorted(
        one.predicted_us / time_us
        for examined in file.kernels
        for one in examined.launched
        if one.predicted_us is not None and (time_us := one.us or one.sample_us)
    )
    if len(ratios) < _FEWEST:
        return ""
    low, middle, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.1, 0.5, 0.9))
    return (
        f"predicted over measured, of {len(ratios)} launches: {middle:.2f} in the median, {low:.2f} to {high:.2f} for "
        "the middle four fifths (entries in paired blocks, the other variants in samples)"
    )


def _headline(file: DoctorFile) -> str:
    gpu = file.gpu
    where = f"{gpu.name}, compute capability {gpu.capability}, {gpu.sms} SMs" if gpu else "a machine without a GPU"
    cut = "" if file.complete else ", cut off before its end"
    return f"fusetune doctor of {file.date}: {where}{cut}"


def _made_with(file: DoctorFile) -> str:
    of = file.versions
    parts = [
        f"fusetune {of.fusetune}",
        f"Python {of.python}",
        f"torch {of.torch or 'none'}",
        f"triton {of.triton or 'none'}",
    ]
    parts += [f"ptxas {of.ptxas}"] if of.ptxas else []
    parts += [f"driver {of.driver}"] if of.driver else []
    return f"{', '.join(parts)}, {of.platform}"


def _right_table(examples: Sequence[Examined]) -> Table:
    table = make_table(("problem", ">right", ">worst error", ">allowed", ">failed", ">rejected"))
    for examined in examples:
        right = [one for one in examined.launched if one.outcome == "right"]
        errors = [one.error for one in right if one.error is not None]
        counts = {kind: sum(one.outcome == kind for one in examined.launched) for kind in ("failed", "rejected")}
        table.add_row(
            Text(examined.described),
            f"{len(right)} of {len(examined.launched)}",
            f"{max(errors):.1e}" if errors else "-",
            "-" if examined.tolerance is None else f"{examined.tolerance:.1e}",
            str(counts["failed"] or ""),
            str(counts["rejected"] or ""),
        )
    return table


def _fallen(file: DoctorFile) -> Iterator[str]:
    for examined in file.kernels:
        place = f"{examined.op} {examined.described}"
        if examined.trouble:
            yield f"{place}: {examined.trouble}"
        for one in examined.launched:
            if one.outcome in {"failed", "not_tried"}:
                yield f"{place}, {one.label}: {one.outcome.replace('_', ' ')}, {one.reason}: {one.detail}"


def _time_table(rows: Sequence[tuple[Examined, Launched]], *, wide: bool) -> Table:
    """Of one op; entries stand in the order of their problems, since they were measured in none."""
    more = (">interval", ">recorded", ">then", "evidence") if wide else (">then",)
    table = make_table(("problem", "config", ">BASELINE", ">here", ">gain", *more, ">predicted", ">over here"))
    for examined, one in sorted(rows, key=lambda row: row[0].described):
        gain, recorded = one.gain, one.recorded
        then = format_gain(recorded.gain) if recorded and recorded.gain is not None else "-"
        in_file = [format_us(recorded.config_us) if recorded else "-", then, _evidence(one)]
        interval = format_interval(gain.low, gain.high) if gain else "-"
        table.add_row(
            Text(examined.described),
            Text(one.label),
            format_us(one.baseline_us),
            format_us(one.us),
            format_gain(gain.median) if gain else "-",
            *((interval, *in_file) if wide else (then,)),
            format_us(one.predicted_us),
            f"{one.predicted_us / one.us:.2f}" if one.predicted_us and one.us else "-",
        )
    return table


def _evidence(one: Launched) -> str:
    if one.recorded is None:
        return "not in a file"
    return f"{one.recorded.evidence}{', of an older kernel' if one.recorded.stale else ''}"


def _not_reached(file: DoctorFile) -> str:
    named = [f"{one.op} {one.described}" for one in file.not_reached[:_MOST_NOT_REACHED]]
    more = len(file.not_reached) - len(named)
    rest = f" and {more} more" if more else ""
    return f"Not reached, {plural(len(file.not_reached), 'problem')}: {'; '.join(named)}{rest}"
