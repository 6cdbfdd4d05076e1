"""Which problems of a report are wanted: by op, GPU, dtype, verdict, day, and how many."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from fusetune.core.brief import brief
from fusetune.core.dtypes import ELEMENT_TYPES, dtype_name
from fusetune.core.near import nearest
from fusetune.core.target import find_target, known_targets
from fusetune.core.text import slugify
from fusetune.errors import UnknownTargetError, UsageError
from fusetune.report.model import ProblemRow, Report
from fusetune.store.paths import is_shipped

_MOST_NAMED: Final = 8
_AGO: Final = re.compile(r"(\d{1,5})\s*d(?:ays?)?", re.ASCII)


class Filters(msgspec.Struct, frozen=True):
    """What is wanted; empty or None is everything. Of several values of one kind any will do.

    `ops` are names or patterns such as `norms*`, of an op, of a kernel or of its last part. `since` is a day as
    2026-11-23. `limit` takes the newest ones.
    """

    ops: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    since: str | None = None
    limit: int | None = None


def day_of(text: str, today: datetime.date) -> str:
    """The day that `2026-11-23` or `7d`, seven days before today, names. Raises UsageError for anything else."""
    ago = _AGO.fullmatch(text.strip())
    try:
        day = today - datetime.timedelta(int(ago[1])) if ago else datetime.date.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise UsageError(f"{brief(text)!r} is no day; write 2026-11-23, or 7d for the last seven days") from None
    return day.isoformat()


def filtered(report: Report, wanted: Filters) -> Report:
    """The rows that are wanted, in their order, with their runs alone.

    Raises UsageError, which names what there is, for an op, GPU or dtype that no row has.
    """
    if wanted == Filters():
        return report
    rows = report.rows
    rows = _of(rows, wanted.ops, "--op", _has_op, lambda row: [row.title])
    rows = _of(rows, wanted.gpus, "--gpu", _is_on, lambda row: [row.gpu], _short_names(rows))
    rows = _of(rows, tuple(map(dtype_name, wanted.dtypes)), "--dtype", _has_dtype, _dtypes_of, _short_dtypes(rows))
    rows = tuple(row for row in rows if not wanted.verdicts or row.verdict in wanted.verdicts)
    rows = tuple(row for row in rows if wanted.since is None or row.date >= wanted.since)
    if wanted.limit is not None:
        newest = sorted(range(len(rows)), key=lambda place: (rows[place].date, rows[place].run), reverse=True)
        rows = tuple(rows[place] for place in sorted(newest[: wanted.limit]))
    return _with_rows(report, rows)


def own_alone(report: Report) -> Report:
    """What did not come with fusetune: in a clone a sweep writes into the same files, and its journal is here."""
    here = {run.run for run in report.runs}
    rows = tuple(row for row in report.rows if row.run in here or not is_shipped(Path(row.file)))
    return report if len(rows) == len(report.rows) else _with_rows(report, rows)


def _with_rows(report: Report, rows: tuple[ProblemRow, ...]) -> Report:
    named = {row.run for row in rows}
    return replace(
        report,
        rows=rows,
        runs=tuple(run for run in report.runs if run.run in named),
        missing_runs=tuple(run for run in report.missing_runs if run in named),
    )


def _of(
    rows: tuple[ProblemRow, ...],
    words: Sequence[str],
    option: str,
    fits: Callable[[ProblemRow, str], bool],
    has: Callable[[ProblemRow], list[str]],
    also: Sequence[str] = (),
) -> tuple[ProblemRow, ...]:
    for word in words:
        if rows and not any(fits(row, word) for row in rows):
            there = sorted({name for row in rows for name in has(row)})
            near = nearest(word, [*there, *also])
            told = ", ".join([*map(brief, there[:_MOST_NAMED]), *(["..."] if len(there) > _MOST_NAMED else [])])
            meant = f"; did you mean {brief(near)}?" if near else ""
            raise UsageError(f"{option} {brief(word)}: no problem has it; there are {told or 'none'}{meant}")
    return tuple(row for row in rows if not words or any(fits(row, word) for word in words))


def _has_op(row: ProblemRow, word: str) -> bool:
    last = re.split(r"[:.]", row.title)[-1]
    return any(fnmatchcase(name.lower(), word.lower()) for name in (row.op, row.title, last))


def _is_on(row: ProblemRow, word: str) -> bool:
    """By a name of the table of targets, or by parts of its own: h100 is any H100."""
    slug, wanted = slugify(row.gpu), slugify(word)
    try:
        if find_target(word).slug == slug:
            return True
    except UnknownTargetError:
        pass
    return bool(wanted) and f"-{wanted}-" in f"-{slug}-"


def _short_names(rows: Sequence[ProblemRow]) -> list[str]:
    """What people call the GPUs of these problems."""
    slugs = {slugify(row.gpu) for row in rows}
    return [alias for target in known_targets() if target.slug in slugs for alias in target.aliases]


def _short_dtypes(rows: Sequence[ProblemRow]) -> list[str]:
    """What Triton calls the dtypes of these problems: bf16."""
    return sorted({ELEMENT_TYPES[name].triton for row in rows for name in _dtypes_of(row)})


def _has_dtype(row: ProblemRow, name: str) -> bool:
    return name in _dtypes_of(row)


def _dtypes_of(row: ProblemRow) -> list[str]:
    values = row.problem.to_builtins().values()
    return [name for value in values if isinstance(value, str) and (name := dtype_name(value)) in ELEMENT_TYPES]
