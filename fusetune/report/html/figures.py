"""The figures of a run's page: SVG of our own, with what is compared marked in each."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any, Final

import msgspec

from fusetune.core.decision import reference_name
from fusetune.report.html.data import Point, Roofs, RunData
from fusetune.report.html.parameters import MOST_VALUES, Parameter, parameters, varying_numbers
from fusetune.report.html.plot import Axis, Mark, Scale, around, axis, band, dot, line, plot, time_axis, up
from fusetune.store.journal import Block
from fusetune.units import format_factor, format_us

RESOURCES: Final = {"registers": "registers a thread", "shared_bytes": "shared memory a CTA, KiB"}
"""What the time of a candidate can be drawn against, beside its parameters."""
_JITTER: Final = 0.5
_MOST_TICKS: Final = 8
_MOST_LETTERS: Final = 18
"""Of all the values below a panel; with more it takes the width of two."""
_STAGES: Final = 6
"""So many colours there are of numbers of stages; more have the last one."""


class Figure(msgspec.Struct, frozen=True):
    """A figure with its title and what it shows in words; `body` is markup. `wide`: it needs all of the width."""

    id: str
    title: str
    told: str
    body: str
    wide: bool = False
    keys: tuple[tuple[str, str], ...] = ()
    """What its colours are, as a class of style and a word."""


def candidates(run: RunData, prefix: str) -> tuple[Figure, dict[str, Any]]:
    """Every candidate as a point, time against what the page's reader chooses; and where points are on each axis."""
    every = {name: _axis_of(run.points, name) for name in (*varying_numbers(run.points), *RESOURCES)}
    drawn = {name: found for name, found in every.items() if found is not None}
    first = "num_warps" if "num_warps" in drawn else next(iter(drawn), "")
    x, places = drawn.get(first) or (Axis(Scale(0, 1), "", ()), [50.0] * len(run.points))
    y = time_axis([*(point.time_us for point in run.points), *(mark.value for mark in run.marks)], run.what)
    body = "".join(
        dot(place, y.scale.at(point.time_us), _stage_class(point), point=number)
        for number, (point, place) in enumerate(zip(run.points, places, strict=True))
    )
    rings = "".join(
        dot(places[number], y.scale.at(point.time_us), f"ring {_kind(point, run)}", radius=8, point=number)
        for number, point in enumerate(run.points)
        if point.chosen or point.named
    )
    axes = {
        name: {"title": found.title, "ticks": found.ticks, "x": where, "now": name == first}
        for name, (found, where) in drawn.items()
    }
    stages = sorted({_stages(point) for point in run.points if not point.is_library})
    keys = tuple((f"s{number}", f"{number}{'+' if number == _STAGES else ''} stages") for number in stages)
    left = f" The {run.left_out} slowest are left out." if run.left_out else ""
    told = f"One point a candidate; rest on one, or touch it, to see what it is.{left}"
    figure = Figure(
        f"{prefix}candidates",
        "Every candidate",
        told,
        plot(x, y, body + rings, described=told, marks=run.marks, size="high"),
        keys=keys if len(keys) > 1 else (),
    )
    return figure, axes


def _axis_of(points: Sequence[Point], name: str) -> tuple[Axis, list[float | None]] | None:
    """An axis and where each point stands on it; few distinct values are spread a little, always in the same way."""
    values = [_value(point, name) for point in points]
    held = sorted({value for value in values if value is not None})
    if len(held) < 2:
        return None
    if name in RESOURCES or len(held) > MOST_VALUES:
        scale = around(held)
        return axis(scale, RESOURCES.get(name, name)), [None if value is None else scale.at(value) for value in values]
    scale = Scale(-0.5, len(held) - 0.5)
    ticks = tuple((scale.at(number), f"{value:g}") for number, value in enumerate(held))
    order = {value: number for number, value in enumerate(held)}
    places = [
        None if value is None else scale.at(order[value] + _JITTER * ((number * 0.618) % 1 - 0.5))
        for number, value in enumerate(values)
    ]
    return Axis(scale, name, ticks), places


def _value(point: Point, name: str) -> float | None:
    if point.is_library:
        return None
    if name == "shared_bytes":
        return None if point.shared_bytes is None else point.shared_bytes / 1024
    value = point.registers if name == "registers" else point.values.get(name)
    return float(value) if isinstance(value, int | float) else None


def _stages(point: Point) -> int:
    stages = point.values.get("num_stages")
    return min(max(stages, 1), _STAGES) if isinstance(stages, int) else 1


def _stage_class(point: Point) -> str:
    return "lib" if point.is_library else f"s{_stages(point)}"


def _kind(point: Point, run: RunData) -> str:
    """The class of style of what is marked."""
    if point.chosen and not point.named:
        return "kept"
    return "before" if run.summary.before is not None else "baseline"


def progress(run: RunData, prefix: str) -> Figure:
    """Each sample of the search in the order in which it was taken, and the best so far."""
    numbers = {point.id: number for number, point in enumerate(run.points)}
    x = axis(Scale(0, max(len(run.samples), 2)), "screening samples, in their order")
    times = [us for _, _, us in run.samples]
    y = time_axis([*times, *(mark.value for mark in run.marks)], "time of a launch")
    best = list(accumulate(times, min))
    steps: list[tuple[float, float]] = []
    for number, (before, now) in enumerate(zip([best[0], *best], best, strict=False), start=1):
        if now < before or number in {1, len(best)}:
            steps += [(x.scale.at(number), y.scale.at(before)), (x.scale.at(number), y.scale.at(now))]
    body = "".join(
        dot(x.scale.at(number), y.scale.at(us), "sample", radius=2, point=numbers.get(candidate))
        for number, (candidate, _, us) in enumerate(run.samples, start=1)
    )
    bands, begin = "", 0
    for index, (number, held) in enumerate(groupby(run.samples, key=lambda sample: sample[1])):
        end = begin + len(list(held))
        kind = "band odd" if index % 2 else "band"
        name = f"round {number}" if end - begin > len(times) / 8 else ""
        bands += band(x.scale.at(begin), x.scale.at(end), kind, name)
        begin = end
    reached = best.index(best[-1]) + 1
    told = f"The line is the best sample so far; no later one was faster than sample {reached} of {len(times)}."
    return Figure(
        f"{prefix}progress",
        "Time against progress of the search",
        told,
        plot(x, y, body + line(steps, "best"), described=told, marks=run.marks, bands=bands),
    )


def mattered(run: RunData, prefix: str) -> Figure | None:
    """A panel for each parameter: the best time that each of its values allows. None where nothing varies."""
    found = parameters(run.points)
    if not found:
        return None
    y = time_axis([*(us for one in found for us in one.best_us), *(mark.value for mark in run.marks)], run.what)
    panels = "".join(_panel(one, y, run.marks, reference_name(run.summary.before)) for one in found)
    most = found[0]
    told = (
        f"{most.name} mattered most: with its worst value the best takes {format_factor(most.worth)} as long as with "
        "its best. A point is the best time with one value, whatever the others are; a flat line does not matter."
    )
    return Figure(
        f"{prefix}parameters", "Which parameter mattered", told, f'<div class="panels">{panels}</div>', wide=True
    )


def _panel(one: Parameter, y: Axis, marks: Sequence[Mark], name: str) -> str:
    scale = Scale(-0.4, len(one.values) - 0.6)
    places = [scale.at(number) for number in range(len(one.values))]
    heights = [y.scale.at(us) for us in one.best_us]
    step = -(-len(one.values) // _MOST_TICKS)
    x = Axis(scale, "", tuple(zip(places, map(str, one.values), strict=True))[::step])
    dots = "".join(
        dot(place, height, f"ring {kind}", radius=7)
        for place, height, value in zip(places, heights, one.values, strict=True)
        for kind, own in (("kept", one.kept), (name.lower(), one.reference))
        if value == own and not (kind != "kept" and one.kept == one.reference)
    )
    dots += "".join(dot(place, height) for place, height in zip(places, heights, strict=True))
    kind = "panel words" if sum(len(str(value)) for value in one.values[:_MOST_TICKS]) > _MOST_LETTERS else "panel"
    cost = "" if one.costs is None else f"{name}'s {one.reference} costs {format_factor(one.costs)}"
    described = f"{one.name}: " + ", ".join(
        f"{value} {format_us(us)}" for value, us in zip(one.values, one.best_us, strict=True)
    )
    lines = "".join(
        f'<line class="mark-line {mark.kind}" x1="0" x2="100%" y1="{up(y.scale.at(mark.value))}%" '
        f'y2="{up(y.scale.at(mark.value))}%"/>'
        for mark in marks
    )
    body = lines + line(list(zip(places, heights, strict=True)), "best") + dots
    return (
        f'<div class="{kind}"><h4>{html.escape(one.name)}: up to {format_factor(one.worth)}</h4>'
        f'<p class="told">{html.escape(cost)}</p>'
        f"{plot(x, msgspec.structs.replace(y, title=''), body, described=described, size='small')}</div>"
    )


def roofline(run: RunData, roofs: Roofs, prefix: str) -> Figure:
    """What the candidates achieve, under the GPU's peaks."""
    ridge = roofs.peak_tflops * 1e3 / roofs.dram_gb_s
    reach = (min(ridge, roofs.intensity) / 8, ridge, max(ridge, roofs.intensity) * 8)
    tops = [min(roofs.peak_tflops, at * roofs.dram_gb_s / 1e3) for at in reach]
    x = axis(Scale(reach[0], reach[2], log=True), "FLOPs a byte of device memory, at best")
    done = [roofs.tflops(point.time_us) for point in run.points]
    marks = tuple(
        msgspec.structs.replace(mark, value=roofs.tflops(mark.value), text=f"{roofs.tflops(mark.value):.3g}")
        for mark in run.marks
    )
    y = axis(around([*done, *tops, *(mark.value for mark in marks)], log=True), "TFLOP/s")
    at = x.scale.at(roofs.intensity)
    body = line([(x.scale.at(one), y.scale.at(top)) for one, top in zip(reach, tops, strict=True)], "roof")
    body += "".join(
        dot(at, y.scale.at(one), _stage_class(point), point=number)
        for number, (point, one) in enumerate(zip(run.points, done, strict=True))
    )
    roof = min(roofs.peak_tflops, roofs.intensity * roofs.dram_gb_s / 1e3)
    told = (
        f"The line is {roofs.target}: {roofs.peak_tflops:g} TFLOP/s and {roofs.dram_gb_s:g} GB/s. "
        f"The fastest candidate does {max(done) / roof * 100:.0f} % of what the roof allows here."
    )
    return Figure(f"{prefix}roofline", "Roofline", told, plot(x, y, body, described=told, marks=marks))


def clocks(run: RunData, prefix: str) -> Figure:
    """SM clock and power over the run's blocks; those that were discarded or flagged are marked."""
    x = axis(Scale(1, max(len(run.blocks), 2)), "block")
    bands, begin = "", 1
    for index, (phase, held) in enumerate(groupby(run.blocks, key=lambda block: block.phase)):
        end = begin + len(list(held))
        name = phase if end - begin > len(run.blocks) / 10 else ""
        bands += band(x.scale.at(begin), x.scale.at(end - 1), "band odd" if index % 2 else "band", name, low=True)
        begin = end
    body = _over_blocks(run.blocks, x, bands, "SM clock, MHz", [block.sm_mhz for block in run.blocks])
    body += _over_blocks(run.blocks, x, bands, "power, W", [block.power_w for block in run.blocks])
    told = " ".join(["SM clock and power of each paired block.", *_odd(run.blocks)])
    return Figure(f"{prefix}clocks", "Clock and power", told, f'<div class="pair">{body}</div>', wide=True)


def _odd(blocks: Sequence[Block]) -> list[str]:
    """What was wrong with blocks, by cause."""
    causes = Counter(f"discarded: {block.discarded}" for block in blocks if block.discarded)
    causes.update(f"flagged: {flag}" for block in blocks for flag in block.flags)
    crossed = ["Crossed: discarded."] if any(block.discarded for block in blocks) else []
    return [*(f"{count} of {len(blocks)} {cause}." for cause, count in causes.items()), *crossed]


def _over_blocks(blocks: Sequence[Block], x: Axis, bands: str, title: str, values: Sequence[float | None]) -> str:
    held = [(number, float(value)) for number, value in enumerate(values, start=1) if value is not None]
    if not held:
        return ""
    y = axis(around([value for _, value in held], least=0.0), title, most=4)
    body = line([(x.scale.at(number), y.scale.at(value)) for number, value in held], "best")
    for number, value in held:
        block = blocks[number - 1]
        if block.discarded:
            why = html.escape(", ".join([block.discarded, *block.flags]))
            body += (
                f'<text class="cross" x="{x.scale.at(number)}%" y="{up(y.scale.at(value))}%" dy="0.32em">'
                f"<title>block {number}: {why}</title>x</text>"
            )
    return plot(x, y, body, described=title, bands=bands, size="half")
