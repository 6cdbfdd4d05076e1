"""Lists of problems from a file, YAML, JSON or CSV: every bad row is told, and none is dropped in silence.

What a size is, no format decides: it is digits, as they are written. YAML 1.1 would take 0064 for 52 and 2:30 for 150.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from fusetune.core.problem import Problem, make_problem
from fusetune.errors import UnsupportedProblemError, UsageError
from fusetune.store.foreign import DELIMITERS, cells_of, read_foreign_bytes, shown, text_of
from fusetune.store.yaml_reader import load_words

SIZES: Final = ("M", "N", "K")
OPTIONAL: Final = ("op", "dtype", "precision", "mode")
_EXAMPLE: Final = "a row is M, N, K and, where they differ from the options, op, dtype, precision, mode"
MOST_TOLD: Final = 50
"""Bad rows beyond these are counted."""
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_LIST_IN_JSON: Final = re.compile(r'\s*(?:\{\s*"shapes"\s*:\s*)?\[')
_BETWEEN_IN_JSON: Final = re.compile(r"[\s,]*")


class Shape(msgspec.Struct, frozen=True):
    """One row: the op's name, the problem, and where it stands in the file."""

    op: str
    problem: Problem
    place: str


def read_shapes(path: Path, defaults: Mapping[str, str | None]) -> tuple[Shape, ...]:
    """The problems of a file, in order; `defaults` gives op, dtype, precision and mode to rows that leave them out.

    CSV has a header with those names, and commas, semicolons or tabs; YAML and JSON are a list of mappings, or that
    list under `shapes`. Raises UsageError with one line for each bad row (MOST_TOLD of them at most), or where the file
    cannot be read or is empty.
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
    if len(mistakes) > MOST_TOLD:
        mistakes[MOST_TOLD:] = [f"{path}: and {len(mistakes) - MOST_TOLD} more bad rows"]
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return tuple(shapes)


def _shape(row: Any, defaults: Mapping[str, str | None], place: str) -> Shape:
    if not isinstance(row, dict):
        raise UsageError(f"{shown(row)} is not a problem; {_EXAMPLE}")
    unknown = sorted(shown(name) for name in row if name not in (*SIZES, *OPTIONAL))
    if unknown:
        raise UsageError(f"{', '.join(unknown[:3])} is not known; {_EXAMPLE}")
    sizes = [_size(row, name) for name in SIZES]
    texts = {name: _text(row, name, defaults.get(name)) for name in OPTIONAL}
    op, dtype = texts["op"] or "gemm_scale", texts["dtype"] or "float32"
    if ":" in op and op != defaults.get("op"):
        raise UsageError(f"op is {shown(op)}, and a file names no module to import: give it as --op, and leave it out")
    # An option given for the whole list is for the rows that it can apply to.
    if "precision" not in row and dtype != "float32":
        texts["precision"] = None
    M, N, K = sizes
    problem = make_problem(M, N, K, dtype, texts["precision"], texts["mode"])  # type: ignore[arg-type]
    return Shape(op, problem, place)


def _size(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if value is None or value == "":
        raise UsageError(f"{name} is missing; {_EXAMPLE}")
    text = value.strip() if isinstance(value, str) else ""
    if not _WHOLE.fullmatch(text):
        raise UsageError(f"{name} is {shown(value)}, and has to be a whole number, in digits and below 2147483648")
    return int(text)


def _text(row: Mapping[str, Any], name: str, default: str | None) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str):
        raise UsageError(f"{name} is {shown(value)}, and has to be a word")
    text = value.strip()
    if not re.fullmatch(r"[\w.:/+-]{1,200}", text):
        raise UsageError(f"{name} is {shown(value)}, and has to be a word")
    return text


def _rows(path: Path) -> Sequence[tuple[str, Any]]:
    read = {".yaml": _yaml_rows, ".yml": _yaml_rows, ".json": _json_rows, ".csv": _csv_rows}.get(path.suffix.lower())
    fix = "name a YAML or CSV file"
    text = text_of(read_foreign_bytes(path, "the shapes", fix), path, "the shapes", fix)
    if read is None:
        raise UsageError(
            f"{path}: the name has to end in .yaml, .yml, .json or .csv, so that it is clear how to read it"
        )
    return list(read(text, path)) if text.strip() else []


def _yaml_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    root, raw = load_words(text, path)
    if isinstance(raw, dict) and set(raw) == {"shapes"} and isinstance(root, yaml.MappingNode):
        raw, root = raw["shapes"], root.value[0][1]
    if raw is None:
        return
    if not isinstance(raw, list) or not isinstance(root, yaml.SequenceNode):
        raise UsageError(f"{path}: expected a list of problems, as in `- {{M: 128, N: 512, K: 1024}}`")
    for node, row in zip(root.value, raw, strict=True):
        yield f"line {node.start_mark.line + 1}", row


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    # Numbers stay the text that they are, as in the other formats.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_unrepeated)
    try:
        raw = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: not a list of problems: it is nested too deep") from error
    start = _LIST_IN_JSON.match(text)
    if isinstance(raw, dict) and set(raw) == {"shapes"}:
        raw = raw["shapes"]
    if not isinstance(raw, list) or start is None:
        raise UsageError(f'{path}: expected a list of problems, as in [{{"M": 128, "N": 512, "K": 1024}}]')
    # Once more, row by row: only so it is known where each begins.
    line, seen, at = 1, 0, start.end()
    for _ in raw:
        at = _BETWEEN_IN_JSON.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        line, seen = line + text.count("\n", seen, at), at
        row, at = decoder.raw_decode(text, at)
        yield f"line {line}", row


def _unrepeated(pairs: list[tuple[str, Any]]) -> Any:
    """The mapping, or where a key is there twice what no row is."""
    found = dict(pairs)
    return (
        found if len(found) == len(pairs) else f"a row with {shown(_first_repeated([key for key, _ in pairs]))} twice"
    )


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    (first, titles), *rest = lines
    place = f"{path}, line {first}"
    headers = {delimiter: cells_of(titles, delimiter, place) for delimiter in DELIMITERS}
    found = next(((mark, names) for mark, names in headers.items() if set(SIZES) <= set(names)), None)
    if found is None:
        raise UsageError(f"{place}: the header has to name M, N and K; {_EXAMPLE}")
    delimiter, header = found
    repeated = _first_repeated([name for name in header if name])
    if repeated is not None:
        raise UsageError(f"{place}: the header names {shown(repeated)} twice; keep one of the two")
    for number, line in rest:
        cells = cells_of(line, delimiter, f"{path}, line {number}")
        if len(cells) > len(header):
            yield f"line {number}", f"{len(cells)} cells under {len(header)} headings"
        elif any(cells):
            # A spreadsheet's empty columns and rows hold nothing to be told of.
            yield f"line {number}", {name: cell for name, cell in zip(header, cells, strict=False) if cell}


def _first_repeated(names: Sequence[str]) -> str | None:
    return next((name for place, name in enumerate(names) if name in names[:place]), None)
