"""The journal of one live check, so that it can be decided again without a GPU (`fusetune gate --from`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import fusetune
from fusetune.core.config import Config
from fusetune.core.decision import KeepRule
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts
from fusetune.measure.replay import block_record, sampling_record
from fusetune.store.journal import (
    JOURNAL_VERSION,
    Candidate,
    Comparison,
    JournalWriter,
    Phase,
    Record,
    RunEnd,
    RunStart,
)
from fusetune.store.schema import Entry

GATE_SPACE: Final = "gate"
"""What the first line of a gate's journal has in the place of a space's name."""
GATES_FOLDER: Final = "gates"


class GateJournal:
    """Writes the records of one check; without a folder it writes nothing.

    Raises JournalError where the folder cannot be written to.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer: JournalWriter | None = None
        self._ids: dict[Config, int] = {}
        self.path: Path | None = None
        if folder is not None:
            self._run = f"gate-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
            self.path = folder / GATES_FOLDER / f"{self._run}.jsonl"
            self._writer = JournalWriter(self.path)

    def begin(self, op: str, entry: Entry, facts: GpuFacts, rule: KeepRule, seed: int, baseline: Config) -> None:
        """The first line."""
        self._write(
            lambda: RunStart(
                journal=JOURNAL_VERSION,
                run=self._run,
                started=f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
                fusetune=fusetune.__version__,
                op=op,
                problem=entry.problem,
                target=facts.identity,
                evidence="measured",
                environment=facts.environment,
                space=GATE_SPACE,
                seed=seed,
                rule=rule,
                baseline=None if entry.before else baseline,
                before=entry.before,
            )
        )
        self.checked(baseline, None)

    def sampling(self, facts: SamplingFacts, seed: int) -> None:
        """A process and how it samples."""
        self._write(lambda: sampling_record(facts, seed))

    def checked(self, config: Config, result: Checked | Failure | None) -> None:
        """What became of a config."""
        if isinstance(result, Failure):
            failure = result
            self._write(
                lambda: Candidate(self._id(config), config, "failed", reason=failure.reason, detail=failure.detail)
            )
        else:
            error, rough = (result.error, result.rough_us) if result else (None, None)
            self._write(lambda: Candidate(self._id(config), config, "checked", error=error, rough_us=rough))

    def block(self, phase: Phase, baseline: Config, config: Config, times: BlockTimes) -> None:
        """One paired sample."""
        self._write(lambda: block_record(phase, self._id(baseline), self._id(config), times))

    def compared(self, phase: Phase, baseline: Config, config: Config, result: PairResult) -> None:
        """What the blocks of a pair came to."""
        self._write(
            lambda: Comparison(
                phase, self._id(baseline), self._id(config), result.gain, result.outcome, result.discarded_blocks
            )
        )

    def end(self, entry: Entry, file: Path, message: str) -> None:
        """The last line."""
        self._write(lambda: RunEnd(entry=entry, file=str(file), message=message))
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _id(self, config: Config) -> int:
        return self._ids.setdefault(config, len(self._ids))

    def _write(self, make: Callable[[], Record]) -> None:
        if self._writer is not None:
            self._writer.write(make())
