"""Many problems on a terminal: one line each, and of a wide one more figures in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final, NamedTuple

from rich.console import Console
from rich.text import Text

from fusetune.core.decision import reference_name
from fusetune.core.text import shown
from fusetune.report import wording
from fusetune.report.model import ProblemRow, Report
from fusetune.report.terminal import VERDICT_STYLE, print_meaning
from fusetune.units import format_gain, format_interval, format_us

_INDENT: Final = 2
_SHORTEST_CONFIG: Final = 14
_SHORTEST_PROBLEM: Final = 16
_CUT: Final = "…"


class _Cells(NamedTuple):
    """A line's cells: what every terminal shows, then by name what a wide one does."""

    problem: str
    form: str
    config: str
    time: str
    gain: str
    verdict: str
    more: dict[str, str]


def render_list(report: Report, console: Console) -> None:
    """Print how many problems ended how, then a line for each below its op and GPU, and what to read with them."""
    report = shown(report)
    console.print(Text(wording.headline(report), style="bold"))
    if wording.has_predictions(report):
        console.print(Text(wording.PREDICTED_WARNING, style="cyan"))
    if report.problems:
        console.print(Text(f"{wording.plural(len(report.problems), 'file')} could not be read.", style="red"))
    for row in _lines(report, console.width):
        console.print(row, soft_wrap=True)
    print_meaning(report, console)
    if report.missing_runs:
        console.print(Text(wording.missing_runs_text(report), style="yellow"))


def _lines(report: Report, width: int) -> Iterator[Text]:
    cells = [_cells(row) for row in report.rows]
    fixed = [max(map(len, column), default=0) for column in zip(*(one[2:6] for one in cells), strict=True)]
    wanted = max((len(one.problem) + len(one.form) + bool(one.form) for one in cells), default=0)
    spare = width - _INDENT - sum(fixed) - len(fixed) - wanted
    if fixed and spare < 0:  # The config gives way first, then the problem.
        shorter = max(fixed[0] + spare, min(fixed[0], _SHORTEST_CONFIG))
        spare += fixed[0] - shorter
        fixed[0] = shorter
    for_problem = max(wanted + min(spare, 0), _SHORTEST_PROBLEM)
    more: list[tuple[str, int]] = []
    for name in cells[0].more if cells else ():
        needed = max(len(one.more[name]) for one in cells)
        if needed and needed < spare:
            more.append((name, needed))
            spare -= needed + 1
    rows = zip(report.rows, cells, strict=True)
    for (title, gpu), group in groupby(rows, key=lambda pair: (pair[0].title, pair[0].gpu)):
        yield Text(f"\n{title}, {gpu}")
        for row, one in group:
            config, time, gain, verdict = fixed
            line = f"{' ' * _INDENT}{_problem(one, for_problem)} {_cut(one.config, config):<{config}} "
            line += f"{one.time:>{time}} {one.gain:>{gain}} "
            rest = "".join(f" {one.more[name]:<{needed}}" for name, needed in more)
            ended = f"{one.verdict:<{verdict}}" if rest.strip() else one.verdict
            yield Text.assemble(line, (ended, VERDICT_STYLE[row.verdict]), rest.rstrip())


def _cells(row: ProblemRow) -> _Cells:
    predicted = row.predicted_us
    config = row.config.label()
    if row.config == row.before or row.is_baseline:
        config = reference_name(row.before) if row.config == row.before else "BASELINE"
    over = row.gain_over_conservative
    return _Cells(
        problem=row.problem.size_text(),
        form=" ".join(dict.fromkeys(row.problem.form_text().split())),
        config=config,
        time=format_us(predicted.config if predicted else row.config_us),
        gain="predicted" if predicted else format_gain(row.gain.median) if row.gain else wording.NOT_TIMED,
        verdict=row.verdict,
        more={
            "reference": f"was {wording.reference_time(row)}" if not predicted else "",
            "interval": format_interval(row.gain.low, row.gain.high) if row.gain else "",
            "date": row.date,
            "run": row.run,
            "conservative": f"over conservative {format_gain(over.median)}" if over else "",
            "library": f"library {wording.library_text(row)}" if row.library else "",
        },
    )


def _problem(cells: _Cells, width: int) -> str:
    """Its sizes and the rest; where both are too long, the sizes give way, and what cannot be shown ends in `…`."""
    form = f" {cells.form}" if cells.form else ""
    sizes = _cut(cells.problem, max(width - len(form), _SHORTEST_PROBLEM // 2))
    return f"{_cut(sizes + form, width):<{width}}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}{_CUT}"
