"""A run under way: its journal, the numbers of its candidates, and the time of its phases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fusetune
from fusetune.core.config import Config
from fusetune.core.decision import Evidence
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import Phase, Progress
from fusetune.core.resources import Resources
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import BlockTimes
from fusetune.store.journal import (
    JOURNAL_VERSION,
    Block,
    Candidate,
    Comparison,
    JournalWriter,
    Note,
    PhaseTime,
    RunStart,
    Status,
)
from fusetune.store.journal import Phase as PhaseName
from fusetune.tune.request import SweepRequest, new_run_id, now


class RunLog:
    """Writes a run's journal and tells the user about it."""

    def __init__(self, journal: JournalWriter, run: str, progress: Progress) -> None:
        self.journal, self.run, self.progress = journal, run, progress
        self._ids: dict[Config, int] = {}

    def candidate(
        self,
        config: Config,
        status: Status,
        *,
        reason: str | None = None,
        detail: str | None = None,
        resources: Resources | None = None,
        predicted_us: float | None = None,
        error: float | None = None,
    ) -> None:
        """What became of a candidate; a config's first mention gives it its number."""
        self.journal.write(
            Candidate(
                id=self.id_of(config),
                config=config,
                status=status,
                reason=reason,
                detail=detail,
                resources=resources,
                predicted_us=predicted_us,
                error=error,
            )
        )

    def id_of(self, config: Config) -> int:
        """The candidate's number in this run."""
        return self._ids.setdefault(config, len(self._ids))

    def block(self, phase: PhaseName, baseline: Config, config: Config, times: BlockTimes) -> None:
        """One paired sample."""
        self.journal.write(
            Block(
                phase=phase,
                baseline_id=self.id_of(baseline),
                id=self.id_of(config),
                baseline_us=times.baseline_us,
                us=times.us,
                discarded=times.discarded,
                flags=times.flags,
                sm_mhz=times.sm_mhz,
                power_w=times.power_w,
            )
        )

    def comparison(self, phase: PhaseName, baseline: Config, config: Config, result: PairResult) -> None:
        """What a pair's blocks came to."""
        self.journal.write(
            Comparison(
                phase=phase,
                baseline_id=self.id_of(baseline),
                id=self.id_of(config),
                gain=result.gain,
                outcome=result.outcome,
                discarded_blocks=result.discarded_blocks,
            )
        )

    def note(self, text: str) -> None:
        """A warning: for the journal and for the user."""
        self.journal.write(Note(text))
        self.progress.warn(text)

    @contextmanager
    def phase(self, name: str, title: str, total: int | None = None) -> Iterator[Phase]:
        """A phase of the run, shown while it lasts; its wall time goes into the journal."""
        began = time.monotonic()
        with self.progress.phase(title, total) as shown:
            yield shown
        self.journal.write(PhaseTime(name=name, seconds=round(time.monotonic() - began, 3)))


@contextmanager
def open_run(
    request: SweepRequest,
    progress: Progress,
    *,
    identity: TargetIdentity,
    environment: Environment,
    evidence: Evidence,
) -> Iterator[RunLog]:
    """A new run with its first line written; raises JournalError where the journal cannot be made."""
    run = new_run_id()
    path = request.runs / f"{run}.jsonl"
    with JournalWriter(path) as writer:
        writer.write(
            RunStart(
                journal=JOURNAL_VERSION,
                run=run,
                started=now(),
                fusetune=fusetune.__version__,
                op=request.spec.name,
                problem=request.problem,
                target=identity,
                evidence=evidence,
                environment=environment,
                space=request.space,
                seed=request.seed,
                rule=request.rule,
                cache=request.cache,
            )
        )
        yield RunLog(writer, run, progress)


def journal_path(request: SweepRequest, log: RunLog) -> Path:
    """Where the journal of this run lies."""
    return request.runs / f"{log.run}.jsonl"
