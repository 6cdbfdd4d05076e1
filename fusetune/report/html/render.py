"""A report as pages that ask for nothing from a network: one a run, and where there are many an index."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from fusetune.core.decision import KeepRule, reference_name
from fusetune.core.text import file_part, shown
from fusetune.errors import UsageError
from fusetune.report import answer, wording
from fusetune.report.html import figures, gains, tiles
from fusetune.report.html.data import Point, RunData
from fusetune.report.html.figures import Figure
from fusetune.report.html.pages import embedded, page, raw
from fusetune.report.model import ProblemRow, Report
from fusetune.report.run_summary import CandidateRow
from fusetune.units import format_bytes, format_us


def is_of_one_run(report: Report) -> bool:
    """Whether one page says all: there is one run, and no problem of another."""
    return len(report.runs) == 1 and {row.run for row in report.rows} <= {report.runs[0].run}


def write_pages(
    report: Report, runs: Mapping[str, RunData], html_file: Path, write: Callable[[Path, str], bool]
) -> int:
    """Write a report: one run's page, or an index with the pages of its runs in a folder beside it.

    `runs` is the data of its runs, by their ids. `write` writes a file whole, and answers whether that is a file now:
    without one there are no pages beside it. Returns how many pages there are; 0 where none is a file.
    """
    if is_of_one_run(report):
        return int(write(html_file, render_html(report, runs)))
    written = write_run_pages(report, runs, html_file, write)
    return int(write(html_file, render_index(report, written))) + len(written)


def write_run_pages(
    report: Report, runs: Mapping[str, RunData], html_file: Path, write: Callable[[Path, str], bool]
) -> dict[str, str]:
    """Write the pages of a report's runs into a folder beside a page; their addresses from there, by the runs' ids.

    None where the page is no file. Raises UsageError where the folder cannot be made.
    """
    if not report.runs or (html_file.exists() and not html_file.is_file()):
        return {}
    folder = html_file.with_name(f"{html_file.stem}-runs")
    _make(folder)
    rows, back = _rows_of(report), f"../{quote(html_file.name)}"
    written = {}
    for run in dict.fromkeys(run.run for run in report.runs):
        name = page_name(run)
        write(folder / name, render_run(runs[run], rows.get(run), back))
        written[run] = f"{folder.name}/{name}"
    return written


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)  # A path that was mistyped is no wish for new folders.
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder} for the pages of runs: {error.strerror or error}; name another file"
        ) from error


def page_name(run: str) -> str:
    """The file that a run's page is in, whatever its id is."""
    return f"{file_part(run)}.html"


def render_html(report: Report, runs: Mapping[str, RunData]) -> str:
    """A report as one page: the only run's, or the index without the pages of its runs.

    Every string that comes from a file is escaped.
    """
    if not is_of_one_run(report):
        return render_index(report, {})
    run = report.runs[0].run
    return render_run(runs[run], _rows_of(report).get(run))


def _rows_of(report: Report) -> dict[str, ProblemRow]:
    return {row.run: row for row in report.rows}


def render_index(report: Report, links: Mapping[str, str]) -> str:
    """All problems of a report on one page; `links` are the pages of runs, by their ids."""
    report = shown(report)
    gained = [row for row in report.rows if row.gain is not None]
    found = gains.comparison(gained, KeepRule().min_gain, dict(links)) if len(gained) > 1 else None
    return page(
        "index.html.j2",
        report=report,
        wording=wording,
        answer=answer,
        links={row.run: links.get(row.run, "") for row in report.rows},
        comparison=_safe(found) if found is not None else None,
    )


def render_run(run: RunData, row: ProblemRow | None, index: str = "") -> str:
    """The page of one run; `row` is the problem that it decided on, `index` where all problems are."""
    samples = run.samples  # Numbers alone, and many.
    run, row = replace(shown(replace(run, samples=())), samples=samples), shown(row)
    summary = run.summary
    drawn, axes = _drawn(run)
    return page(
        "run.html.j2",
        run=run,
        row=row,
        index=index,
        title=f"{row.title if row else summary.op} {summary.problem.describe()}",
        headline=answer.headline(row) if row else answer.no_verdict(summary),
        why=answer.why(row, summary) if row else [],
        tried=answer.tried(summary),
        forms=answer.copyable(row.config) if row else [],
        steps=answer.next_steps(row, summary),
        legend=[(mark.kind, f"{mark.name} {mark.text}") for mark in run.marks],
        figures=[_safe(one) for one in drawn],
        axes=axes,
        axes_json=embedded(axes),
        statuses=list(dict.fromkeys([*(p.status for p in run.points), *(r.status for r in run.untimed)])),
        candidate_rows=raw("\n".join(_table_rows(run))),
        wording=wording,
        damaged=[],
    )


def _drawn(run: RunData) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of a run, those that decide first, and the axes of the one whose axis a reader chooses."""
    drawn: list[Figure] = []
    axes: dict[str, Any] = {}
    if run.pairs:
        drawn.append(gains.gains(run, ""))
    if run.points:
        found, axes = figures.candidates(run, "")
        drawn.append(found)
    if run.samples:
        drawn.append(figures.progress(run, ""))
    if run.points:
        roofline = figures.roofline(run, run.roofs, "") if run.roofs is not None else None
        found_too = (tiles.tiles(run, ""), roofline, figures.mattered(run, ""))
        drawn += [one for one in found_too if one is not None]
    if any(block.sm_mhz is not None or block.power_w is not None for block in run.blocks):
        drawn.append(figures.clocks(run, ""))
    return drawn, axes


def _safe(figure: Figure) -> Figure:
    return replace(figure, body=raw(figure.body))


def _table_rows(run: RunData) -> Iterator[str]:
    """A row for each candidate, short, for there may be thousands: the points in order, then what has no time."""
    for point in run.points:
        named = f" ({point.named})" if point.named else ""
        chosen = ' class="chosen"' if point.chosen else ""
        yield f"<tr{chosen}><td>{_cells(_of_point(point, named))}"
    for row in run.untimed:
        yield f"<tr data-fell><td>{_cells(_of_untimed(row, reference_name(run.summary.before)))}"


def _of_point(point: Point, named: str) -> Sequence[str]:
    known = point.registers is not None
    return (
        point.label + named + (" (chosen)" if point.chosen else ""),
        format_us(point.time_us),
        *(str(point.values.get(name, "-")) for name in ("num_warps", "num_stages")),
        *_resources(point.registers, point.shared_bytes, point.stack_bytes, known=known),
        point.status,
    )


def _of_untimed(row: CandidateRow, reference: str) -> Sequence[str]:
    used = row.resources
    return (
        row.config.label() + (f" ({reference})" if row.is_baseline else "") + (" (chosen)" if row.chosen else ""),
        "-",
        str(row.config.num_warps),
        str(row.config.num_stages),
        *(_resources(used.registers, used.shared_bytes, used.stack_bytes, known=True) if used else "---"),
        row.status,
    )


def _resources(registers: int | None, shared: int | None, stack: int | None, *, known: bool) -> Sequence[str]:
    return (str(registers), format_bytes(shared or 0), format_bytes(stack or 0)) if known else ("-", "-", "-")


def _cells(cells: Sequence[str]) -> str:
    return "<td>".join(html.escape(cell) for cell in cells)
