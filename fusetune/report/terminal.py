"""A report on a terminal, whole: the verdict first, then the problems, then what each run tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusetune.core.decision import VerdictName, reference_name
from fusetune.core.text import shown
from fusetune.report import wording
from fusetune.report.model import ProblemRow, Report
from fusetune.report.terminal_runs import print_run
from fusetune.report.terminal_tables import break_words, first_that_fits, make_table

VERDICT_STYLE: Final[dict[VerdictName, str]] = {
    "keep": "bold green",
    "revert": "yellow",
    "inconclusive": "magenta",
    "unverified": "cyan",
}
_GPU_COLUMNS: Final = 16
_CONFIG_COLUMNS: Final = 20
_TITLE_COLUMNS: Final = 30
_MOST_HINTS: Final = 3
"""Of more problems that a library computes faster there is a count, since each hint is as long as a problem."""


def render(report: Report, console: Console) -> None:
    """Print the report: how many problems ended how and why, the table of problems, then each run."""
    report = shown(report)
    _print_verdicts(report, console)
    if report.rows:
        console.print()
        console.print(first_that_fits(console, _wide_table(report.rows), _stacked_table(report.rows)))
        print_meaning(report, console)
    for run in report.runs:
        print_run(run, console)
    if report.missing_runs:
        console.print(Text(f"\n{wording.missing_runs_text(report)}", style="yellow"))


def print_meaning(report: Report, console: Console) -> None:
    """What stands below the problems: how to read their configs, whose kernels these are, and what a library does."""
    if meant := wording.legend(report):
        console.print(Text(f"\n{meant}", style="dim"))
    for line in wording.kernel_lines(report):
        console.print(Text(line))
    hints = wording.library_hints(report)
    if len(hints) > _MOST_HINTS:
        hints = [f"A library is faster at {len(hints)} of these problems; --format md says at which, and by how much."]
    for hint in hints:
        console.print(Text(hint, style="yellow"))


def _print_verdicts(report: Report, console: Console) -> None:
    console.print(Text(wording.headline(report), style="bold"))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    for count in wording.verdict_counts(report):
        grid.add_row(f"  {count.count}", Text(count.verdict, style=VERDICT_STYLE[count.verdict]), Text(count.text))
    if report.rows:
        console.print(grid)
    if wording.has_predictions(report):
        console.print(Text(wording.PREDICTED_WARNING, style="cyan"))
    if report.problems:
        console.print(Text(f"{wording.plural(len(report.problems), 'file')} could not be read.", style="red"))


def _wide_table(rows: Sequence[ProblemRow]) -> Table:
    with_library = any(row.library for row in rows)
    headers = ["problem", f">{wording.reference_header(rows)}", ">winner", "config", "gain", "over conservative"]
    headers += ["library"] if with_library else []
    table = make_table([*headers, "verdict", "GPU, date"], leading=1)
    for row in rows:
        over = row.gain_over_conservative
        cells = [
            _problem_lines(row),
            _broken(wording.reference_time(row)),
            _broken(wording.row_time(row, "config")),
            _config_lines(row),
            "\n".join(_gain_lines(row)),
            wording.gain_text(over, "\n") if over else "-",
        ]
        cells += [wording.library_text(row, "\n")] if with_library else []
        table.add_row(*(Text(cell) for cell in cells), _verdict_lines(row), Text(_gpu_lines(row)))
    return table


def _stacked_table(rows: Sequence[ProblemRow]) -> Table:
    table = make_table(("problem", "winner", "gain", "verdict"), leading=1)
    for row in rows:
        over = row.gain_over_conservative
        gains = _gain_lines(row)
        gains += ["over conservative", wording.gain_text(over, "\n")] if over else []
        between = "\n" if row.predicted_us else " "  # `predicted` and its figure stay on one line
        times = f"{wording.row_time(row, 'config')}\n{reference_name(row.before)}{between}{wording.reference_time(row)}"
        times += f"\nlibrary {wording.library_text(row, chr(10))}" if row.library else ""
        cells = (_problem_lines(row), f"{_config_lines(row)}\n{times}", "\n".join(gains))
        verdict = Text.assemble(_verdict_lines(row), "\n", _gpu_lines(row))
        table.add_row(*(Text(cell) for cell in cells), verdict)
    return table


def _gain_lines(row: ProblemRow) -> list[str]:
    beside = row.gain_over_baseline
    lines = [wording.gain_text(row.gain, "\n") if row.gain else wording.NOT_TIMED]
    return [*lines, "over BASELINE", wording.gain_text(beside, "\n")] if beside else lines


def _problem_lines(row: ProblemRow) -> str:
    return f"{break_words(row.title, _TITLE_COLUMNS)}\n{row.problem.size_text()}\n{row.problem.form_text()}"


def _config_lines(row: ProblemRow) -> str:
    label = break_words(row.config.label(), _CONFIG_COLUMNS)
    return label + wording.marks(row).replace(" ", "\n")


def _broken(time: str) -> str:
    return time.replace("predicted ", "predicted\n").replace(" (", "\n(")


def _verdict_lines(row: ProblemRow) -> Text:
    return Text.assemble((row.verdict, VERDICT_STYLE[row.verdict]), f"\n{row.evidence}")


def _gpu_lines(row: ProblemRow) -> str:
    return f"{break_words(row.gpu, _GPU_COLUMNS)}\n{row.date}"
