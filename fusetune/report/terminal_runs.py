"""One run on a terminal: facts, the best candidates, the comparisons, and why the others fell."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusetune.core.decision import reference_name
from fusetune.report import wording
from fusetune.report.intervals import draw_intervals
from fusetune.report.run_summary import CandidateRow, RunSummary
from fusetune.report.terminal_tables import first_that_fits, make_table
from fusetune.units import format_gain


def print_run(run: RunSummary, console: Console) -> None:
    """Print one run below what is already there."""
    console.print(Text(f"\nRun {run.run}", style="bold"))
    _print_facts(run, console)
    _print_best(run, console)
    if run.comparisons:
        console.print("\nComparisons, on fresh blocks")
        console.print(
            first_that_fits(console, _comparison_table(run, stacked=False), _comparison_table(run, stacked=True))
        )
        _print_intervals(run, console)
    if run.dropped:
        console.print(f"\n{wording.dropped_text(run)}", highlight=False, markup=False)
        console.print(_dropped_table(run))


def _print_intervals(run: RunSummary, console: Console) -> None:
    """Each gain's interval on one scale, with the minimum that it has to reach."""
    drawn = [row for row in run.comparisons if row.phase not in {"control", "reference"}]
    lines = draw_intervals([row.gain for row in drawn], run.rule.min_gain, width=min(64, console.width - 24))
    if not lines:
        return
    console.print(
        f"\nGains against the {run.rule.min_gain * 100:g} % that are needed (|)", highlight=False, markup=False
    )
    for row, line in zip(drawn, lines, strict=True):
        console.print(Text(f"  {row.phase:<10} {line} {format_gain(row.gain.median)}"))


def _print_facts(run: RunSummary, console: Console) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for label, text in wording.run_facts(run):
        grid.add_row(f"  {label}", Text(text))
    for note in run.notes:
        grid.add_row(Text("  note", style="yellow"), Text(note))
    console.print(grid)


def _print_best(run: RunSummary, console: Console) -> None:
    if not run.best:
        console.print(f"\n{wording.no_best_text(run)}", markup=False)
        return
    console.print(f"\n{wording.ranking_text(run)}", highlight=False, markup=False)
    rows = [(str(place), row) for place, row in enumerate(run.best, start=1)]
    if run.baseline is not None:
        rows.append(("", run.baseline))
    console.print(first_that_fits(console, _best_table(run, rows, stacked=False), _best_table(run, rows, stacked=True)))
    if any(row.chosen for _, row in rows):
        console.print("  * the config of the entry", style="dim", highlight=False, markup=False)


def _best_table(run: RunSummary, rows: Sequence[tuple[str, CandidateRow]], *, stacked: bool) -> Table:
    """A column that says nothing is left out: room is short, and a column of zeros hides the one that differs."""
    break_here = "\n" if stacked else " "
    candidates = [row for _, row in rows]
    with_rounds = run.evidence == "measured" and len({row.screening_round for row in candidates}) > 1
    with_stack = any(row.resources is not None and row.resources.spills for row in candidates)
    with_gain = any(row.gain for row in candidates)
    with_status = len({row.status for row in candidates}) > 1
    headers = ["", "config", ">time" if run.evidence == "predicted" else ">screening"]
    headers += [">round"] if with_rounds else []
    headers += [">regs,\nstack", ">shared"] if stacked and with_stack else [">regs", ">shared"]
    headers += [">stack"] if with_stack and not stacked else []
    headers += [f"gain over{break_here}{reference_name(run.before)}"] if with_gain else []
    headers += ["status"] if with_status else []
    table = make_table(headers)
    for place, row in rows:
        registers, shared, stack = wording.resource_texts(row)
        cells = [
            f"{'*' if row.chosen else ' '}{place:>2}",
            _config_cell(row, run),
            wording.screening_text(row, run.evidence),
        ]
        cells += [_round_cell(row)] if with_rounds else []
        cells += [f"{registers}\n{stack}" if stacked and row.resources and row.resources.spills else registers, shared]
        cells += [stack] if with_stack and not stacked else []
        cells += [wording.gain_text(row.gain, break_here) if row.gain else ""] if with_gain else []
        cells += [row.status] if with_status else []
        table.add_row(*(Text(cell) for cell in cells), style="bold" if row.chosen else None)
    return table


def _config_cell(row: CandidateRow, run: RunSummary) -> str:
    return row.config.label() + (f" ({reference_name(run.before)})" if row.is_baseline else "")


def _round_cell(row: CandidateRow) -> str:
    return "-" if row.screening_round is None else str(row.screening_round)


def _comparison_table(run: RunSummary, *, stacked: bool) -> Table:
    pair_headers = ("config",) if stacked else ("config", "over")
    table = make_table(("phase", *pair_headers, "gain", ">blocks", "outcome"))
    for row in run.comparisons:
        config, baseline = wording.comparison_pair(row, run)
        pair = (f"{config}\nover {baseline}",) if stacked else (config, baseline)
        gain = wording.gain_text(row.gain, "\n" if stacked else " ")
        cells = (row.phase, *pair, gain, str(row.gain.blocks), wording.outcome_text(row))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _dropped_table(run: RunSummary) -> Table:
    table = make_table(("status", "reason", ">candidates"))
    for drop in run.dropped:
        table.add_row(*(Text(cell) for cell in (drop.status, drop.reason, str(drop.count))))
    return table
