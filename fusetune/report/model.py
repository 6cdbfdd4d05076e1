"""What a report says, as plain data: one row a problem, one summary a run, and what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.decision import Evidence, Reason, VerdictName
from fusetune.core.problem import Problem
from fusetune.errors import FusetuneError, UsageError
from fusetune.ops.types import baseline_of
from fusetune.report.run_summary import CandidateRow, RunSummary, summarize_run
from fusetune.runtime.believed import read_believed_file
from fusetune.store.journal import Record, RunStart, read_journal
from fusetune.store.paths import config_paths, find_run, named_run
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile, Entry, Environment, Library, Times

__all__ = [
    "CandidateRow",
    "DamagedFile",
    "GainFigures",
    "ProblemRow",
    "Report",
    "RunSummary",
    "load_report",
    "load_run",
    "rows_from_files",
    "summarize_run",
]


class GainFigures(msgspec.Struct, frozen=True):
    """A gain's median and the two ends of its interval, as ratios: 0.02 means two percent less time."""

    median: float
    low: float
    high: float


class ProblemRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One problem on one GPU and what was decided for it.

    Times are microseconds of one launch: BASELINE, the fastest 4-warp / 2-stage config (`conservative_config`, None
    where it is `config` itself) and `config`. A measured row has the `_us` times and the gain; a predicted row has
    `predicted_us` instead and none of them, so that no reader can take a prediction for a measurement. `library` is
    what a library takes, `library_text` that in words. Where another config than BASELINE ran before, `before` is that,
    the gain is over it, and `gain_over_baseline` that over BASELINE. Of a kernel of a program, `kernel` is
    `module:qualname` and `source` the file that it stands in, as the file of configs names them.
    """

    op: str
    gpu: str
    problem: Problem
    config: Config
    is_baseline: bool
    verdict: VerdictName
    reason: Reason
    evidence: Evidence
    baseline_us: float | None
    conservative_us: float | None
    config_us: float | None
    predicted_us: Times | None
    gain: GainFigures | None
    gain_over_conservative: GainFigures | None
    conservative_config: Config | None
    library: Library | None
    library_text: str | None
    min_gain: float | None
    confidence: float | None
    blocks: int | None
    environment: Environment
    date: str
    run: str
    file: str
    before: Config | None = None
    before_us: float | None = None
    gain_over_baseline: GainFigures | None = None
    kernel: str | None = None
    source: str | None = None

    @property
    def title(self) -> str:
        """What was tuned, for people: the kernel's own name, or the op's."""
        return self.kernel or self.op


class DamagedFile(msgspec.Struct, frozen=True):
    """A file that could not be read or believed, with a message that names it."""

    path: str
    message: str


class Report(msgspec.Struct, frozen=True):
    """All that was found.

    `runs` are the runs that the rows name and whose journals were found; `missing_runs` the ones whose were not.
    `problems` lists the damaged files.
    """

    rows: tuple[ProblemRow, ...] = ()
    runs: tuple[RunSummary, ...] = ()
    missing_runs: tuple[str, ...] = ()
    problems: tuple[DamagedFile, ...] = ()


def rows_from_files(files: Sequence[tuple[Path, ConfigFile]]) -> list[ProblemRow]:
    """One row for each entry of the files, in the order given."""
    rows = []
    for path, file in files:
        for entry in file.entries:
            times, gain, over = entry.time_us, entry.gain, entry.gain_over_conservative
            beside = entry.gain_over_baseline
            rows.append(
                ProblemRow(
                    op=file.op,
                    gpu=file.target.name,
                    problem=entry.problem,
                    config=entry.config,
                    is_baseline=_is_baseline(file, entry),
                    verdict=entry.verdict,
                    reason=entry.reason,
                    evidence=entry.evidence,
                    baseline_us=times.baseline if times else None,
                    conservative_us=times.conservative if times else None,
                    config_us=times.config if times else None,
                    predicted_us=entry.predicted_us,
                    gain=GainFigures(gain.median, gain.low, gain.high) if gain else None,
                    gain_over_conservative=GainFigures(over.median, over.low, over.high) if over else None,
                    conservative_config=over.config if over else None,
                    library=entry.library,
                    library_text=entry.library_text(),
                    min_gain=gain.min_gain if gain else None,
                    confidence=gain.confidence if gain else None,
                    blocks=gain.blocks if gain else None,
                    environment=entry.environment,
                    date=entry.date,
                    run=entry.run,
                    file=str(path),
                    before=entry.before,
                    before_us=times.before if times else None,
                    gain_over_baseline=GainFigures(beside.median, beside.low, beside.high) if beside else None,
                    kernel=file.kernel,
                    source=file.file,
                )
            )
    return rows


def _is_baseline(file: ConfigFile, entry: Entry) -> bool:
    """Whether an entry's config is BASELINE; of a captured kernel the entry alone says so."""
    known = baseline_of(file.op, entry.problem)
    if known is not None or file.kernel is None:
        return entry.config == known
    if entry.gain_over_baseline is not None:
        return entry.config == entry.gain_over_baseline.config
    return entry.before is None and entry.verdict == "revert"  # What stays is what ran, and that was BASELINE.


Summarize = Callable[[Iterable[Record]], RunSummary]
"""What makes a summary of a journal's records, which are read once: whoever wants more of them takes it there."""


def load_report(
    config_roots: Sequence[Path], run_dirs: Sequence[Path], *, summarize: Summarize = summarize_run
) -> Report:
    """Read every config file under the roots, and the journals in `run_dirs` of the runs that they name.

    Never raises for a damaged file: it is listed in `Report.problems` and the others are still read.
    """
    files: list[tuple[Path, ConfigFile]] = []
    problems: list[DamagedFile] = []
    for path in config_paths(config_roots):
        file = _read_config(path)
        if isinstance(file, DamagedFile):
            problems.append(file)
        else:
            files.append((path, file))
    rows = rows_from_files(files)
    runs: list[RunSummary] = []
    missing: list[str] = []
    for run in dict.fromkeys(row.run for row in rows):
        journal = find_run(run, run_dirs)
        if journal is None:
            missing.append(run)
            continue
        summary = _read_run(journal, run, summarize)
        if isinstance(summary, DamagedFile):
            problems.append(summary)
        else:
            runs.append(summary)
    return Report(rows=tuple(rows), runs=tuple(runs), missing_runs=tuple(missing), problems=tuple(problems))


def load_run(run: str, run_dirs: Sequence[Path], *, summarize: Summarize = summarize_run) -> Report:
    """One run alone, with the problem that it decided on, whatever the config files hold by now.

    `run` is its id, the beginning of it, or `latest`. Raises UsageError where none of `run_dirs` has its journal, or
    several ids begin so, JournalError where it cannot be read.
    """
    journal = find_run(named_run(run, run_dirs), run_dirs)
    if journal is None:
        looked = ", ".join(map(brief, run_dirs))
        raise UsageError(f"there is no journal of the run {brief(run)} in {looked}; `--runs DIR` names another folder")
    summary = summarize(read_journal(journal))
    rows: list[ProblemRow] = []
    if summary.entry is not None:
        file = ConfigFile(schema=SCHEMA_VERSION, op=summary.op, target=summary.target, entries=(summary.entry,))
        rows = rows_from_files([(Path(summary.file or journal), file)])
    return Report(rows=tuple(rows), runs=(summary,))


def _read_config(path: Path) -> ConfigFile | DamagedFile:
    try:
        return read_believed_file(path)
    except FusetuneError as error:
        return _damaged(path, error)


def _read_run(path: Path, run: str, summarize: Summarize) -> RunSummary | DamagedFile:
    try:
        records = list(read_journal(path))
        held = next((record.run for record in records if isinstance(record, RunStart)), run)
        if held != run:  # Not to be summed up: what is kept of that run is to be its own journal's.
            return DamagedFile(str(path), f"{path} holds run {held}, not {run}; give it its own name back")
        return summarize(records)
    except FusetuneError as error:
        return _damaged(path, error)


def _damaged(path: Path, error: FusetuneError) -> DamagedFile:
    message = str(error)
    return DamagedFile(str(path), message if str(path) in message else f"{path}: {message}")
