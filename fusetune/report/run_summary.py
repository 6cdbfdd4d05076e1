"""One run in short, derived from its journal and from nothing else."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Evidence, Gain, KeepRule, Outcome
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.errors import JournalError
from fusetune.ops.types import baseline_of
from fusetune.store.journal import (
    Block,
    Candidate,
    Comparison,
    Note,
    Phase,
    PhaseTime,
    Record,
    RunEnd,
    RunStart,
    Sample,
    Status,
)
from fusetune.store.schema import Entry, Environment, TargetIdentity

BEST_SHOWN = 10

_DROPPED: tuple[Status, ...] = ("rejected", "failed")


class CandidateRow(msgspec.Struct, frozen=True):
    """One candidate that may run.

    screening_us: median of its samples in its last screening round, `screening_round`; None where nothing was timed.
    predicted_us: the cost model's time, never comparable with a screening time. gain: over BASELINE or Before, from the
    blocks of `gain_phase`. chosen: whether the run's entry holds this config. is_baseline: whether all are held
    against it.
    """

    id: int
    config: Config
    status: Status
    screening_us: float | None
    screening_round: int | None
    screening_samples: int
    predicted_us: float | None
    resources: Resources | None
    gain: Gain | None
    gain_phase: Phase | None
    chosen: bool
    is_baseline: bool


class DroppedCount(msgspec.Struct, frozen=True):
    """How many candidates ended as `status` for one reason."""

    status: Status
    reason: str
    count: int


class ComparisonRow(msgspec.Struct, frozen=True):
    """What one pair came to in one phase; a config is None where the journal does not hold the candidate."""

    phase: Phase
    baseline_id: int
    id: int
    baseline: Config | None
    config: Config | None
    gain: Gain
    outcome: Outcome
    discarded_blocks: int


class BlockCount(msgspec.Struct, frozen=True):
    """The blocks of one phase: all of them, and the discarded and the flagged ones by cause."""

    phase: Phase
    total: int
    discarded: dict[str, int]
    flagged: dict[str, int]

    @property
    def used(self) -> int:
        """Blocks that went into a comparison."""
        return self.total - sum(self.discarded.values())


class PhaseSeconds(msgspec.Struct, frozen=True):
    """Wall time of one phase, in seconds; `within` names the phase that it is a part of, and that counts it."""

    name: str
    seconds: float
    within: str | None = None


class RunSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run: what was asked for, the best candidates, why others fell, the comparisons and the entry.

    `best` holds up to ten candidates, BASELINE not among them: it is timed in every round and would take a place
    that its time did not earn, so it stands in `baseline`. Where `before` ran before, all that is true of that one.
    `finished` is False where the journal has no last line: the run was killed or is still going. `counts` holds the
    number of candidates by their last status.
    """

    run: str
    started: str
    fusetune: str
    op: str
    problem: Problem
    target: TargetIdentity
    evidence: Evidence
    environment: Environment
    space: str
    seed: int
    rule: KeepRule
    cache: str
    phases: tuple[PhaseSeconds, ...]
    counts: dict[str, int]
    best: tuple[CandidateRow, ...]
    baseline: CandidateRow | None
    dropped: tuple[DroppedCount, ...]
    comparisons: tuple[ComparisonRow, ...]
    blocks: tuple[BlockCount, ...]
    notes: tuple[str, ...]
    entry: Entry | None
    file: str | None
    message: str | None
    finished: bool
    before: Config | None = None

    @property
    def candidates(self) -> int:
        """How many candidates the run looked at."""
        return sum(self.counts.values())


def summarize_run(records: Iterable[Record]) -> RunSummary:
    """The summary of one run's records, in journal order.

    Raises JournalError where the records do not begin a run.
    """
    return summary_and_rows(records)[0]


def summary_and_rows(records: Iterable[Record]) -> tuple[RunSummary, list[CandidateRow]]:
    """The summary of one run, and all its candidates in the journal's order, the dropped ones too.

    Raises as `summarize_run` does.
    """
    held = list(records)
    start = next((record for record in held if isinstance(record, RunStart)), None)
    if start is None:
        raise JournalError("the journal holds no `run` record, so nothing says what it measured; sweep again")
    end = next((record for record in held if isinstance(record, RunEnd)), None)
    candidates = {record.id: record for record in held if isinstance(record, Candidate)}
    comparisons = [record for record in held if isinstance(record, Comparison)]
    baseline_id = _baseline_id(held, candidates, comparisons)
    rows = _candidate_rows(
        candidates.values(),
        [record for record in held if isinstance(record, Sample)],
        [record for record in comparisons if record.baseline_id == baseline_id and record.id != baseline_id],
        end.entry.config if end and end.entry else None,
        baseline_id,
    )
    summary = RunSummary(
        run=start.run,
        started=start.started,
        fusetune=start.fusetune,
        op=start.op,
        problem=start.problem,
        target=start.target,
        evidence=start.evidence,
        environment=start.environment,
        space=start.space,
        seed=start.seed,
        rule=start.rule,
        cache=start.cache,
        phases=tuple(PhaseSeconds(r.name, r.seconds, r.within) for r in held if isinstance(r, PhaseTime)),
        counts=dict(Counter(candidate.status for candidate in candidates.values())),
        best=_best((row for row in rows if row.id != baseline_id), start.evidence),
        baseline=next((row for row in rows if row.id == baseline_id), None),
        dropped=_count_dropped(candidates.values()),
        comparisons=tuple(_comparison_row(record, candidates) for record in comparisons),
        blocks=_count_blocks([record for record in held if isinstance(record, Block)]),
        notes=tuple(record.text for record in held if isinstance(record, Note)),
        entry=end.entry if end else None,
        file=end.file if end else None,
        message=end.message if end else None,
        finished=end is not None,
        before=start.before,
    )
    return summary, rows


def _baseline_id(
    records: Sequence[Record], candidates: dict[int, Candidate], comparisons: Sequence[Comparison]
) -> int | None:
    start = next((record for record in records if isinstance(record, RunStart)), None)
    baseline = (start.before or baseline_of(start.op, start.problem, start.baseline)) if start else None
    for candidate in candidates.values():
        if candidate.config == baseline:
            return candidate.id
    # Of an op that nobody here knows, in a journal that does not say: the A/A control names it.
    return next((record.baseline_id for record in comparisons if record.phase == "control"), None)


def _candidate_rows(
    candidates: Iterable[Candidate],
    samples: Iterable[Sample],
    over_baseline: Sequence[Comparison],
    chosen: Config | None,
    baseline_id: int | None,
) -> list[CandidateRow]:
    last_round: dict[int, tuple[int, list[float]]] = {}
    for sample in samples:
        number, times = last_round.get(sample.id, (sample.round, []))
        if sample.round > number:
            number, times = sample.round, []
        if sample.round == number:
            times.append(sample.us)
        last_round[sample.id] = (number, times)
    # A revalidation stands above the confirmation that chose it: the choice itself makes that one optimistic.
    gains: dict[int, Comparison] = {}
    for phase in ("confirm", "revalidate"):
        gains.update({record.id: record for record in over_baseline if record.phase == phase})
    rows = []
    for candidate in candidates:
        screened = last_round.get(candidate.id)
        comparison = gains.get(candidate.id)
        rows.append(
            CandidateRow(
                id=candidate.id,
                config=candidate.config,
                status=candidate.status,
                screening_us=statistics.median(screened[1]) if screened else None,
                screening_round=screened[0] if screened else None,
                screening_samples=len(screened[1]) if screened else 0,
                predicted_us=candidate.predicted_us,
                resources=candidate.resources,
                gain=comparison.gain if comparison else None,
                gain_phase=comparison.phase if comparison else None,
                chosen=candidate.config == chosen,
                is_baseline=candidate.id == baseline_id,
            )
        )
    return rows


def _best(rows: Iterable[CandidateRow], evidence: Evidence) -> tuple[CandidateRow, ...]:
    able = [row for row in rows if row.status not in _DROPPED]
    if evidence == "predicted":
        predicted = [(row.predicted_us, row.id, row) for row in able if row.predicted_us is not None]
        return tuple(row for *_, row in sorted(predicted)[:BEST_SHOWN])
    # Times of different rounds are taken at different clocks: who stayed longer in the race stands higher.
    timed = [
        (-row.screening_round, row.screening_us, row.id, row)
        for row in able
        if row.screening_us is not None and row.screening_round is not None
    ]
    return tuple(row for *_, row in sorted(timed)[:BEST_SHOWN])


def _count_dropped(candidates: Iterable[Candidate]) -> tuple[DroppedCount, ...]:
    counts = Counter(
        (candidate.status, candidate.reason or "no reason given")
        for candidate in candidates
        if candidate.status in _DROPPED
    )
    ordered = sorted(counts.items(), key=lambda item: (_DROPPED.index(item[0][0]), -item[1], item[0][1]))
    return tuple(DroppedCount(status, reason, count) for (status, reason), count in ordered)


def _comparison_row(record: Comparison, candidates: dict[int, Candidate]) -> ComparisonRow:
    baseline, candidate = candidates.get(record.baseline_id), candidates.get(record.id)
    return ComparisonRow(
        phase=record.phase,
        baseline_id=record.baseline_id,
        id=record.id,
        baseline=baseline.config if baseline else None,
        config=candidate.config if candidate else None,
        gain=record.gain,
        outcome=record.outcome,
        discarded_blocks=record.discarded_blocks,
    )


def _count_blocks(blocks: Sequence[Block]) -> tuple[BlockCount, ...]:
    counts = []
    for phase in dict.fromkeys(block.phase for block in blocks):
        of_phase = [block for block in blocks if block.phase == phase]
        counts.append(
            BlockCount(
                phase=phase,
                total=len(of_phase),
                discarded=dict(Counter(block.discarded for block in of_phase if block.discarded is not None)),
                flagged=dict(Counter(flag for block in of_phase for flag in block.flags)),
            )
        )
    return tuple(counts)
