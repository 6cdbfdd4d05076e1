"""A profiler's metrics from a file: JSON of its kernels, `ncu --csv`, or an .ncu-rep report of Nsight Compute."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusetune.core.text import printable
from fusetune.errors import UsageError
from fusetune.store.foreign import DELIMITERS, cells_of, read_foreign_bytes, shown, text_of

Metrics = Mapping[str, float]
UNNAMED: Final = ""
"""The kernel of metrics that name none."""
_CALLED: Final = "the metrics"
_FIX: Final = "give ncu's CSV, JSON or an .ncu-rep file"
_RAW: Final = "`ncu --csv --page raw`"
_REPORT_BEGINS: Final = b"NVR\0"
_PAGE_FOR_PEOPLE: Final = re.compile(r"^(?:\[\d+\] \S+@\S+| {2,}Section: .*)$", re.MULTILINE)
"""What stands in the pages that ncu prints without --csv: the process, and the heading of a section."""
_KERNEL_COLUMN: Final = "Kernel Name"
_LONG_COLUMNS: Final = ("Metric Name", "Metric Value")
_SCALES: Final = {
    **{"nsecond": 1.0, "ns": 1.0, "usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6, "second": 1e9, "s": 1e9},
    **{"Kbyte/block": 1e3, "Mbyte/block": 1e6, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9},
}
"""What a unit that ncu scaled stands for, in the metric's own: nanoseconds, bytes."""
_SPACES: Final = " \u00a0\u202f'"
"""What some languages put between thousands."""
_PLAIN_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_COUNTED: Final = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:([.,])[0-9]{3})(?:\1[0-9]{3})*", re.ASCII)
"""Digits in groups of three: whole numbers, or one group alone a number with three decimals."""


class _Cell(NamedTuple):
    """A metric's value as it stands in a table, and where."""

    kernel: str
    launch: object
    metric: str
    text: str
    scale: float
    line: int


def read_metrics(path: Path) -> dict[str, tuple[Metrics, ...]]:
    """The metrics of each kernel, one mapping a launch, by the metric's full name; text values are left out.

    Raises UsageError, which names the file and what to do, where it cannot be read or holds none.
    """
    data = read_foreign_bytes(path, _CALLED, _FIX)
    if path.suffix.lower() == ".ncu-rep" or data.startswith(_REPORT_BEGINS):
        found = _of_report(path)
    else:
        found = parse_metrics(text_of(data, path, _CALLED, _FIX), path)
    return _that_hold_any(found, path)


def parse_metrics(text: str, path: Path) -> dict[str, tuple[Metrics, ...]]:
    """The metrics in the text of the file at `path`, JSON or ncu's CSV. Raises UsageError as `read_metrics` does."""
    if _PAGE_FOR_PEOPLE.search(text):
        raise UsageError(f"{path} is ncu's page for people to read; write its table with {_RAW}")
    if text.lstrip().startswith(("{", "[")):
        return _that_hold_any(_of_json(text, path), path)
    return _that_hold_any(_of_csv(text, path), path)


def _that_hold_any(found: Mapping[str, tuple[Metrics, ...]], path: Path) -> dict[str, tuple[Metrics, ...]]:
    held = {kernel: launches for kernel, launches in found.items() if any(launches)}
    if not held:
        raise UsageError(f"{path} holds no metrics; make it with `fusetune profile` or {_RAW}")
    return held


def _of_json(text: str, path: Path) -> dict[str, tuple[Metrics, ...]]:
    """{kernel: {metric: value}}, or a list of those mappings for a kernel that was launched several times.

    Metrics that stand alone, {metric: value}, are those of an UNNAMED kernel.
    """

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise UsageError(f"{path}: {shown(twice)} is there twice; keep one of the two")
        return found

    try:
        # As floats: an integer of thousands of digits is then infinite, and left out.
        raw = json.loads(text, parse_int=float, object_pairs_hook=unrepeated)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: not a profile: it is nested too deep") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected an object of kernels, {{kernel: {{metric: value}}}}, not a list")
    if any("__" in name and not isinstance(value, dict | list) for name, value in raw.items()):
        return {UNNAMED: tuple(_launches(raw, "the file", path))}
    return {printable(kernel): tuple(_launches(value, kernel, path)) for kernel, value in raw.items()}


def _launches(value: Any, kernel: str, path: Path) -> Iterator[Metrics]:
    launches = value if isinstance(value, list) else [value]
    for launch in launches:
        if not isinstance(launch, dict):
            raise UsageError(f"{path}: {shown(kernel)} has {shown(launch)} where {{metric: value}} is expected")
    texts = [given for launch in launches for given in launch.values() if isinstance(given, str)]
    comma = _decimal_comma(texts, path, otherwise=False)
    for launch in launches:
        yield {name: number for name, given in launch.items() if (number := _number(given, comma=comma)) is not None}


def _of_csv(text: str, path: Path) -> dict[str, tuple[Metrics, ...]]:
    """`--page raw`, a launch a row and a metric a column with units in the second row; or a metric a row."""
    cells, delimiter = _cells(text, path)
    # A table by semicolons comes of a language whose comma is the decimal one, or only looks so: then nothing tells.
    comma = _decimal_comma((cell.text for cell in cells), path, otherwise=None if delimiter == ";" else False)
    launches: dict[tuple[str, object], dict[str, float]] = {}
    for cell in cells:
        launch = launches.setdefault((cell.kernel, cell.launch), {})
        number = _number(cell.text, comma=comma)
        if number is not None:
            if launch.get(cell.metric, number * cell.scale) != number * cell.scale:
                raise UsageError(f"{path}, line {cell.line}: {cell.metric} is there twice for one launch, and differs")
            launch[cell.metric] = number * cell.scale
    found: dict[str, list[Metrics]] = {}
    for (kernel, _), values in launches.items():
        found.setdefault(kernel, []).append(values)
    return {kernel: tuple(values) for kernel, values in found.items()}


def _cells(text: str, path: Path) -> tuple[list[_Cell], str]:
    """The metrics' values in ncu's tables, past the lines of ncu itself and of the program; and what parts them."""
    cells: list[_Cell] = []
    delimiter, table = "", 0
    header: list[str] = []
    units: dict[str, str] = {}
    names: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{path}, line {number}"
        if _KERNEL_COLUMN in line:
            mark = next((mark for mark in DELIMITERS if _KERNEL_COLUMN in _row(line, mark)), None)
            if mark is not None:  # The next one begins where a file was appended to.
                delimiter, header, units, table = mark, _row(line, mark), {}, table + 1
                continue
        if not header or not line.strip() or line.startswith("=="):
            continue
        row = _row(line, delimiter)
        if len(row) != len(header):
            if row[0].isdecimal() and len(row) > len(header) // 2:
                raise UsageError(f"{place}: {len(row)} cells under {len(header)} headings; write it with {_RAW}")
            continue
        held = list(zip(header, row, strict=True))
        kernel = _short(row[header.index(_KERNEL_COLUMN)])
        if all(name in header for name in _LONG_COLUMNS):
            of = dict(held)
            names.add(of["Metric Name"])
            launch = (table, of.get("ID", ""))
            scale = _SCALES.get(of.get("Metric Unit", ""), 1.0)
            cells.append(_Cell(kernel, launch, of["Metric Name"], of["Metric Value"], scale, number))
        elif not kernel:
            units = dict(held)
        else:
            cells += [
                _Cell(kernel, number, name, given, _SCALES.get(units.get(name, ""), 1.0), number)
                for name, given in held
                if "__" in name
            ]
    if not header:
        raise UsageError(f"{path}: no column {_KERNEL_COLUMN!r}; write it with {_RAW}")
    if names and not any("__" in name for name in names):
        raise UsageError(f"{path} is ncu's details page, which has no metric by its full name; write it with {_RAW}")
    return [cell for cell in cells if "__" in cell.metric], delimiter


def _row(line: str, delimiter: str) -> list[str]:
    """The cells of a line; a line of the program that is no row is one."""
    try:
        return cells_of(line, delimiter, "") or [""]
    except UsageError:
        return [line]


def _of_report(path: Path) -> dict[str, tuple[Metrics, ...]]:
    try:
        import ncu_report
    except ImportError as error:
        raise UsageError(
            f"{path} needs Nsight Compute's module ncu_report: add its extras/python folder to PYTHONPATH, or write "
            f"CSV with `ncu --import {path} --csv --page raw > metrics.csv`"
        ) from error
    found: dict[str, list[Metrics]] = {}
    try:
        report = ncu_report.load_report(str(path))
        for one_range in range(report.num_ranges()):
            actions = report.range_by_idx(one_range)
            for index in range(actions.num_actions()):
                action = actions.action_by_idx(index)
                values = {
                    name: number
                    for name in action.metric_names()
                    if (metric := action.metric_by_name(name)) is not None
                    and (number := _number(metric.value(), comma=False)) is not None
                }
                found.setdefault(_short(action.name()), []).append(values)
    except Exception as error:
        raise UsageError(f"{path}: Nsight Compute cannot read it: {printable(str(error))}") from error
    return {kernel: tuple(launches) for kernel, launches in found.items()}


def _decimal_comma(texts: Iterable[str], path: Path, *, otherwise: bool | None) -> bool:
    """Whether a comma begins the decimals, and a point parts thousands: one number that can mean nothing else tells.

    `otherwise` is the answer where none does; None is to be asked for where it matters. Raises UsageError where numbers
    contradict one another, or where nothing tells what 1,024 is.
    """
    seen: dict[bool, str] = {}
    doubtful = ""
    for text in texts:
        bare = _bare(text)
        if not re.fullmatch(r"[-+]?[0-9.,]+(?:[eE][-+]?[0-9]+)?", bare, re.ASCII) or not {",", "."} & set(bare):
            continue
        if _COUNTED.fullmatch(bare):
            groups = bare.count(",") + bare.count(".")
            if groups > 1:
                seen.setdefault("." in bare, text)
            else:
                doubtful = doubtful or text
        elif _value(bare, comma=True) is not None:
            seen.setdefault(True, text)
        elif _value(bare, comma=False) is not None:
            seen.setdefault(False, text)
    if len(seen) > 1:
        raise UsageError(
            f"{path}: {shown(seen[True])} has a decimal comma and {shown(seen[False])} a decimal point; write the file "
            "anew with LC_ALL=C in ncu's environment"
        )
    if not seen and doubtful and otherwise is None:
        raise UsageError(
            f"{path}: nothing tells whether {shown(doubtful)} has decimals or thousands; write the file anew with "
            "LC_ALL=C in ncu's environment"
        )
    return next(iter(seen), bool(otherwise))


def _bare(text: str) -> str:
    """A number without a sign of percent and without spaces between its thousands."""
    return text.strip().removesuffix("%").strip().translate(dict.fromkeys(map(ord, _SPACES)))


def _value(bare: str, *, comma: bool) -> float | None:
    """The number with this decimal mark; the other one may only part groups of three digits before it."""
    mark, other = (",", ".") if comma else (".", ",")
    whole, point, decimals = bare.partition(mark)
    if other in whole:
        if not _COUNTED.fullmatch(whole) or mark in whole:
            return None
        whole = whole.replace(other, "")
    plain = whole + ("." if point else "") + decimals
    return float(plain) if _PLAIN_NUMBER.fullmatch(plain) else None


def _number(given: Any, *, comma: bool) -> float | None:
    """A finite number, also from text such as `1,024` or `44.43`; None for anything else."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        number = _value(_bare(given), comma=comma) if isinstance(given, str) else float(given)
    except OverflowError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _short(kernel: str) -> str:
    """A kernel's name without the signature that ncu may print after it."""
    return printable(kernel.split("(", 1)[0].strip() or kernel.strip())
