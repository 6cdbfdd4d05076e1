"""What earlier runs of the same question already found out, so that nothing is measured twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from filelock import BaseFileLock, FileLock, Timeout

from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.trouble import is_recorded_trouble, why_not_written
from fusetune.errors import JournalError
from fusetune.measure.protocol import BY_MACHINE, BlockTimes
from fusetune.measure.replay import block_times
from fusetune.store.journal import (
    Block,
    Candidate,
    Comparison,
    JournalWriter,
    Phase,
    Record,
    RunEnd,
    RunStart,
    Sample,
    Status,
    read_run,
)
from fusetune.store.locks import LOCKS_FOLDER, lock_place
from fusetune.store.regular import is_plain, is_there
from fusetune.tune.request import SweepRequest

Taken = tuple[Config, float]
"""One screening sample: whose, and its microseconds a launch."""


class Ledger:
    """Results by what they are of: compilations, checks and screening samples by config, blocks by phase and pair.

    What lies in this run's own journal, because it was killed and goes on, is told from what other runs found out: that
    is written down again, so that a journal is whole by itself. `ids` are the numbers that the own journal gave, and
    `reference` is what all are held against.
    """

    def __init__(self, reference: Config) -> None:
        self._reference = reference
        self.ids: dict[Config, int] = {}
        self.compiled: dict[Config, Candidate] = {}
        self.checked: dict[Config, Candidate] = {}
        self._written: set[tuple[Config, Status]] = set()
        self._known: Counter[tuple[int, Taken]] = Counter()
        self._own_samples: defaultdict[int, list[Taken]] = defaultdict(list)
        self._other_samples: defaultdict[int, list[Taken]] = defaultdict(list)
        self._blocks: defaultdict[tuple[Phase, Config, Config], list[BlockTimes]] = defaultdict(list)
        self._compared: set[tuple[Phase, Config, Config]] = set()

    def add_run(self, records: Iterable[Record], *, own: bool = False) -> None:
        """Take over what a run recorded, where no run added before says otherwise: the own one first, then the newest.

        Blocks are the own run's only, since decisions rest on fresh ones.
        """
        compiled: dict[Config, Candidate] = {}
        checked: dict[Config, Candidate] = {}
        configs: dict[int, Config] = {}
        here: Counter[tuple[int, Taken]] = Counter()
        for record in records:
            if isinstance(record, Candidate):
                configs[record.id] = record.config
                if own:
                    self.ids[record.config] = record.id
                    self._written.add((record.config, record.status))
                if record.status in {"checked", "failed"}:
                    if not self._passes(record, own):
                        checked[record.config] = record
                elif record.resources is not None or (record.status == "rejected" and not _by_machine(record)):
                    compiled[record.config] = record
            elif isinstance(record, Sample):
                sample = record.round, (configs[record.id], record.us)
                here[sample] += 1
                # One that a run had itself taken over is in several journals, and still one.
                if here[sample] > self._known[sample]:
                    self._known[sample] += 1
                    (self._own_samples if own else self._other_samples)[record.round].append(sample[1])
            elif isinstance(record, Block) and own:
                pair = (record.phase, configs[record.baseline_id], configs[record.id])
                self._blocks[pair].append(block_times(record))
            elif isinstance(record, Comparison) and own:
                self._compared.add((record.phase, configs[record.baseline_id], configs[record.id]))
        self.compiled = {**compiled, **self.compiled}
        self.checked = {**checked, **self.checked}

    def _passes(self, failed: Candidate, own: bool) -> bool:
        """Whether a failure says nothing of the config: the reference was right at first, and a GPU cools down."""
        if failed.status != "failed":
            return False
        says_nothing = failed.config == self._reference or _by_machine(failed)
        return says_nothing or (failed.reason == "throttled" and not own)

    def is_written(self, config: Config, status: Status) -> bool:
        """Whether the own journal says this of the candidate already."""
        return (config, status) in self._written

    def is_compared(self, phase: Phase, baseline: Config, config: Config) -> bool:
        """Whether the own journal says already what this pair came to."""
        return (phase, baseline, config) in self._compared

    def samples(self, number: int) -> tuple[Sequence[Taken], Sequence[Taken]]:
        """The samples of a screening round as they were taken, the reference's too: the own ones, and others'."""
        return self._own_samples[number], self._other_samples[number]

    def blocks(self, phase: Phase, baseline: Config, config: Config) -> Sequence[BlockTimes]:
        """The blocks of a pair, discarded ones too."""
        return self._blocks[phase, baseline, config]


_MAYBE_BY_MACHINE: Final = BY_MACHINE | {"compile_timeout", "compiler_crash", "hang"}
"""Reasons that may be the machine's: what took too long, died, or found no memory may have had company. It is asked
again in each run. `compile_timeout` is what journals of fusetune 0.1 hold."""

_TOLD_IN_DETAIL: Final = frozenset({"compile_error", "launch_error", "crash"})
"""Reasons that are the machine's where the detail says so."""


def _by_machine(record: Candidate) -> bool:
    """Whether a rejection or a failure is, or may be, the machine's and not the config's."""
    return record.reason in _MAYBE_BY_MACHINE or (
        record.reason in _TOLD_IN_DETAIL and is_recorded_trouble(record.detail)
    )


class Unfinished:
    """A run that was cut off: its journal, locked by us, and what it holds."""

    def __init__(self, path: Path, start: RunStart, records: Sequence[Record], lock: BaseFileLock) -> None:
        self.path, self.start, self.records, self.lock = path, start, records, lock


def lock_journal(path: Path) -> BaseFileLock | None:
    """The journal's lock, held; None where another process works on that run. A killed process holds nothing.

    Raises JournalError where the file system lets there be no lock, as with a folder in its place.
    """
    place = path.with_name(LOCKS_FOLDER)
    try:
        place = lock_place(path)
        lock = FileLock(place)
        if is_there(place) and not is_plain(place):
            raise JournalError(f"cannot lock the journal {brief(path)}: {brief(place)} is no file; remove it")
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        otherwise = f"remove {brief(place)}, or set FUSETUNE_RUNS to a folder on a local disk that you may write to"
        told = why_not_written(error, otherwise) if isinstance(error, OSError) else f"{error}; {otherwise}"
        raise JournalError(f"cannot lock the journal {brief(path)}: {told}") from error
    return lock


def earlier_runs(
    request: SweepRequest,
    identity: TargetIdentity,
    environment: Environment,
    warn: Callable[[str], None] = lambda text: None,
    card: str | None = None,
) -> tuple[Unfinished | None, list[Sequence[Record]]]:
    """The newest unfinished run of this very command, and the finished ones of the same question, the newest first.

    The question is op, problem, what ran before, GPU, environment (so kernel source too), cache mode and seed; the
    command is that with the same space, rule, prior and leave for a library. An unfinished run of another card of the
    model is left alone: no decision rests on blocks of two. Journals that cannot be read are passed over, and `warn` is
    told once of them all: they are somebody's files, not ours to judge.
    """
    finished: list[Sequence[Record]] = []
    unfinished: Unfinished | None = None
    damaged: list[str] = []
    for path in _journals(request.runs):
        if path.stem < request.since:
            continue
        try:
            records = read_run(path)
        except JournalError as error:
            damaged.append(str(error))
            continue
        if not records or not isinstance(start := records[0], RunStart) or start.evidence != "measured":
            continue
        asked = (start.op, start.problem, start.target, start.environment, start.cache, start.seed, start.before)
        ours = (request.spec.name, request.problem, identity, environment, request.cache, request.seed, request.before)
        if asked != ours:
            continue
        end = next((record for record in records if isinstance(record, RunEnd)), None)
        asked_for = (request.space, request.rule, request.prior, request.allow_library)
        command = (start.run, (start.space, start.rule, start.prior, start.allow_library))
        if end is not None:
            # A run without an entry met a noisy machine: its screening is no guide.
            finished += [records] if end.entry is not None else []
        elif unfinished is None and command == (path.stem, asked_for) and _is_card(start, card):
            try:
                unfinished = _take(path, start)
            except JournalError as error:
                damaged.append(str(error))
    if damaged:
        others = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        warn(f"An earlier journal is passed over: {damaged[0]}{others}")
    return unfinished, finished


def _is_card(start: RunStart, card: str | None) -> bool:
    """Whether a run may be of this card; journals of earlier versions, and simulated GPUs, do not say which it was."""
    return None in (start.card, card) or start.card == card


def _journals(folder: Path) -> list[Path]:
    """The journals in a folder, the newest first; where it cannot be looked into, who writes there says why."""
    try:
        return sorted((path for path in folder.iterdir() if path.name.endswith(".jsonl")), reverse=True)
    except (OSError, ValueError):
        return []


def _take(path: Path, start: RunStart) -> Unfinished | None:
    """The cut-off run of this journal; None where another process works on it, or has just ended it.

    Raises JournalError where it cannot be locked, gone on with or read.
    """
    lock = lock_journal(path)
    if lock is None:
        return None
    try:
        # Only now nobody else writes. The line that a kill cut off is dropped first: what is read is what stays.
        JournalWriter(path, resume=True).close()
        records = read_run(path)
    except JournalError:
        lock.release()
        raise
    if any(isinstance(record, RunEnd) for record in records):
        lock.release()
        return None
    return Unfinished(path, start, records, lock)
