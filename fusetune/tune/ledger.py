"""What earlier runs of the same question already found out, so that nothing is measured twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.errors import JournalError
from fusetune.measure.protocol import BlockTimes
from fusetune.measure.replay import block_times
from fusetune.store.journal import Block, Candidate, Phase, Record, RunEnd, RunStart, Sample, read_journal
from fusetune.tune.request import SweepRequest

Taken = tuple[Config, float]
"""One screening sample: whose, and its microseconds a launch."""


class Ledger:
    """Results by what they are of: compilations, checks and screening samples by config, blocks by phase and pair.

    `going_on` says that they lie in this run's own journal, because it was killed and goes on; results taken over from
    other runs are written down again, so that a journal is whole by itself.
    """

    def __init__(self) -> None:
        self.going_on = False
        self.compiled: dict[Config, Candidate] = {}
        self.checked: dict[Config, Candidate] = {}
        self._samples: defaultdict[int, list[Taken]] = defaultdict(list)
        self._blocks: defaultdict[tuple[Phase, Config, Config], list[BlockTimes]] = defaultdict(list)

    def add_run(self, records: Iterable[Record], *, with_blocks: bool) -> None:
        """Take over what a run recorded; its blocks only when that very run goes on, since decisions use fresh ones."""
        configs: dict[int, Config] = {}
        for record in records:
            if isinstance(record, Candidate):
                configs[record.id] = record.config
                if record.status in {"checked", "failed"}:
                    self.checked[record.config] = record
                elif record.resources is not None or record.status == "rejected":
                    self.compiled[record.config] = record
            elif isinstance(record, Sample):
                self._samples[record.round].append((configs[record.id], record.us))
            elif isinstance(record, Block) and with_blocks:
                pair = (record.phase, configs[record.baseline_id], configs[record.id])
                self._blocks[pair].append(block_times(record))

    def samples(self, number: int) -> Sequence[Taken]:
        """The samples of a screening round, in the order in which they were taken, BASELINE's among them."""
        return self._samples[number]

    def blocks(self, phase: Phase, baseline: Config, config: Config) -> Sequence[BlockTimes]:
        """The blocks of a pair, discarded ones too."""
        return self._blocks[phase, baseline, config]


class Unfinished:
    """A run that was cut off: its journal, locked by us, and what it holds."""

    def __init__(self, path: Path, start: RunStart, records: Sequence[Record], lock: BaseFileLock) -> None:
        self.path, self.start, self.records, self.lock = path, start, records, lock


def lock_journal(path: Path) -> BaseFileLock | None:
    """The journal's lock, held; None where another process works on that run. A killed process holds nothing."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def earlier_runs(
    request: SweepRequest, identity: TargetIdentity, environment: Environment
) -> tuple[Unfinished | None, list[Sequence[Record]]]:
    """The newest unfinished run of this very command, and the records of finished ones of the same question.

    The question is op, problem, GPU, environment (so kernel source too), cache mode and seed; the command is that with
    the same space and rule. Journals that cannot be read are passed over: they are somebody's files, not ours to judge.
    """
    finished: list[Sequence[Record]] = []
    unfinished: Unfinished | None = None
    for path in sorted(request.runs.glob("*.jsonl"), reverse=True):
        try:
            records = list(read_journal(path))
        except JournalError:
            continue
        if not records or not isinstance(start := records[0], RunStart) or start.evidence != "measured":
            continue
        asked = (start.op, start.problem, start.target, start.environment, start.cache, start.seed)
        if asked != (request.spec.name, request.problem, identity, environment, request.cache, request.seed):
            continue
        end = next((record for record in records if isinstance(record, RunEnd)), None)
        if end is not None:
            # A run without an entry met a noisy machine: its screening is no guide.
            finished += [records] if end.entry is not None else []
        elif unfinished is None and (start.space, start.rule) == (request.space, request.rule):
            lock = lock_journal(path)
            if lock is not None:
                unfinished = Unfinished(path, start, records, lock)
    return unfinished, finished
