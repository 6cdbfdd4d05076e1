"""What a page shows of one run, as plain data: every candidate, every block, the roofs of its GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from fusetune.core.decision import reference_name
from fusetune.core.target import Target, match_target
from fusetune.core.values import Value
from fusetune.errors import UsageError
from fusetune.ops.loading import spec_named
from fusetune.report import wording
from fusetune.report.run_summary import CandidateRow, RunSummary, candidate_rows, summarize_run
from fusetune.store.journal import Block, Candidate, Record
from fusetune.units import format_bytes, format_us


class Point(msgspec.Struct, frozen=True):
    """One candidate with a time: its config, what it takes of an SM, and the time that it was ranked by, in us.

    `named` is what people call it where all are held against it: BASELINE, or Before; empty for the others.
    """

    label: str
    constants: Mapping[str, Value]
    num_warps: int
    num_stages: int
    is_library: bool
    status: str
    time_us: float
    registers: int | None
    stack_bytes: int | None
    shared_bytes: int | None
    chosen: bool
    baseline: bool
    named: str

    def hover(self) -> str:
        """What is told of it where a pointer rests on it; not escaped yet."""
        lines = [self.label, format_us(self.time_us)]
        if self.registers is not None:
            lines.append(f"{self.registers} registers, {format_bytes(self.shared_bytes or 0)} shared memory")
            lines.append(f"spills {self.stack_bytes} bytes" if self.stack_bytes else "no spill")
        return "\n".join(lines)


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

    title: str
    gains: tuple[float, ...]
    median: float
    low: float
    high: float


class RunData(msgspec.Struct, frozen=True):
    """One run for the page."""

    summary: RunSummary
    points: tuple[Point, ...]
    dropped: tuple[CandidateRow, ...]
    pairs: tuple[Pair, ...]
    blocks: tuple[Block, ...]
    roofs: Roofs | None
    no_roofs: str


def run_data(records: Sequence[Record]) -> RunData:
    """The data of one run's records. Raises JournalError where they do not begin a run."""
    summary = summarize_run(records)
    rows = candidate_rows(records)
    predicted = summary.evidence == "predicted"
    points = []
    for row in rows:
        time_us = row.predicted_us if predicted else row.screening_us
        if time_us is not None and math.isfinite(time_us) and row.status not in {"rejected", "failed"}:
            points.append(_point(row, time_us, summary))
    roofs, why = _roofs(summary)
    blocks = tuple(record for record in records if isinstance(record, Block))
    seen = [record for record in records if isinstance(record, Candidate)]
    labels = {record.id: wording.config_text(record.config, summary) for record in seen}
    return RunData(
        summary=summary,
        points=tuple(sorted(points, key=lambda point: point.time_us)),
        # Those that a rule alone rejected are counted by reason: thousands of rows without a figure help nobody.
        dropped=tuple(row for row in rows if row.status in {"rejected", "failed"} and row.resources is not None),
        pairs=_pairs(summary, blocks, labels),
        blocks=blocks,
        roofs=roofs,
        no_roofs=why,
    )


def _point(row: CandidateRow, time_us: float, summary: RunSummary) -> Point:
    config, used = row.config, row.resources
    return Point(
        label=config.label(),
        constants=config.constants(),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        is_library=config.is_library,
        status=row.status,
        time_us=time_us,
        registers=used.registers if used else None,
        stack_bytes=used.stack_bytes if used else None,
        shared_bytes=used.shared_bytes if used else None,
        chosen=row.chosen,
        baseline=row.is_baseline,
        named=reference_name(summary.before) if row.is_baseline else "",
    )


def _pairs(summary: RunSummary, blocks: Sequence[Block], labels: dict[int, str]) -> tuple[Pair, ...]:
    pairs = []
    for row in summary.comparisons:
        own = [
            block
            for block in blocks
            if (block.phase, block.baseline_id, block.id) == (row.phase, row.baseline_id, row.id)
            and block.discarded is None
        ]
        names = [labels.get(number, f"candidate {number}") for number in (row.id, row.baseline_id)]
        pairs.append(
            Pair(
                title=f"{row.phase}: {names[0]} over {names[1]}",
                gains=tuple(1 - block.us / block.baseline_us for block in own),
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
