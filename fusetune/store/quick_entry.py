"""One entry as `dump_config_file` writes it, read without a YAML parser: what is not exactly so is left to that."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from fusetune.store.yaml_reader import IMPLICIT_RESOLVERS

_QUOTED: Final = re.compile(r"'(?:[^'\n]|'')*'")
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9.]|-[0-9])[^,'\"{}\[\]#:\n]*(?<! )")
_INT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_FLOAT: Final = re.compile(r"-?[0-9]{1,20}\.[0-9]{1,20}(?:e[-+][0-9]{1,3})?")
"""Longer numbers are left to the parser, which has an error with a line for them."""
_MOST_KEPT: Final = 64
"""Characters of a scalar that is worth keeping."""
_INDENT: Final = 2
_DEEPEST: Final = 40
"""Columns that an entry is indented by at most; what is deeper could use up the stack."""


class NotPlainError(Exception):
    """Text that is not in the form that fusetune writes, and may still be good YAML."""


def quick_entry(text: str) -> dict[str, Any]:
    """The mapping of one entry, its first line beginning with `- `. Raises NotPlainError where YAML has to be asked."""
    lines = text.rstrip("\n").split("\n")
    if not lines[0].startswith("- "):
        raise NotPlainError
    lines[0] = "  " + lines[0][_INDENT:]
    lines.reverse()  # the next line is the last one, and cheap to take off
    found = _mapping(lines, _INDENT)
    if lines:
        raise NotPlainError
    return found


def _mapping(lines: list[str], indent: int) -> dict[str, Any]:
    if indent > _DEEPEST:
        raise NotPlainError
    found: dict[str, Any] = {}
    margin = " " * indent
    while lines and lines[-1].startswith(margin):
        key, colon, value = lines.pop()[indent:].partition(":")
        if not colon or not key.isidentifier() or key in found:
            raise NotPlainError
        if not value:
            found[key] = _mapping(lines, indent + _INDENT)
        elif value.startswith(" {"):
            while not value.endswith("}") and lines:
                value += " " + lines.pop().strip()
            found[key] = quick_flow(value[2:-1])
        elif value[0] == " ":
            found[key] = _scalar(value[1:])
        else:
            raise NotPlainError
    if not found:
        raise NotPlainError
    return found


def quick_flow(inner: str) -> dict[str, Any]:
    """What stands between the braces of a mapping on one line. Raises NotPlainError as `quick_entry` does."""
    found: dict[str, Any] = {}
    pairs = inner.split(", ")
    for pair in pairs:
        key, colon, value = pair.partition(": ")
        if not colon or not key.isidentifier():
            raise NotPlainError
        found[key] = _scalar(value)
    if len(found) != len(pairs):
        raise NotPlainError
    return found


def _scalar(text: str) -> Any:
    return _kept_scalar(text) if len(text) <= _MOST_KEPT else _any_scalar(text)


def _any_scalar(text: str) -> Any:
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _QUOTED.fullmatch(text):
        return text[1:-1].replace("''", "'")
    if not _PLAIN.fullmatch(text) or any(pattern.match(text) for _, pattern in IMPLICIT_RESOLVERS.get(text[0], ())):
        raise NotPlainError
    return text


# Entries of one file have most of their words and many of their numbers in common.
_kept_scalar = functools.lru_cache(maxsize=8192)(_any_scalar)
