"""Where a value stands in a JSON file, so that it alone is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from fusetune.code.patch.edits import NotWritableError

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
Path = tuple[str | int, ...]


class JsonValue(NamedTuple):
    """A number, a word or a flag in a JSON file: its bytes, its line and what it is worth."""

    start: int
    length: int
    line: int
    value: Any


def json_values(file: str, data: bytes) -> dict[Path, JsonValue]:
    """The plain values of a JSON file by the keys that lead to them. Raises NotWritableError where it is none."""
    try:
        text = data.decode()
        json.loads(text)
    except ValueError as error:
        raise NotWritableError(file, 1, f"it is no JSON in UTF-8: {error}") from error
    tokens = list(_TOKEN.finditer(text))
    found: dict[Path, JsonValue] = {}
    for path, token in _walked(tokens):
        start = len(text[: token.start()].encode())
        line = text.count("\n", 0, token.start()) + 1
        found[path] = JsonValue(start, len(token.group().encode()), line, json.loads(token.group()))
    return found


def _walked(tokens: Sequence[re.Match[str]]) -> Iterator[tuple[Path, re.Match[str]]]:
    """The tokens that are values, with the keys that lead to each; the text is known to be JSON."""
    path: list[str | int] = []
    for number, token in enumerate(tokens):
        word = token.group()
        following = tokens[number + 1].group() if number + 1 < len(tokens) else ""
        if word in "{[":
            path.append("" if word == "{" else 0)
        elif word in "}]":
            path.pop()
        elif word == ",":
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else ""
        elif word == ":":
            continue
        elif following == ":":
            path[-1] = json.loads(word)
        else:
            yield tuple(path), token
