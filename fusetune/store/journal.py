"""The journal of a run: JSON lines, append-only, flushed per record, from which every figure can be recomputed."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Set
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Final, Literal

import msgspec

from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.decision import Evidence, Gain, KeepRule, Outcome
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.trouble import why_not_written
from fusetune.core.values import to_builtins
from fusetune.errors import JournalError
from fusetune.ops.types import OpTypes, types_of
from fusetune.store.regular import read_regular, reason
from fusetune.store.schema import Entry, Environment, PositiveTime, TargetIdentity
from fusetune.store.typed import decoding

JOURNAL_VERSION = 1
MOST_JOURNAL_BYTES: Final = 64 << 20
"""Of a journal, unpacked; that of a sweep has one or two million at most."""

Status = Literal["rejected", "skipped", "compiled", "failed", "checked"]
Phase = Literal["control", "reference", "confirm", "revalidate", "gate"]
"""control: Before, or BASELINE, against itself. reference: a library beside it or what stays, which decides nothing."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_NonNegative = Annotated[float, msgspec.Meta(ge=0.0, lt=1e12)]


class _Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag=str.lower):
    """Base of the lines of a journal; `kind` names the class."""


class RunStart(_Record, frozen=True, tag="run"):
    """The first line: what was asked for, and with what.

    `prior`: what was predicted to be slow was left out. `allow_library`: a library may win. `baseline`: the op's
    BASELINE for the problem, which journals of earlier versions leave to the op. `before`: the config that ran before,
    and that all are held against; None where that is BASELINE. `card`: which of several GPUs of its model, as a hash.
    """

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
    prior: bool = False
    allow_library: bool = False
    baseline: Config | None = None
    before: Config | None = None
    card: str | None = None


class Candidate(_Record, frozen=True, tag="candidate"):
    """What became of one candidate. `id` numbers it within the run; later lines about the same id replace earlier ones.

    rejected: it cannot run here, `reason` says why (before or after compiling). failed: it ran and was wrong,
    crashed or hung. skipped: it could run, and was not tried because it was predicted to be slow, because others that
    were measured left it no chance, or because of the machine, as `reason` says (predicted_slow, cannot_win,
    not_tried). compiled: it may run. checked: it ran and was right.
    `predicted_us` is the cost model's time, `rough_us` that of one launch with its overhead. `reused`: an earlier run
    of the same question found it out.
    """

    id: _Count
    config: Config
    status: Status
    reason: str | None = None
    detail: str | None = None
    resources: Resources | None = None
    predicted_us: PositiveTime | None = None
    error: float | None = None
    rough_us: _NonNegative | None = None
    reused: bool = False


class Sample(_Record, frozen=True, tag="sample"):
    """One screening time of one candidate, microseconds a launch; never used to decide."""

    id: _Count
    round: _Count
    us: PositiveTime
    reused: bool = False


class Block(_Record, frozen=True, tag="block"):
    """One paired sample, order ABBA: mean microseconds a launch of `baseline_id` and `id`, timed back to back.

    `launches`: how many an arm of each had, where those are fewer than Sampling says.
    """

    phase: Phase
    baseline_id: _Count
    id: _Count
    baseline_us: PositiveTime
    us: PositiveTime
    discarded: str | None = None
    flags: tuple[str, ...] = ()
    sm_mhz: _Count | None = None
    power_w: _NonNegative | None = None
    temperature_c: int | None = None
    launches: tuple[_Count, _Count] | None = None


class Comparison(_Record, frozen=True, tag="comparison"):
    """What the blocks of one pair in one phase added up to."""

    phase: Phase
    baseline_id: _Count
    id: _Count
    gain: Gain
    outcome: Outcome
    discarded_blocks: _Count = 0


class Sampling(_Record, frozen=True, tag="sampling"):
    """How the worker times: one sample is `launches` launches over `input_sets` sets of inputs.

    `timer` is graph (one replay of them all) or events (around each launch, L2 flushed before). `touched_bytes` is what
    one sample reads and writes, to be held against the GPU's L2 (`l2_bytes`); `tick_us` the step of the event clock.
    Blocks have fewer launches of what is slow, as they say. Of a program's kernel they have more where a config is so
    quick that its arms would be too short.
    """

    input_sets: _Count
    launches: _Count
    touched_bytes: _Count
    l2_bytes: _Count
    seed: int
    timer: str = "graph"
    tick_us: _NonNegative = 0.0


class Growth(_Record, frozen=True, tag="growth"):
    """A round of growth, from 1 on: so many candidates were `added`, which are neighbours of those in `around`."""

    number: _Count
    around: tuple[_Count, ...]
    added: _Count


class PhaseTime(_Record, frozen=True, tag="phase"):
    """How long one phase of the run took, in seconds of wall time; `within` names the phase that it is a part of."""

    name: str
    seconds: _NonNegative
    within: str | None = None


class Note(_Record, frozen=True, tag="note"):
    """A warning that a reader of the result should know."""

    text: str


class RunEnd(_Record, frozen=True, tag="end"):
    """The last line: the entry that was decided on, and the file that it went to (None: nothing was written)."""

    entry: Entry | None
    file: str | None
    message: str


Record = RunStart | Candidate | Sampling | Sample | Growth | Block | Comparison | PhaseTime | Note | RunEnd

_ENCODER = msgspec.json.Encoder(enc_hook=to_builtins)


class _Decoders:
    """Decoders of the records of one op's journals.

    JSON has no NaN and no infinity, and msgspec writes null for both. An interval of too few blocks is infinite and the
    error of a NaN result is NaN, so those go in as text, which only the lax decoder takes for a number.
    """

    def __init__(self, types: OpTypes) -> None:
        hook = decoding(types)
        self.strict: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record, dec_hook=hook)
        self.lax: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record, strict=False, dec_hook=hook)

    def decode(self, line: bytes) -> Record:
        """A record. Raises msgspec's errors and UnicodeDecodeError."""
        try:
            return self.strict.decode(line)
        except msgspec.ValidationError as strict_error:
            try:
                return self.lax.decode(line)
            except msgspec.ValidationError:
                raise strict_error from None


@functools.lru_cache(maxsize=64)
def _decoders(types: OpTypes) -> _Decoders:
    return _Decoders(types)


class JournalWriter:
    """Appends records to a new journal and flushes each, so that a killed run keeps all that it finished.

    Raises JournalError when the file exists or cannot be made, or, with `resume`, opened again.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self._failed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _reopened(path) if resume else path.open("xb")
        except OSError as error:
            if isinstance(error, FileExistsError) and path.exists():
                raise JournalError(
                    f"the journal {path} exists, and a run is never overwritten; name another"
                ) from error
            told = why_not_written(error, "set FUSETUNE_RUNS to a folder you may write to")
            raise JournalError(f"cannot {'go on with' if resume else 'make'} the journal {path}: {told}") from error

    def write(self, record: Record) -> None:
        """Append one record; raises JournalError when the file system refuses, as when the disk is full."""
        try:
            self._file.write(_encode(record) + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the file; writing afterwards raises ValueError.

        Raises JournalError when the file system refuses what is left to be written, unless `write` has said so.
        """
        told = self._failed
        try:
            self._file.close()
        except OSError as error:
            # What `write` could not write is still buffered, and fails again as the file is closed.
            if not told:
                raise self._refused(error) from error

    def _refused(self, error: OSError) -> JournalError:
        self._failed = True
        told = why_not_written(error, "set FUSETUNE_RUNS to a folder that you may write to")
        return JournalError(f"cannot write the journal {self.path}: {told}")

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except JournalError:
            if error is None:
                raise  # What went wrong inside is what is told otherwise.


def _reopened(path: Path) -> BinaryIO:
    """The journal of a killed run, open at the end of its last whole line; what a kill cut off is dropped."""
    file = path.open("r+b")
    try:
        data = file.read()
        file.seek(data.rfind(b"\n") + 1)
        file.truncate()
    except OSError:
        file.close()
        raise
    return file


def read_journal(path: Path) -> Iterator[Record]:
    """The records of a journal, plain or gzipped (`.jsonl`, `.jsonl.gz`), in order.

    A last line that a kill cut off is left out. Raises JournalError, with the line's number, for any other line that
    cannot be read, holds what cannot be, or is of a candidate that no line before it holds; and for the journal of a
    newer fusetune, for what is no regular file, and for what holds more than MOST_JOURNAL_BYTES.
    """
    told = brief(path)
    data = _contents(path)
    end = data.rfind(b"\n") + 1
    candidates: set[int] = set()
    decoders = _decoders(types_of(_op_of(data)))
    for number, line in enumerate(io.BytesIO(data[:end]), start=1):
        if not line.strip():
            continue
        if number == 1:
            _refuse_newer(line, told)
        try:
            record = decoders.decode(line)
        except _UNREADABLE as error:
            raise JournalError(f"{told}, line {number}: not a journal record: {brief(error)}") from error
        if isinstance(record, Candidate):
            candidates.add(record.id)
        for unknown in candidates_of(record) - candidates:
            raise JournalError(f"{told}, line {number}: no line before it holds the candidate {unknown} that it names")
        yield record
    if data[end:].strip():
        with contextlib.suppress(*_UNREADABLE):
            record = decoders.decode(data[end:])
            if candidates_of(record) <= candidates:
                yield record


def candidates_of(record: Record) -> Set[int]:
    """The candidates that a record is about, and that have to be known by then."""
    if isinstance(record, Sample):
        return {record.id}
    if isinstance(record, Growth):
        return frozenset(record.around)
    return {record.id, record.baseline_id} if isinstance(record, Block | Comparison) else frozenset()


def read_run(path: Path) -> list[Record]:
    """The records of a run that can be gone on with or decided again.

    An empty list where a run was killed before its first line. Raises JournalError as `read_journal` does, and where
    the first line is not `run`, or another one is.
    """
    records = list(read_journal(path))
    for place, record in enumerate(records):
        if isinstance(record, RunStart) != (place == 0):
            what = "does not begin with a `run` line" if place == 0 else "has a second `run` line"
            raise JournalError(f"{brief(path)} {what}; it is no run's journal")
    return records


def _contents(path: Path) -> bytes:
    try:
        data = read_regular(path, MOST_JOURNAL_BYTES)
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MOST_JOURNAL_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        why = reason(error) if isinstance(error, OSError) else brief(error)
        raise JournalError(f"cannot read the journal {brief(path)}: {why}") from error
    if len(data) > MOST_JOURNAL_BYTES:
        most = f"{MOST_JOURNAL_BYTES >> 20} MiB"
        raise JournalError(f"cannot read the journal {brief(path)}: it unpacks to more than the {most} that are read")
    return data


# msgspec reports text that is not UTF-8 with Python's own error, and deep nesting, too.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


_RUN_LINE: Final = b'"kind":"run"'


class _Header(msgspec.Struct):
    """What of a first line has to stay readable in every version of the journal."""

    journal: int = 0
    op: str = ""


def _refuse_newer(first_line: bytes, told: str) -> None:
    """Look at the version before anything else: a newer first line need not decode as today's RunStart."""
    try:
        version = msgspec.json.decode(first_line, type=_Header).journal
    except _UNREADABLE:
        return
    if version > JOURNAL_VERSION:
        raise JournalError(f"{told} was written by a newer fusetune (journal {version}); upgrade fusetune")


def _op_of(data: bytes) -> str:
    """The op that the `run` line names, wherever that stands in a journal that somebody has reordered."""
    at = data.find(_RUN_LINE)
    if at < 0:
        return ""
    line = data[data.rfind(b"\n", 0, at) + 1 : data.find(b"\n", at) if b"\n" in data[at:] else None]
    try:
        return msgspec.json.decode(line, type=_Header).op
    except _UNREADABLE:
        return ""


def _encode(record: Record) -> bytes:
    line = _ENCODER.encode(record)
    return _ENCODER.encode(_spell_out(msgspec.to_builtins(record, enc_hook=to_builtins))) if b"null" in line else line


def _spell_out(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _spell_out(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spell_out(item) for item in value]
    return value
