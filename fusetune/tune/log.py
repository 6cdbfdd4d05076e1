"""A run under way: its journal, the numbers of its candidates, and the time of its phases."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import structs

import fusetune
from fusetune.core.config import Config
from fusetune.core.decision import Evidence, reference_name
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import Phase, Progress
from fusetune.core.resources import Resources
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import BlockTimes
from fusetune.measure.replay import block_record
from fusetune.store.journal import (
    JOURNAL_VERSION,
    Candidate,
    Comparison,
    JournalWriter,
    Note,
    PhaseTime,
    RunStart,
    Status,
)
from fusetune.store.journal import Phase as PhaseName
from fusetune.tune.ledger import Ledger, Unfinished, earlier_runs, lock_journal
from fusetune.tune.request import SweepRequest, new_run_id, now

_LOG: Final = logging.getLogger(__name__)


class RunLog:
    """Writes a run's journal and tells the user about it.

    `reference` is what all candidates are held against, and `reference_name` its name: Before, or BASELINE. `baseline`
    is BASELINE.
    """

    def __init__(
        self,
        journal: JournalWriter,
        run: str,
        progress: Progress,
        baseline: Config,
        ledger: Ledger | None = None,
        *,
        before: Config | None = None,
    ) -> None:
        self.journal, self.run, self.progress, self.baseline, self.before = journal, run, progress, baseline, before
        self.reference = before or baseline
        self.reference_name = reference_name(before)
        self.ledger = ledger or Ledger(self.reference)
        self._ids = dict(self.ledger.ids)
        taken = frozenset(self._ids.values())
        self._free_ids = (number for number in itertools.count() if number not in taken)

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
        rough_us: float | None = None,
        reused: bool = False,
    ) -> None:
        """What became of a candidate; a config's first mention gives it its number."""
        _LOG.debug("run %s: %s: %s", self.run, config.label(), ": ".join(filter(None, (status, reason, detail))))
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
                rough_us=rough_us,
                reused=reused,
            )
        )

    def take_over(self, record: Candidate) -> None:
        """A candidate's outcome from an earlier run: written down again, unless this is that run."""
        if not self.ledger.is_written(record.config, record.status):
            self.journal.write(structs.replace(record, id=self.id_of(record.config), reused=True))

    def id_of(self, config: Config) -> int:
        """The candidate's number in this run."""
        if config not in self._ids:
            self._ids[config] = next(self._free_ids)
        return self._ids[config]

    def block(self, phase: PhaseName, baseline: Config, config: Config, times: BlockTimes) -> None:
        """One paired sample."""
        self.journal.write(block_record(phase, self.id_of(baseline), self.id_of(config), times))

    def comparison(self, phase: PhaseName, baseline: Config, config: Config, result: PairResult) -> None:
        """What a pair's blocks came to, unless this run said it before it was cut off."""
        if self.ledger.is_compared(phase, baseline, config):
            return
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
        _LOG.info("run %s: %s", self.run, text)
        self.journal.write(Note(text))
        self.progress.warn(text)

    @contextmanager
    def phase(self, name: str, title: str, total: int | None = None) -> Iterator[Phase]:
        """A phase of the run, shown while it lasts; its wall time goes into the journal."""
        began = time.monotonic()
        with self.progress.phase(title, total) as shown:
            yield shown
        seconds = round(time.monotonic() - began, 3)
        _LOG.info("run %s: %s took %.3f s", self.run, name, seconds)
        self.journal.write(PhaseTime(name=name, seconds=seconds))


@contextmanager
def open_run(
    request: SweepRequest,
    progress: Progress,
    *,
    identity: TargetIdentity,
    environment: Environment,
    evidence: Evidence,
    card: str | None = None,
) -> Iterator[RunLog]:
    """A run with its first line written: a killed one that goes on, or a new one.

    A new one takes over what finished runs of the same question found out, unless the request is for a fresh one.
    `card` tells the GPU from others of its model: a run that another card began is not gone on with.
    Raises JournalError where the journal cannot be made.
    """
    ledger = Ledger(request.reference)
    unfinished: Unfinished | None = None
    if evidence == "measured" and not request.fresh:
        unfinished, finished = earlier_runs(request, identity, environment, progress.warn, card)
        if unfinished is not None:
            ledger.add_run(unfinished.records, own=True)
            progress.say(f"Going on with the run {unfinished.start.run}, which was cut off")
        elif finished:
            progress.say("Taking over checks and screening of earlier runs (--fresh measures everything again)")
        # The cut-off run may not have come to take everything over.
        for records in finished:
            ledger.add_run(records)
    run = unfinished.start.run if unfinished is not None else new_run_id()
    path = request.runs / f"{run}.jsonl"
    how = "begins" if unfinished is None else "goes on"
    _LOG.info("run %s of %s, %s, %s: %s", run, request.spec.name, request.problem.describe(), how, path)
    with JournalWriter(path, resume=unfinished is not None) as writer:
        lock = unfinished.lock if unfinished is not None else lock_journal(path)
        try:
            if unfinished is None:
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
                        prior=request.prior,
                        allow_library=request.allow_library,
                        baseline=request.baseline,
                        before=request.before,
                        card=card,
                    )
                )
            yield RunLog(writer, run, progress, request.baseline, ledger, before=request.before)
        finally:
            if lock is not None:
                lock.release()


def journal_path(request: SweepRequest, log: RunLog) -> Path:
    """Where the journal of this run lies."""
    return request.runs / f"{log.run}.jsonl"
