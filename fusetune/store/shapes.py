"""Lists of problems from a file, YAML or CSV: every bad row is told, and none is dropped in silence."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from fusetune.core.problem import Problem, make_problem
from fusetune.errors import UnsupportedProblemError, UsageError

SIZES: Final = ("M", "N", "K")
OPTIONAL: Final = ("op", "dtype", "precision", "mode")
_EXAMPLE: Final = "a row is M, N, K and, where they differ from the options, op, dtype, precision, mode"


class Shape(msgspec.Struct, frozen=True):
    """One row: the op's name, the problem, and where it stands in the file."""

    op: str
    problem: Problem
    place: str


def read_shapes(path: Path, defaults: Mapping[str, str | None]) -> tuple[Shape, ...]:
    """The problems of a file, in order; `defaults` gives op, dtype, precision and mode to rows that leave them out.

    CSV has a header with those names; YAML is a list of mappings, or that list under `shapes`. Raises UsageError with
    one line for each bad row, or where the file cannot be read or is empty.
    """
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path} holds no problems; {_EXAMPLE}")
    shapes: list[Shape] = []
    mistakes: list[str] = []
    seen: dict[tuple[str, Problem], str] = {}
    for place, row in rows:
        try:
            shape = _shape(row, defaults, place)
        except (UsageError, UnsupportedProblemError) as error:
            mistakes.append(f"{path}, {place}: {error}")
            continue
        earlier = seen.setdefault((shape.op, shape.problem), place)
        if earlier != place:
            mistakes.append(f"{path}, {place}: the same problem stands on {earlier}; keep one of the two")
        shapes.append(shape)
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return tuple(shapes)


def _shape(row: Any, defaults: Mapping[str, str | None], place: str) -> Shape:
    if not isinstance(row, dict):
        raise UsageError(f"{row!r} is not a problem; {_EXAMPLE}")
    unknown = sorted(str(name) for name in row if name not in (*SIZES, *OPTIONAL))
    if unknown:
        raise UsageError(f"{', '.join(unknown)} is not known; {_EXAMPLE}")
    sizes = [_size(row, name) for name in SIZES]
    texts = {name: _text(row, name, defaults.get(name)) for name in OPTIONAL}
    dtype = texts["dtype"] or "float32"
    # An option given for the whole list is for the rows that it can apply to.
    if "precision" not in row and dtype != "float32":
        texts["precision"] = None
    M, N, K = sizes
    problem = make_problem(M, N, K, dtype, texts["precision"], texts["mode"])  # type: ignore[arg-type]
    return Shape(texts["op"] or "gemm_scale", problem, place)


def _size(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if value is None or value == "":
        raise UsageError(f"{name} is missing; {_EXAMPLE}")
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}, and has to be a whole number")
    return value


def _text(row: Mapping[str, Any], name: str, default: str | None) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}, and has to be a word")
    return value.strip()


def _rows(path: Path) -> Sequence[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read the shapes {path}: {why}; name a YAML or CSV file") from error
    if path.suffix.lower() in {".yaml", ".yml", ".json"}:
        return _yaml_rows(text, path)
    if path.suffix.lower() == ".csv":
        return _csv_rows(text, path)
    raise UsageError(f"{path}: the name has to end in .yaml, .yml, .json or .csv, so that it is clear how to read it")


def _yaml_rows(text: str, path: Path) -> Sequence[tuple[str, Any]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if isinstance(raw, dict) and set(raw) == {"shapes"} and root is not None:
        raw, root = raw["shapes"], root.value[0][1]
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise UsageError(f"{path}: expected a list of problems, as in `- {{M: 128, N: 512, K: 1024}}`")
    nodes = root.value if root is not None else []
    return [(f"line {node.start_mark.line + 1}", row) for node, row in zip(nodes, raw, strict=True)]


def _csv_rows(text: str, path: Path) -> Sequence[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or []]
    if not set(SIZES) <= set(header):
        raise UsageError(f"{path}, line 1: the header has to name M, N and K; {_EXAMPLE}")
    reader.fieldnames = header
    rows: list[tuple[str, Any]] = []
    for row in reader:
        place = f"line {reader.line_num}"
        if None in row:
            rows.append((place, f"{len(header) + len(row[None])} cells under {len(header)} headings"))
        else:
            rows.append((place, {name: value for name, value in row.items() if value not in (None, "")}))
    return rows
