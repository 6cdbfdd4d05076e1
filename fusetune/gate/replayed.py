"""Decided again from recorded blocks: the gate's own logic over a run's journal, without a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fusetune.core.config import Config
from fusetune.core.decision import reference_name
from fusetune.errors import MeasurementError, UsageError
from fusetune.gate.findings import Check, Finding
from fusetune.gate.judge import Judgement, Limits, judge_against, judge_gain
from fusetune.gate.live import finding_of
from fusetune.gate.recording import GATE_SPACE, GateJournal
from fusetune.measure.replay import ReplayMeasurer
from fusetune.ops.types import baseline_of
from fusetune.store.journal import Block, Candidate, Record, RunEnd, RunStart, Sampling, read_run
from fusetune.store.schema import Entry


def gate_from(journal: Path) -> Finding:
    """What the gate says of the blocks that a gate or a sweep recorded, by the entry that it ended with.

    Of a sweep those count that its published figure rests on: the revalidation's, or the final's where there was none.
    Raises JournalError for a journal that cannot be read, UsageError for one that ends with no entry.
    """
    records = read_run(journal)
    start = next((record for record in records if isinstance(record, RunStart)), None)
    end = next((record for record in records if isinstance(record, RunEnd)), None)
    if start is None or end is None or end.entry is None:
        why = end.message if end else "it was killed, or is still going"
        raise UsageError(f"{journal} ends with no entry to gate ({why}); name a run that decided something")
    entry = end.entry
    file = Path(end.file) if end.file else journal
    held = (record.config for record in records if isinstance(record, Candidate) and record.config.is_elsewhere)
    other = next((config for config in held if config.here() == entry.config), None)
    check: Check = "against" if other else "baseline"
    if other is None and (entry.evidence != "measured" or entry.verdict != "keep"):
        told = f"{entry.evidence}, {entry.verdict}: there is no gain to hold"
        return Finding(file=file, op=start.op, entry=entry, status="not_gated", detail=told, journal=str(journal))
    judgement = _judge(ReplayMeasurer(_decisive(records, start)), start, entry, other)
    return finding_of(file, start.op, entry, check, judgement, journal)


def _judge(measurer: ReplayMeasurer, start: RunStart, entry: Entry, other: Config | None) -> Judgement:
    baseline = start.before or baseline_of(start.op, start.problem, start.baseline)
    if baseline is None:
        return Judgement("inconclusive", f"the run does not say what BASELINE of {start.op} was")
    limits, silent = Limits(baseline, name=reference_name(start.before)), GateJournal(None)
    try:
        if other is None:
            return judge_gain(measurer, entry, limits, silent)
        return judge_against(measurer, entry.config, other, "the other revision", start.rule, limits, silent)
    except MeasurementError as error:
        return Judgement("inconclusive", f"not enough was recorded to decide it again: {error}")


def _decisive(records: Iterable[Record], start: RunStart) -> list[Record]:
    """The records that the decision rests on: all of a gate's; of a sweep's those of its last process."""
    held = list(records)
    if start.space == GATE_SPACE:
        return held
    phases = {record.phase for record in held if isinstance(record, Block)}
    final = "revalidate" if "revalidate" in phases else "confirm"
    kept = [record for record in held if not isinstance(record, Block) or record.phase in {"control", final}]
    first = next((record for record in kept if isinstance(record, Sampling)), None)
    processes = sum(isinstance(record, Sampling) for record in kept)
    return [record for record in kept if not (processes > 1 and record is first)]
