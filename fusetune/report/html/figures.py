"""The figures of a page, made with plotly; colours that depend on light or dark are set by the page's script."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fusetune.core.values import Value
from fusetune.report import wording
from fusetune.report.html.data import Pair, Point, Roofs, RunData
from fusetune.report.model import ProblemRow

if TYPE_CHECKING:
    import plotly.graph_objects as go

AXES: Final[Mapping[str, str]] = {
    "num_warps": "num_warps",
    "num_stages": "num_stages",
    "registers": "registers a thread",
    "shared_bytes": "shared memory a CTA, KiB",
}
"""What the time of a candidate can be drawn against, beside its constants."""
_JITTER: Final = 0.16
_SYMBOLS: Final = {1: "cross", 2: "triangle-up", 4: "circle", 8: "square", 16: "diamond", 32: "x"}


def candidates(run: RunData) -> go.Figure:
    """Every candidate as a point: time against what the page's reader chooses."""
    import plotly.graph_objects as go

    figure = go.Figure()
    points = run.points
    figure.add_scatter(
        x=axis_values(points, "num_warps"),
        y=[point.time_us for point in points],
        mode="markers",
        name="candidates",
        text=[_hover(point) for point in points],
        hovertemplate="%{text}<extra></extra>",
        marker={
            "color": [math.log2(point.num_stages) for point in points],
            "colorscale": "Viridis",
            "size": 8,
            "opacity": 0.75,
            "symbol": [_SYMBOLS.get(point.num_warps, "circle") for point in points],
            "colorbar": {
                "title": {"text": "stages"},
                "thickness": 10,
                "tickvals": [math.log2(number) for number in range(1, 9)],
                "ticktext": [str(number) for number in range(1, 9)],
            },
        },
    )
    for name, symbol, marked in (
        (next((point.named for point in points if point.named), "BASELINE"), "star", [p for p in points if p.baseline]),
        ("chosen", "circle-open", [point for point in points if point.chosen]),
    ):
        figure.add_scatter(
            x=axis_values(marked, "num_warps"),
            y=[point.time_us for point in marked],
            mode="markers",
            name=name,
            text=[_hover(point) for point in marked],
            hovertemplate=f"{name}: %{{text}}<extra></extra>",
            marker={"symbol": symbol, "size": 16, "color": "#d1495b", "line": {"width": 2}},
        )
    what = "predicted time" if run.summary.evidence == "predicted" else "screening time"
    figure.update_xaxes(title=AXES["num_warps"])
    figure.update_yaxes(title=f"{what}, us", type="log")
    figure.update_layout(legend={"orientation": "h", "y": 1.12})
    return figure


def axis_values(points: Sequence[Point], axis: str) -> list[float | None]:
    """Where points stand on an axis; few distinct values are spread a little, always in the same way."""
    values = [_axis_value(point, axis) for point in points]
    if axis in {"registers", "shared_bytes"}:
        return values
    return [
        None if value is None else float(f"{value * (1 + _JITTER * ((index * 0.618) % 1 - 0.5)):.4g}")
        for index, value in enumerate(values)
    ]


def axes(run: RunData) -> dict[str, str]:
    """What a reader may choose for this run, with titles: the constants that are numbers and differ come first."""
    return {**{name: name for name in varying(run)}, **AXES}


def varying(run: RunData) -> list[str]:
    """Names of the constants that are numbers, and of which the candidates have several values."""
    seen: dict[str, set[Value]] = defaultdict(set)
    for point in run.points:
        for name, value in point.constants.items():
            if type(value) is int and not point.is_library:
                seen[name].add(value)
    return [name for name, values in seen.items() if len(values) > 1]


def _axis_value(point: Point, axis: str) -> float | None:
    if axis == "shared_bytes":
        return None if point.shared_bytes is None else point.shared_bytes / 1024
    value = point.constants[axis] if axis in point.constants else getattr(point, axis, None)
    return float(value) if isinstance(value, int | float) else None


def tiles(run: RunData, names: tuple[str, str]) -> go.Figure:
    """The best time of each pair of values of two constants."""
    import plotly.graph_objects as go

    best: dict[tuple[Any, Any], Point] = {}
    for point in run.points:
        place = (point.constants.get(names[0]), point.constants.get(names[1]))
        if point.is_library or None in place:
            continue
        if place not in best or point.time_us < best[place].time_us:
            best[place] = point
    rows, columns = sorted({m for m, _ in best}), sorted({n for _, n in best})
    figure = go.Figure()
    figure.add_heatmap(
        x=[str(n) for n in columns],
        y=[str(m) for m in rows],
        z=[[_log(best.get((m, n))) for n in columns] for m in rows],
        text=[[f"{best[m, n].time_us:.3g}" if (m, n) in best else "" for n in columns] for m in rows],
        texttemplate="%{text}",
        customdata=[[_hover(best[m, n]) if (m, n) in best else "" for n in columns] for m in rows],
        hovertemplate="%{customdata}<extra></extra>",
        colorscale="Viridis_r",
        showscale=False,
    )
    figure.update_xaxes(title=names[1], type="category")
    figure.update_yaxes(title=names[0], type="category")
    return figure


def roofline(run: RunData, roofs: Roofs) -> go.Figure:
    """What the candidates achieve, under the GPU's peaks."""
    import plotly.graph_objects as go

    ridge = roofs.peak_tflops * 1e3 / roofs.dram_gb_s
    reach = [ridge / 64, ridge, max(ridge * 64, roofs.intensity * 4)]
    figure = go.Figure()
    figure.add_scatter(
        x=reach,
        y=[min(roofs.peak_tflops, at * roofs.dram_gb_s / 1e3) for at in reach],
        mode="lines",
        name=f"{html.escape(roofs.target)}: {roofs.peak_tflops:g} TFLOP/s, {roofs.dram_gb_s:g} GB/s",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[roofs.intensity for _ in run.points],
        y=[roofs.tflops(point.time_us) for point in run.points],
        mode="markers",
        name="candidates",
        text=[f"{roofs.tflops(point.time_us):.3g} TFLOP/s<br>{_hover(point)}" for point in run.points],
        hovertemplate="%{text}<extra></extra>",
        marker={"size": 7, "opacity": 0.6},
    )
    figure.update_xaxes(title="FLOPs a byte of device memory, at best", type="log")
    figure.update_yaxes(title="TFLOP/s", type="log")
    figure.update_layout(legend={"orientation": "h", "y": 1.12})
    return figure


def gains(pair: Pair, min_gain: float) -> go.Figure:
    """The blocks' gains as a distribution, with the interval of their median and the gain that is needed."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_histogram(
        x=[100 * gain for gain in pair.gains],
        nbinsx=30,
        name="blocks",
        hovertemplate="%{y} blocks at %{x} %<extra></extra>",
    )
    if math.isfinite(pair.low) and math.isfinite(pair.high):
        figure.add_vrect(x0=100 * pair.low, x1=100 * pair.high, opacity=0.25, line_width=0, fillcolor="#2a9d8f")
    figure.add_vline(x=100 * pair.median, line={"color": "#2a9d8f", "width": 2})
    figure.add_vline(x=100 * min_gain, line={"color": "#d1495b", "width": 2, "dash": "dash"})
    figure.update_xaxes(title=f"gain, %  (dashed: the {min_gain * 100:g} % needed; band: interval of the median)")
    figure.update_yaxes(title="blocks")
    figure.update_layout(showlegend=False)
    return figure


def clocks(run: RunData) -> go.Figure:
    """SM clock and power over the run's blocks; those that were discarded or flagged are marked."""
    import plotly.graph_objects as go

    numbers = list(range(1, len(run.blocks) + 1))
    figure = go.Figure()
    figure.add_scatter(
        x=numbers, y=[block.sm_mhz for block in run.blocks], mode="lines", name="SM clock, MHz", connectgaps=False
    )
    figure.add_scatter(x=numbers, y=[block.power_w for block in run.blocks], mode="lines", name="power, W", yaxis="y2")
    marked = [
        (number, block, html.escape(", ".join([*([block.discarded] if block.discarded else []), *block.flags])))
        for number, block in zip(numbers, run.blocks, strict=True)
        if block.discarded or block.flags
    ]
    if marked:
        figure.add_scatter(
            x=[number for number, _, _ in marked],
            y=[block.sm_mhz for _, block, _ in marked],
            mode="markers",
            name="discarded or flagged",
            text=[told for _, _, told in marked],
            hovertemplate="block %{x}: %{text}<extra></extra>",
            marker={"color": "#d1495b", "symbol": "x", "size": 8},
        )
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="MHz", rangemode="tozero")
    figure.update_layout(
        yaxis2={"title": {"text": "W"}, "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False},
        legend={"orientation": "h", "y": 1.12},
    )
    return figure


def comparison(rows: Sequence[ProblemRow], min_gain: float) -> go.Figure:
    """The gain of each problem that was measured, with its interval, against the gain that is needed."""
    import plotly.graph_objects as go

    held = [(row, row.gain) for row in rows if row.gain is not None]
    names = [html.escape(f"{row.problem.describe()}, {row.gpu} ({row.run})") for row, _ in held]
    figure = go.Figure()
    figure.add_scatter(
        x=[100 * gain.median for _, gain in held],
        y=names,
        mode="markers",
        marker={"size": 10},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (gain.high - gain.median) for _, gain in held],
            "arrayminus": [100 * (gain.median - gain.low) for _, gain in held],
        },
        text=[html.escape(f"{row.verdict}: {row.config.label()}") for row, _ in held],
        hovertemplate="%{y}<br>%{text}, gain %{x:.1f} %<extra></extra>",
    )
    figure.add_vline(x=100 * min_gain, line={"color": "#d1495b", "width": 2, "dash": "dash"})
    figure.update_xaxes(
        title=f"gain over {wording.reference_header(rows)}, %  (dashed: the {min_gain * 100:g} % needed)"
    )
    figure.update_yaxes(automargin=True)
    return figure


def plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain data, without plotly's own template, whose colours are for light pages only."""
    body: dict[str, Any] = figure.to_plotly_json()
    layout = {key: value for key, value in body["layout"].items() if key != "template"}
    return {"data": body["data"], "layout": {**layout, "margin": {"l": 60, "r": 20, "t": 30, "b": 50}}}


def _hover(point: Point) -> str:
    return html.escape(point.hover()).replace("\n", "<br>")


def _log(point: Point | None) -> float | None:
    return math.log10(point.time_us) if point else None
