"""A profiler's metrics from a file: the brief's JSON, `ncu --csv`, or an .ncu-rep report of Nsight Compute."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusetune.errors import UsageError

Metrics = Mapping[str, float]
_KERNEL_COLUMN = "Kernel Name"
_LONG_COLUMNS = ("Metric Name", "Metric Value")
_SCALES = {
    **{"nsecond": 1.0, "ns": 1.0, "usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6, "second": 1e9, "s": 1e9},
    **{"Kbyte/block": 1e3, "Mbyte/block": 1e6, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9},
}
"""What a unit that ncu scaled stands for, in the metric's own: nanoseconds, bytes."""


def read_metrics(path: Path) -> dict[str, tuple[Metrics, ...]]:
    """The metrics of each kernel, one mapping a launch, by the metric's full name; text values are left out.

    Raises UsageError, which names the file and what to do, where it cannot be read or holds none.
    """
    if path.suffix == ".ncu-rep":
        found = _of_report(path)
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UsageError(
                f"cannot read the metrics {path}: {why}; give ncu's CSV, JSON or an .ncu-rep file"
            ) from error
        found = _of_json(text, path) if text.lstrip().startswith(("{", "[")) else _of_csv(text, path)
    found = {kernel: launches for kernel, launches in found.items() if any(launches)}
    if not found:
        raise UsageError(f"{path} holds no metrics; make it with `fusetune profile` or `ncu --csv --page raw`")
    return found


def _of_json(text: str, path: Path) -> dict[str, tuple[Metrics, ...]]:
    """{kernel: {metric: value}}, or a list of those mappings for a kernel that was launched several times."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected an object of kernels, {{kernel: {{metric: value}}}}, not a list")
    return {kernel: tuple(_launches(value, kernel, path)) for kernel, value in raw.items()}


def _launches(value: Any, kernel: str, path: Path) -> Iterator[Metrics]:
    for launch in value if isinstance(value, list) else [value]:
        if not isinstance(launch, dict):
            raise UsageError(f"{path}: {kernel} has {launch!r} where {{metric: value}} is expected")
        yield {name: number for name, given in launch.items() if (number := _number(given)) is not None}


def _of_csv(text: str, path: Path) -> dict[str, tuple[Metrics, ...]]:
    """`--page raw`, a launch a row and a metric a column with units in the second row; or a metric a row."""
    lines = text.splitlines()
    # ncu's own messages and the program's output stand before the table.
    start = next((number for number, line in enumerate(lines) if f'"{_KERNEL_COLUMN}"' in line), None)
    if start is None:
        start = next((number for number, line in enumerate(lines) if _KERNEL_COLUMN in line.split(",")), None)
    if start is None:
        raise UsageError(f"{path}: no column {_KERNEL_COLUMN!r}; write it with `ncu --csv --page raw`")
    header, *rows = csv.reader(io.StringIO("\n".join(lines[start:])))
    rows = [row for row in rows if len(row) == len(header)]
    if all(name in header for name in _LONG_COLUMNS):
        return _of_long_rows(header, rows)
    kernel = header.index(_KERNEL_COLUMN)
    units = dict(zip(header, rows.pop(0), strict=True)) if rows and not rows[0][0].strip() else {}
    found: dict[str, list[Metrics]] = {}
    for row in rows:
        values = {
            name: number * _SCALES.get(units.get(name, ""), 1.0)
            for name, given in zip(header, row, strict=True)
            if "__" in name and (number := _number(given)) is not None
        }
        found.setdefault(_short(row[kernel]), []).append(values)
    return {name: tuple(launches) for name, launches in found.items()}


def _of_long_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, tuple[Metrics, ...]]:
    launches: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        number = _number(cells["Metric Value"])
        if number is not None:
            scale = _SCALES.get(cells.get("Metric Unit", ""), 1.0)
            launch = launches.setdefault((_short(cells[_KERNEL_COLUMN]), cells.get("ID", "")), {})
            launch[cells["Metric Name"]] = number * scale
    found: dict[str, list[Metrics]] = {}
    for (kernel, _), values in launches.items():
        found.setdefault(kernel, []).append(values)
    return {kernel: tuple(values) for kernel, values in found.items()}


def _of_report(path: Path) -> dict[str, tuple[Metrics, ...]]:
    try:
        import ncu_report
    except ImportError as error:
        raise UsageError(
            f"{path} needs Nsight Compute's module ncu_report: add its extras/python folder to PYTHONPATH, or write "
            f"CSV with `ncu --import {path} --csv --page raw > metrics.csv`"
        ) from error
    if not path.exists():
        raise UsageError(f"cannot read the metrics {path}: there is no such file")
    try:
        report = ncu_report.load_report(str(path))
    except Exception as error:
        raise UsageError(f"{path}: Nsight Compute cannot read it: {error}") from error
    found: dict[str, list[Metrics]] = {}
    for one_range in range(report.num_ranges()):
        actions = report.range_by_idx(one_range)
        for index in range(actions.num_actions()):
            action = actions.action_by_idx(index)
            values = {
                name: number
                for name in action.metric_names()
                if (metric := action.metric_by_name(name)) is not None
                and (number := _number(metric.value())) is not None
            }
            found.setdefault(_short(action.name()), []).append(values)
    return {kernel: tuple(launches) for kernel, launches in found.items()}


def _number(given: Any) -> float | None:
    """A finite number, also from text such as `1,024` or `44.43`; None for anything else."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        number = float(given.replace(",", "")) if isinstance(given, str) else float(given)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _short(kernel: str) -> str:
    """A kernel's name without the signature that ncu may print after it."""
    return kernel.split("(", 1)[0].strip() or kernel
