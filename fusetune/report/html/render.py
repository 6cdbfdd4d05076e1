"""The page: figures and tables of a report in one file, with plotly's script inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import fusetune
from fusetune.core.decision import KeepRule
from fusetune.core.text import shown
from fusetune.errors import FusetuneError, UsageError
from fusetune.report import wording
from fusetune.report.html import figures
from fusetune.report.html.data import RunData, run_data
from fusetune.report.model import DamagedFile, Report
from fusetune.store.journal import read_journal
from fusetune.store.paths import find_run
from fusetune.units import format_bytes, format_gain, format_interval, format_us

_INSTALL: Final = "`pip install 'fusetune[report]'`"


def render_html(report: Report, run_dirs: Sequence[Path]) -> str:
    """The report as one HTML document that asks for nothing from a network.

    Every string that comes from a file is escaped, in the page and in the data of its figures. Raises UsageError where
    plotly is not installed.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError(f"--html draws with plotly, which is not installed; {_INSTALL} installs it") from error
    runs, damaged = shown(_load(report, run_dirs))
    report = shown(report)
    drawn: dict[str, Any] = {}
    gains = [row for row in report.rows if row.gain is not None]
    if len(gains) > 1:
        drawn["comparison"] = figures.plain(figures.comparison(gains, KeepRule().min_gain))
    sections = [_section(index, run, drawn) for index, run in enumerate(runs)]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    place = files("fusetune.report.html")
    text: str = environment.from_string(place.joinpath("page.html.j2").read_text(encoding="utf-8")).render(
        version=fusetune.__version__,
        report=report,
        wording=wording,
        format_us=format_us,
        format_gain=format_gain,
        format_interval=format_interval,
        format_bytes=format_bytes,
        sections=sections,
        has_comparison="comparison" in drawn,
        comparison_height=120 + 34 * len(gains),
        damaged=[*report.problems, *damaged],
        style=_raw(place.joinpath("page.css").read_text(encoding="utf-8")),
        script=_raw(place.joinpath("page.js").read_text(encoding="utf-8")),
        plotly=_raw(get_plotlyjs()),
        figures=_raw(_embedded(drawn)),
    )
    return text


def _load(report: Report, run_dirs: Sequence[Path]) -> tuple[list[RunData], list[DamagedFile]]:
    runs, damaged = [], []
    for summary in report.runs:
        journal = find_run(summary.run, run_dirs)
        if journal is None:
            continue
        try:
            runs.append(run_data(list(read_journal(journal))))
        except FusetuneError as error:
            damaged.append(DamagedFile(str(journal), str(error)))
    return runs, damaged


def _section(index: int, run: RunData, drawn: dict[str, Any]) -> dict[str, Any]:
    """What the template needs of one run; its figures go into `drawn`."""
    prefix = f"run{index}"
    shown: list[tuple[str, str, str]] = []

    def draw(name: str, title: str, told: str, figure: Any) -> None:
        drawn[f"{prefix}-{name}"] = figures.plain(figure)
        shown.append((f"{prefix}-{name}", title, told))

    axes = figures.axes(run)
    if run.points:
        draw("candidates", "Candidates", "Every candidate's time, as in the table below.", figures.candidates(run))
        drawn[f"{prefix}-candidates"]["axes"] = {
            axis: {
                "title": title,
                "x": [
                    figures.axis_values(points, axis)
                    for points in (
                        run.points,
                        [point for point in run.points if point.baseline],
                        [point for point in run.points if point.chosen],
                    )
                ],
            }
            for axis, title in axes.items()
        }
        names = figures.varying(run)[:2]
        if len(names) == 2:
            told = f"The best time of each {names[0]} x {names[1]}, in us."
            draw("tiles", "Tiles", told, figures.tiles(run, (names[0], names[1])))
    if run.points and run.roofs is not None:
        draw("roofline", "Roofline", "Achieved arithmetic under the GPU's peaks.", figures.roofline(run, run.roofs))
    for number, pair in enumerate(run.pairs):
        if pair.gains:
            told = f"Median {format_gain(pair.median)}, interval {format_interval(pair.low, pair.high)}."
            draw(f"gain{number}", pair.title, told, figures.gains(pair, run.summary.rule.min_gain))
    if any(block.sm_mhz is not None or block.power_w is not None for block in run.blocks):
        draw("clocks", "Clock and power", "SM clock and power over the blocks.", figures.clocks(run))
    return {"id": prefix, "run": run, "figures": shown, "axes": axes}


def _embedded(drawn: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    from plotly.utils import PlotlyJSONEncoder

    text = json.dumps(drawn, cls=PlotlyJSONEncoder, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _raw(text: str) -> Any:
    """Text of our own or of plotly's, not of a file that is shown."""
    from markupsafe import Markup

    return Markup(text)
