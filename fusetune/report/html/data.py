"""What a page shows of one run, as plain data: every candidate, every block, the roofs of its GPU."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import reference_name
from fusetune.core.target import Target, match_target
from fusetune.core.values import Value
from fusetune.errors import UsageError
from fusetune.ops.loading import spec_named
from fusetune.report import wording
from fusetune.report.html.plot import Mark
from fusetune.report.run_summary import CandidateRow, RunSummary, summary_and_rows
from fusetune.store.journal import Block, Candidate, Record, Sample, Status
from fusetune.units import format_us

MOST_CANDIDATES: Final = 2500
"""The fastest so many are drawn and listed, so that a page stays one that a browser is quick with."""
MOST_SAMPLES: Final = 3000
_LONGEST_NAME: Final = 14
_FALLEN: Final[tuple[Status, ...]] = ("rejected", "failed", "skipped")


class Point(msgspec.Struct, frozen=True):
    """One candidate with a time: its config, what it takes of an SM, and the time that it was ranked by, in us.

    `named` is what people call it where all are held against it: BASELINE, or Before; empty for the others.
    """

    id: int
    label: str
    values: Mapping[str, Value]
    is_library: bool
    status: str
    time_us: float
    registers: int | None
    stack_bytes: int | None
    shared_bytes: int | None
    chosen: bool
    named: str


class Roofs(msgspec.Struct, frozen=True):
    """The roofline of a problem: FLOPs a byte, the fewest bytes and the FLOPs of a launch, and the GPU's peaks."""

    flops: float
    bytes: float
    peak_tflops: float
    dram_gb_s: float
    target: str

    @property
    def intensity(self) -> float:
        """FLOPs a byte of device memory, at best."""
        return self.flops / self.bytes

    def tflops(self, time_us: float) -> float:
        """What a launch of this time achieves."""
        return self.flops / time_us / 1e6


class Pair(msgspec.Struct, frozen=True):
    """The blocks of one comparison: each block's gain, and the interval that they came to."""

    phase: str
    config: str
    over: str
    outcome: str
    gains: tuple[float, ...]
    median: float
    low: float
    high: float


class Fallen(msgspec.Struct, frozen=True):
    """How many candidates were not tried or fell for one reason, what that means, and one of them."""

    count: int
    status: str
    reason: str
    words: str
    example: str


class RunData(msgspec.Struct, frozen=True):
    """One run for its page.

    `samples` are those of screening in the order in which they were taken: the candidate's number, its round, and us.
    `untimed` are those that were compiled and have no time. `left_out` counts the candidates with a time that are too
    many to be drawn.
    """

    summary: RunSummary
    points: tuple[Point, ...]
    left_out: int
    untimed: tuple[CandidateRow, ...]
    fallen: tuple[Fallen, ...]
    samples: tuple[tuple[int, int, float], ...]
    pairs: tuple[Pair, ...]
    blocks: tuple[Block, ...]
    marks: tuple[Mark, ...]
    roofs: Roofs | None
    no_roofs: str

    @property
    def what(self) -> str:
        """What the times of the candidates are."""
        return "predicted time" if self.summary.evidence == "predicted" else "screening time"


class RunsData:
    """The data of runs, by their ids, as `load_report` and `load_run` read their journals with `summarize`."""

    def __init__(self) -> None:
        self.by_run: dict[str, RunData] = {}

    def summarize(self, records: Iterable[Record]) -> RunSummary:
        """The summary of one run's records, whose data is kept. Raises JournalError where they do not begin a run."""
        data = run_data(list(records))
        self.by_run[data.summary.run] = data
        return data.summary


def run_data(records: Sequence[Record]) -> RunData:
    """The data of one run's records. Raises JournalError where they do not begin a run."""
    summary, rows = summary_and_rows(records)
    points = sorted(_points(rows, summary), key=lambda point: point.time_us)
    shown = points[:MOST_CANDIDATES]
    shown += [point for point in points[MOST_CANDIDATES:] if point.chosen or point.named]
    timed = {point.id for point in points}
    roofs, why = _roofs(summary)
    blocks = tuple(record for record in records if isinstance(record, Block))
    seen = [record for record in records if isinstance(record, Candidate)]
    compared = {number for row in summary.comparisons for number in (row.id, row.baseline_id)}
    labels = {record.id: wording.config_text(record.config, summary) for record in seen if record.id in compared}
    return RunData(
        summary=summary,
        points=tuple(shown),
        left_out=len(points) - len(shown),
        # Those that a rule alone rejected are counted by reason: thousands of rows without a figure help nobody.
        untimed=tuple(row for row in rows if row.id not in timed and row.resources is not None)[:MOST_CANDIDATES],
        fallen=_fallen(list({record.id: record for record in seen}.values()), _rejections(summary.op)),
        samples=_samples(records),
        pairs=_pairs(summary, blocks, labels),
        blocks=blocks,
        marks=_marks(summary, points),
        roofs=roofs,
        no_roofs=why,
    )


def _points(rows: Sequence[CandidateRow], summary: RunSummary) -> list[Point]:
    predicted = summary.evidence == "predicted"
    points = []
    for row in rows:
        time_us = row.predicted_us if predicted else row.screening_us
        if time_us is not None and math.isfinite(time_us) and row.status not in _FALLEN[:2]:
            points.append(_point(row, time_us, summary))
    return points


def _point(row: CandidateRow, time_us: float, summary: RunSummary) -> Point:
    config, used = row.config, row.resources
    return Point(
        id=row.id,
        label=config.label(),
        values=values_of(config),
        is_library=config.is_library,
        status=row.status,
        time_us=time_us,
        registers=used.registers if used else None,
        stack_bytes=used.stack_bytes if used else None,
        shared_bytes=used.shared_bytes if used else None,
        chosen=row.chosen,
        named=reference_name(summary.before) if row.is_baseline else "",
    )


def values_of(config: Config) -> dict[str, Value]:
    """All that a config decides, by name: its constants, then the options of the launch."""
    return {**config.constants(), **config.options()}


def _samples(records: Sequence[Record]) -> tuple[tuple[int, int, float], ...]:
    taken = [(record.id, record.round, record.us) for record in records if isinstance(record, Sample)]
    step = -(-len(taken) // MOST_SAMPLES) or 1
    return tuple(taken[::step])


def _fallen(last: Sequence[Candidate], own: Mapping[str, str]) -> tuple[Fallen, ...]:
    """By status and reason, the commonest first of each status."""
    found: defaultdict[tuple[Status, str], list[Candidate]] = defaultdict(list)
    for record in last:
        if record.status in _FALLEN:
            found[record.status, record.reason or ""].append(record)
    ordered = sorted(found.items(), key=lambda item: (_FALLEN.index(item[0][0]), -len(item[1]), item[0][1]))
    made = []
    for (status, reason), records in ordered:
        first = next((record for record in records if record.detail), records[0])
        example = f"{first.config.label()}: {first.detail}" if first.detail else first.config.label()
        made.append(
            Fallen(len(records), status, reason or "no reason given", wording.fallen_words(reason, own), example)
        )
    return tuple(made)


def _rejections(op: str) -> Mapping[str, str]:
    """The words that an op has for its own reasons; none for one that only its user's file knows."""
    try:
        return spec_named(op).rejections
    except UsageError:
        return {}


def short_library(config: Config) -> str:
    """A library's name in a word that has room beside a plot."""
    name = (config.library_name.split() or [""])[0]
    return name if 0 < len(name) <= _LONGEST_NAME else "library"


def _marks(summary: RunSummary, points: Sequence[Point]) -> tuple[Mark, ...]:
    """What every plot shows: what all are held against, BASELINE beside it, what was chosen, and a library."""
    marks = []
    entry = summary.entry
    reference = next((point for point in points if point.named), None)
    chosen = next((point for point in points if point.chosen), None)
    if reference is not None:
        kind = "before" if summary.before is not None else "baseline"
        marks.append(Mark(reference.named, reference.time_us, format_us(reference.time_us), kind))
    beside = _baseline_beside(summary, points)
    if beside is not None:
        marks.append(Mark("BASELINE", beside.time_us, format_us(beside.time_us), "baseline"))
    if chosen is not None and chosen is not reference:
        name = "kept" if entry is not None and entry.verdict == "keep" else "chosen"
        marks.append(Mark(name, chosen.time_us, format_us(chosen.time_us), "kept"))
    if entry is not None and entry.library is not None:
        marks.append(Mark(short_library(entry.library.config), entry.library.us, format_us(entry.library.us), "lib"))
    return tuple(marks)


def _baseline_beside(summary: RunSummary, points: Sequence[Point]) -> Point | None:
    """BASELINE where another config ran before: the one that the entry's gain over it names."""
    over = summary.entry.gain_over_baseline if summary.entry is not None else None
    if summary.before is None or over is None:
        return None
    label = over.config.label()
    return next((point for point in points if point.label == label and not point.named), None)


def _pairs(summary: RunSummary, blocks: Sequence[Block], labels: dict[int, str]) -> tuple[Pair, ...]:
    gains: defaultdict[tuple[str, int, int], list[float]] = defaultdict(list)
    for block in blocks:
        if block.discarded is None:
            gains[block.phase, block.baseline_id, block.id].append(1 - block.us / block.baseline_us)
    pairs = []
    for row in summary.comparisons:
        names = [labels.get(number, f"candidate {number}") for number in (row.id, row.baseline_id)]
        pairs.append(
            Pair(
                phase=row.phase,
                config=names[0],
                over=names[1],
                outcome=wording.outcome_text(row),
                gains=tuple(gains[row.phase, row.baseline_id, row.id]),
                median=row.gain.median,
                low=row.gain.low,
                high=row.gain.high,
            )
        )
    return tuple(pairs)


def _roofs(summary: RunSummary) -> tuple[Roofs | None, str]:
    """The roofline, or why there is none: a peak that no document states is not guessed."""
    target = match_target(summary.target.name, summary.target.capability, summary.target.sms)
    if target is None:
        return None, f"the table of targets has no {summary.target.name}"
    try:
        spec = spec_named(summary.op)
        if not isinstance(summary.problem, spec.types.problem):
            return None, f"the journal was not begun as one of {summary.op}"
        flops, kind = spec.flops(summary.problem), spec.kind(summary.problem)
    except UsageError as error:
        return None, str(error)
    peak = _peak(target, kind)
    if peak is None or target.dram_gb_s is None:
        return None, f"no document states the peak of {target.name} for {summary.problem.form_text()}"
    return Roofs(flops, spec.bytes(summary.problem), peak, target.dram_gb_s, target.name), ""


def _peak(target: Target, kind: str | None) -> float | None:
    # Split products spend several TF32 or bfloat16 ones on each: no table states a peak for them.
    peaks = {
        "tf32": target.tf32_tflops,
        "ieee": target.fp32_tflops,
        "float16": target.fp16_tflops,
        "bfloat16": target.bf16_tflops,
    }
    return peaks.get(kind or "")
