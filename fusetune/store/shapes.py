"""Lists of problems from a file, YAML, JSON or CSV: every bad row is told, and none is dropped in silence.

What a size is, no format decides: it is digits, as they are written. YAML 1.1 would take 0064 for 52 and 2:30 for 150.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from fusetune.core.config_text import parse_value
from fusetune.core.dtypes import dtype_name
from fusetune.core.problem import Problem
from fusetune.errors import UsageError
from fusetune.ops.built_in import named_values
from fusetune.ops.types import NAMED, types_of
from fusetune.store.foreign import DELIMITERS, cells_of, read_foreign_bytes, shown, text_of
from fusetune.store.yaml_reader import load_words

MOST_TOLD: Final = 50
"""Bad rows beyond these are counted."""
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_LIST_IN_JSON: Final = re.compile(r'\s*(?:\{\s*"shapes"\s*:\s*)?\[')
_BETWEEN_IN_JSON: Final = re.compile(r"[\s,]*")


def optional_names() -> tuple[str, ...]:
    """What the command line may give to all rows at once."""
    return ("op", *(value.name for value in named_values() if not value.is_size))


def example() -> str:
    """What a row looks like, for people."""
    sizes = ", ".join(value.name for value in named_values() if value.is_size)
    return (
        f"a row is {sizes}, or the sizes of an op of your own, and, where they differ from the options, "
        f"{', '.join(optional_names())}"
    )


class Shape(msgspec.Struct, frozen=True):
    """One row: the op's name, the problem, and where it stands in the file."""

    op: str
    problem: Problem
    place: str


def read_shapes(
    path: Path, op: str, defaults: Mapping[str, Any], make: Callable[[str, Mapping[str, Any]], Problem]
) -> tuple[Shape, ...]:
    """The problems of a file, in order; `op` and `defaults` are for rows that leave these out.

    `make` makes a problem of an op's name and the values of a row, or raises UsageError for what it is not.
    CSV has a header with the names of values, and commas, semicolons or tabs; YAML and JSON are a list of mappings, or
    that list under `shapes`. Raises UsageError with one line for each bad row (MOST_TOLD of them at most), or where the
    file cannot be read or is empty.
    """
    found = _rows(path)
    if not found:
        raise UsageError(f"{path} holds no problems; {example()}")
    shapes: list[Shape] = []
    mistakes: list[str] = []
    seen: dict[tuple[str, Problem], str] = {}
    for place, row in found:
        try:
            named, values = _row(row, op, defaults)
            shape = Shape(named, make(named, values), place)
        except UsageError as error:
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


def _row(row: Any, op: str, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, dict):
        raise UsageError(f"{shown(row)} is not a problem; {example()}")
    unfit = [name for name in row if not isinstance(name, str) or not name.isidentifier()]
    if unfit:
        raise UsageError(f"{shown(unfit[0])} is no name of a value; {example()}")
    named = _text(row, "op", op) or op
    if ":" in named and named != op:
        raise UsageError(
            f"op is {shown(named)}, and a file names no module to import: give it as --op, and leave it out"
        )
    words = optional_names()
    types = types_of(named)
    read = _any_value if types is NAMED else _size
    own = {name: _text(row, name, None) if name in words else read(row, name) for name in row if name != "op"}
    if isinstance(dtype := own.get("dtype"), str):
        own["dtype"] = dtype_name(dtype)
    given = {name: value for name, value in defaults.items() if value is not None}
    return named, types.merge({name: value for name, value in own.items() if value is not None}, given)


def _size(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if value is None or value == "":
        raise UsageError(f"{name} is missing; {example()}")
    text = value.strip() if isinstance(value, str) else ""
    if not _WHOLE.fullmatch(text):
        raise UsageError(f"{name} is {shown(value)}, and has to be a whole number, in digits and below 2147483648")
    return int(text)


def _any_value(row: Mapping[str, Any], name: str) -> Any:
    """A value of an op that takes any: a number, a flag or a word."""
    value = row[name]
    return parse_value(_text(row, name, None) or "") if isinstance(value, str) else value


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
    # Of a line of names, the mark that parts it is the one that leaves most of them.
    delimiter, header = max(headers.items(), key=lambda item: len(item[1]))
    unfit = [name for name in header if name and not name.isidentifier()]
    if unfit or not any(header):
        raise UsageError(f"{place}: the header has to name the values, as M,K,N; {example()}")
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
