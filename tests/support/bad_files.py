"""Files that nobody should believe, and what stands in a file's place: made on the spot, none is kept in the tree."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.sample import IMPOSSIBLE, OP

Make = Callable[[Path, str], None]
"""Puts something at a path; the text is that of a good file of its kind."""


def _written(change: Callable[[str], str | bytes]) -> Make:
    def make(path: Path, good: str) -> None:
        text = change(good)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    return make


def _replaced(*changes: tuple[str, str]) -> Make:
    def change(good: str) -> str:
        for old, new in changes:
            assert old in good, f"the good file has no {old!r}"
            good = good.replace(old, new)
        return good

    return _written(change)


def _huge(path: Path, good: str) -> None:
    path.write_text(good)
    os.truncate(path, 1 << 30)  # a hole: it takes no room


def _socket(path: Path, good: str) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is a short one
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _nest(levels: int) -> str:
    """A few hundred bytes that stand for 10 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def _merges(levels: int) -> str:
    lines = ["b0: &b0 {x: 1, y: 2}"]
    lines += [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


IN_A_FILE_S_PLACE: Final[Mapping[str, Make]] = {
    "a pipe": lambda path, good: os.mkfifo(path),
    "a socket": _socket,
    "a device without an end": lambda path, good: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path, good: path.symlink_to(path.name),
    "a gibibyte": _huge,
}
"""Of any kind of file."""

CONFIG_FILES: Final[Mapping[str, Make]] = {
    **IN_A_FILE_S_PLACE,
    "a link to nowhere": lambda path, good: path.symlink_to("nowhere"),
    "nothing": _written(lambda good: ""),
    "zeros": _written(lambda good: b"\0" * 5000),
    "no UTF-8": _written(lambda good: good.encode() + b"\xff"),
    "half of a surrogate pair": _written(lambda good: good + "# \ud800\n"),
    "200,000 levels of lists": _written(lambda good: "[" * 200_000),
    "200,000 levels of list items": _written(lambda good: "- " * 200_000),
    "900 levels of lists": _written(lambda good: "schema: " + "[" * 900 + "]" * 900),
    "a nest of lists as its schema": _written(lambda good: _nest(9) + "\nschema: *a8\n"),
    "a nest of lists as its target": _written(lambda good: _nest(9) + f"\nschema: 1\nop: {OP}\ntarget: *a8\n"),
    "a list in itself as its schema": _written(lambda good: "schema: &a [*a]\n"),
    "merge keys of merge keys": _written(lambda good: _merges(9) + "\n" + good),
    "a million list items": _written(lambda good: good + "more: [" + "a," * 1_000_000 + "]\n"),
    "a number of 5,000 digits for M": _replaced(("{M: 128,", "{M: 1" + "0" * 5000 + ",")),
    "a number of 30 digits for M": _replaced(("{M: 128,", "{M: 1" + "0" * 29 + ",")),
    "a number of 5,000 digits for num_warps": _replaced(("num_warps: 4", "num_warps: 1" + "0" * 5000)),
    "Arabic digits for M": _replaced(("{M: 128,", "{M: 1\u0662\u0668,")),
    "a number in base 60 of 100,000 parts": _replaced(("num_warps: 4", "num_warps: 1" + ":1" * 100_000)),
    "a key of a megabyte": _replaced(("  evidence:", f"  {'k' * 1_000_000}: 1\n  evidence:")),
    "a text of a megabyte for a number": _replaced(("num_warps: 4", f"num_warps: {'w' * 1_000_000}")),
    "control characters in a key": _replaced(("  evidence:", '  "\\e[2J\\n::error::": 1\n  evidence:')),
    "an infinite number of blocks": _replaced(("blocks: 50", "blocks: .inf")),
    "an unknown variant": _replaced(("variant: tiled", "variant: nosuch")),
    "an unknown variant of a megabyte": _replaced(("variant: tiled", f"variant: {'v' * 1_000_000}")),
    **{name: _replaced(*pairs) for name, pairs in IMPOSSIBLE.items()},
}
"""In the place of a file of configs of the sample whose one entry, M=128, has BASELINE's variant, 64x16 and 4 warps."""


def _lines(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Make:
    def make(path: Path, good: str) -> None:
        records = change([json.loads(line) for line in good.splitlines()])
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    return make


def _of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def _with(records: list[dict[str, Any]], kind: str, **fields: Any) -> list[dict[str, Any]]:
    return [{**record, **fields} if record["kind"] == kind else record for record in records]


def _second(line: bytes) -> Make:
    """Another second line, with the rest behind it."""

    def make(path: Path, good: str) -> None:
        first, _, rest = good.encode().partition(b"\n")
        path.write_bytes(b"\n".join([first, line, rest]))

    return make


JOURNALS: Final[Mapping[str, Make]] = {
    **IN_A_FILE_S_PLACE,
    "a link to nowhere": lambda path, good: path.symlink_to("nowhere"),
    "zeros": _written(lambda good: b"\0" * 5000 + b"\n"),
    "JSON of 200,000 levels": _second(b'{"kind":"note","text":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a first line of 200,000 levels": _written(lambda good: "[" * 200_000 + "\n" + good),
    "a number of 5,000 digits": _second(b'{"kind":"sample","round":0,"us":1.0,"id":1' + b"0" * 5000 + b"}"),
    "digits in a text": _second(b'{"kind":"sample","round":0,"us":1.0,"id":"1' + b"0" * 5000 + b'"}'),
    "a line of two megabytes": _second(b'{"kind":"' + b"x" * 2_000_000 + b'"}'),
    "no UTF-8": _second(b'{"kind":"note","text":"\xff"}'),
    "control characters for a kind": _second(b'{"kind":"\\u001b[2J\\n::error::"}'),
    "no candidate lines": _lines(lambda records: [one for one in records if one["kind"] != "candidate"]),
    "lines out of order": _lines(lambda records: [records[0], *reversed(records[1:])]),
    "a second run in it": _lines(lambda records: [*records, *records]),
    "a first line that comes last": _lines(lambda records: [*records[1:], records[0]]),
    "a problem that is none": _lines(lambda records: _with(records, "run", problem="large")),
    "an op that is a number": _lines(lambda records: _with(records, "run", op=7)),
    "another version": _lines(lambda records: _with(records, "run", journal=99)),
}
"""In the place of the journal of a finished sweep."""

PACKED_JOURNALS: Final[Mapping[str, Make]] = {
    "a gzip bomb": _written(lambda good: gzip.compress(b"\n" * (200 << 20), 1)),
    "half a gzip": _written(lambda good: gzip.compress(good.encode())[:-20]),
    "no gzip at all": _written(lambda good: good),
}
"""In the place of a gzipped one."""
