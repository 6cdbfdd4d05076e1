"""The journal of a run: JSON lines, append-only, flushed per record, from which every figure can be recomputed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Evidence, Gain, KeepRule, Outcome
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.errors import JournalError
from fusetune.store.schema import Entry, Environment, TargetIdentity

JOURNAL_VERSION = 1

Status = Literal["rejected", "compiled", "failed", "checked"]
Phase = Literal["control", "confirm", "revalidate", "gate"]


class _Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag=str.lower):
    """Base of the lines of a journal; `kind` names the class."""


class RunStart(_Record, tag="run"):
    """The first line: what was asked for, and with what."""

    journal: int
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
    cache: str = "cold"


class Candidate(_Record, tag="candidate"):
    """What became of one candidate. `id` numbers it within the run; later lines about the same id replace earlier ones.

    rejected: it cannot run here, `reason` says why (before or after compiling). failed: it ran and was wrong,
    crashed or hung. compiled: it may run. checked: it ran and was right. `predicted_us` is the cost model's time.
    """

    id: int
    config: Config
    status: Status
    reason: str | None = None
    detail: str | None = None
    resources: Resources | None = None
    predicted_us: float | None = None
    error: float | None = None


class Sample(_Record, tag="sample"):
    """One screening time of one candidate, microseconds a launch; never used to decide."""

    id: int
    round: int
    us: float


class Block(_Record, tag="block"):
    """One paired sample, order ABBA: mean microseconds a launch of `baseline_id` and `id`, timed back to back."""

    phase: Phase
    baseline_id: int
    id: int
    baseline_us: float
    us: float
    discarded: str | None = None
    flags: tuple[str, ...] = ()
    sm_mhz: int | None = None
    power_w: float | None = None


class Comparison(_Record, tag="comparison"):
    """What the blocks of one pair in one phase added up to."""

    phase: Phase
    baseline_id: int
    id: int
    gain: Gain
    outcome: Outcome
    discarded_blocks: int = 0


class PhaseTime(_Record, tag="phase"):
    """How long one phase of the run took, in seconds of wall time."""

    name: str
    seconds: float


class Note(_Record, tag="note"):
    """A warning that a reader of the result should know."""

    text: str


class RunEnd(_Record, tag="end"):
    """The last line: the entry that was decided on, and the file that it went to (None: nothing was written)."""

    entry: Entry | None
    file: str | None
    message: str


Record = RunStart | Candidate | Sample | Block | Comparison | PhaseTime | Note | RunEnd

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Record)


class JournalWriter:
    """Appends records to a new journal and flushes each, so that a killed run keeps all that it finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("xb")

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(_ENCODER.encode(record) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; writing afterwards raises ValueError."""
        self._file.close()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> Iterator[Record]:
    """The records of a journal, plain or gzipped (`.jsonl`, `.jsonl.gz`), in order.

    A last line that a kill cut off is left out; any other line that cannot be read raises JournalError.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    lines = data.split(b"\n")
    complete, cut_off = lines[:-1], lines[-1]
    for number, line in enumerate(complete, start=1):
        if not line.strip():
            continue
        try:
            record = _DECODER.decode(line)
        except msgspec.MsgspecError as error:
            raise JournalError(f"{path}, line {number}: not a journal record: {error}") from error
        if isinstance(record, RunStart) and record.journal > JOURNAL_VERSION:
            raise JournalError(f"{path} was written by a newer fusetune (journal {record.journal}); upgrade fusetune")
        yield record
    if cut_off.strip():
        try:
            yield _DECODER.decode(cut_off)
        except msgspec.MsgspecError:
            return
