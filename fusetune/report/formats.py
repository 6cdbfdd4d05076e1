"""A report for programs and for documents: JSON, CSV, markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from fusetune.core.decision import reference_name
from fusetune.core.text import csv_cell, encodable, json_text, markdown, shown
from fusetune.core.values import to_builtins
from fusetune.report import wording
from fusetune.report.model import ProblemRow, Report
from fusetune.report.run_summary import CandidateRow, ComparisonRow, RunSummary
from fusetune.units import format_gain, format_interval

REPORT_VERSION: Final = 1
"""History of the JSON form: 1, the first version."""

_GAIN_FIELDS: Final = ("median", "low", "high")
_TIME_FIELDS: Final = ("baseline", "conservative", "config")
_ENVIRONMENT_FIELDS: Final = ("driver", "cuda", "torch", "triton", "ptxas", "kernel_hash", "clocks")


def to_json(report: Report) -> str:
    """The whole report as JSON; times in microseconds, gains as ratios.

    A figure that there is not is null, and so is the end of an interval that nothing bounds: JSON has no infinity.
    What does not apply to a problem or an environment is left out.
    """
    report = shown(report, encodable)
    body = {
        "report": REPORT_VERSION,
        "rows": report.rows,
        "runs": report.runs,
        "missing_runs": report.missing_runs,
        "damaged_files": report.problems,
    }
    return json_text(msgspec.json.format(msgspec.json.encode(body, enc_hook=to_builtins), indent=2).decode()) + "\n"


def to_csv(report: Report) -> str:
    """One row a problem; measured times and predicted ones have columns of their own, empty where there is none.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    The values of problems and configs have a column each, by name; what only some ops have is empty for the others.
    """
    text = io.StringIO()
    records = [_csv_record(row) for row in report.rows]
    problem = dict.fromkeys(name for row in report.rows for name in row.problem.to_builtins())
    config = dict.fromkeys(name for row in report.rows for name in row.config.to_builtins())
    columns = (*_COLUMNS_BEFORE, *problem, *_COLUMNS_BETWEEN, *config, *_COLUMNS_AFTER)
    columns += _COLUMNS_WITH_BEFORE if any(row.before for row in report.rows) else ()
    columns += _COLUMNS_OF_KERNELS if any(row.kernel for row in report.rows) else ()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in record.items()} for record in records)
    return text.getvalue()


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured markdown: verdicts, the table of problems, then each run."""
    lines = [f"# {wording.headline(report)}", ""]
    lines += [f"- {c.count} {c.verdict} (`{c.reason}`): {c.text}" for c in wording.verdict_counts(report)]
    lines.append("")
    if report.rows:
        reference = wording.reference_header(report.rows)
        beside = wording.gains_over_baseline(report.rows)
        header = ["op", "problem", reference, "winner", "config", "gain", "interval"]
        header += [*(["over BASELINE"] if beside else []), "over conservative", "library"]
        cells = [_markdown_cells(row, beside) for row in report.rows]
        lines += [*_table((*header, "verdict", "evidence", "GPU", "versions", "date"), cells), ""]
        kernels = [f"- {markdown(line)}" for line in wording.kernel_lines(report)]
        lines += [*kernels, ""] if kernels else []
        meant = wording.legend(report)
        lines += [f"{meant}.", ""] if meant else []
        hints = [f"- {markdown(hint)}" for hint in wording.library_hints(report)]
        lines += [*hints, ""] if hints else []
    if wording.has_predictions(report):
        lines += [wording.PREDICTED_WARNING, ""]
    for run in report.runs:
        lines += _markdown_run(run)
    if report.missing_runs:
        lines += [markdown(wording.missing_runs_text(report)), ""]
    if report.problems:
        lines += ["## Files that could not be read", ""]
        lines += [f"- {markdown(problem.message)}" for problem in report.problems]
    return "\n".join(lines).rstrip() + "\n"


_COLUMNS_BEFORE: Final = ("op", "gpu")
_COLUMNS_BETWEEN: Final = (
    "verdict",
    "reason",
    "evidence",
    *(f"{name}_us" for name in _TIME_FIELDS),
    *(f"predicted_{name}_us" for name in _TIME_FIELDS),
    "label",
)
_COLUMNS_AFTER: Final = (
    *(f"gain_{name}" for name in _GAIN_FIELDS),
    *(f"gain_over_conservative_{name}" for name in _GAIN_FIELDS),
    "conservative_label",
    "library_label",
    "library_us",
    *(f"gain_over_library_{name}" for name in _GAIN_FIELDS),
    "min_gain",
    "confidence",
    "blocks",
    *_ENVIRONMENT_FIELDS,
    "date",
    "run",
    "file",
)


_COLUMNS_WITH_BEFORE: Final = (
    "before_label",
    "before_us",
    "predicted_before_us",
    *(f"gain_over_baseline_{name}" for name in _GAIN_FIELDS),
)
"""Of a report in which another config than BASELINE ran before somewhere: there, `gain` is over that one."""


_COLUMNS_OF_KERNELS: Final = ("kernel", "source")
"""Of a report with kernels of programs."""


def _csv_record(row: ProblemRow) -> dict[str, Any]:
    plain = ("op", "gpu", "verdict", "reason", "evidence", "baseline_us", "conservative_us", "config_us")
    record: dict[str, Any] = {name: getattr(row, name) for name in plain}
    record |= {name: getattr(row, name) for name in ("min_gain", "confidence", "blocks", "date", "run", "file")}
    record |= row.problem.to_builtins() | row.config.to_builtins()
    record |= {name: getattr(row.environment, name) for name in _ENVIRONMENT_FIELDS}
    record["label"] = row.config.label()
    record["conservative_label"] = row.conservative_config.label() if row.conservative_config else None
    if row.kernel:
        record |= {"kernel": row.kernel, "source": row.source}
    if row.before:
        record |= {"before_label": row.before.label(), "before_us": row.before_us}
        record["predicted_before_us"] = row.predicted_us.before if row.predicted_us else None
    if row.predicted_us:
        record |= {f"predicted_{name}_us": getattr(row.predicted_us, name) for name in _TIME_FIELDS}
    record["library_label"] = row.library.config.label() if row.library else None
    record["library_us"] = row.library.us if row.library else None
    for prefix, figures in (
        ("gain", row.gain),
        ("gain_over_baseline", row.gain_over_baseline),
        ("gain_over_conservative", row.gain_over_conservative),
        ("gain_over_library", row.library.gain if row.library else None),
    ):
        if figures:
            record |= {f"{prefix}_{name}": getattr(figures, name) for name in _GAIN_FIELDS}
    return record


def _markdown_cells(row: ProblemRow, with_baseline: bool) -> tuple[str, ...]:
    gain, over, beside = row.gain, row.gain_over_conservative, row.gain_over_baseline
    versions = (
        ("torch", row.environment.torch),
        ("triton", row.environment.triton),
        ("driver", row.environment.driver),
    )
    return (
        row.title,
        row.problem.describe(),
        wording.reference_time(row),
        wording.row_time(row, "config"),
        f"{row.config.label()}{wording.marks(row)}",
        format_gain(gain.median) if gain else wording.NOT_TIMED,
        format_interval(gain.low, gain.high) if gain else "-",
        *((wording.gain_text(beside) if beside else "-",) if with_baseline else ()),
        wording.gain_text(over) if over else "-",
        wording.library_text(row),
        row.verdict,
        row.evidence,
        row.gpu,
        ", ".join(f"{name} {value}" for name, value in versions if value),
        row.date,
    )


def _markdown_run(run: RunSummary) -> list[str]:
    lines = [f"## Run {markdown(run.run)}", ""]
    lines += [f"- {label}: {markdown(text)}" for label, text in wording.run_facts(run)]
    lines += [f"- note: {markdown(note)}" for note in run.notes]
    lines.append("")
    if run.best:
        lines += [f"{wording.ranking_text(run)}:", "", *_best_table(run), ""]
    else:
        lines += [wording.no_best_text(run), ""]
    if run.comparisons:
        header = ("phase", "config", "over", "gain", "blocks", "discarded", "outcome")
        lines += [*_table(header, [_comparison_cells(row, run) for row in run.comparisons]), ""]
    if run.dropped:
        dropped = [(drop.status, drop.reason, str(drop.count)) for drop in run.dropped]
        lines += [f"{wording.dropped_text(run)}.", "", *_table(("status", "reason", "candidates"), dropped), ""]
    return lines


def _best_table(run: RunSummary) -> list[str]:
    time = "time" if run.evidence == "predicted" else "screening"
    name = reference_name(run.before)
    header = ("", "config", time, "round", "registers", "shared", "stack", f"gain over {name}", "status")
    cells = [_candidate_cells(str(place), row, run) for place, row in enumerate(run.best, start=1)]
    if run.baseline is not None:
        cells.append(_candidate_cells(name, run.baseline, run))
    return _table(header, cells)


def _candidate_cells(place: str, row: CandidateRow, run: RunSummary) -> tuple[str, ...]:
    return (
        f"{place} (chosen)" if row.chosen else place,
        row.config.label(),
        wording.screening_text(row, run.evidence),
        "-" if row.screening_round is None else str(row.screening_round),
        *wording.resource_texts(row),
        f"{wording.gain_text(row.gain)} ({row.gain_phase})" if row.gain else "-",
        row.status,
    )


def _comparison_cells(row: ComparisonRow, run: RunSummary) -> tuple[str, ...]:
    config, baseline = wording.comparison_pair(row, run)
    blocks = (str(row.gain.blocks), str(row.discarded_blocks))
    return (row.phase, config, baseline, wording.gain_text(row.gain), *blocks, wording.outcome_text(row))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in rows]
    return lines
