"""Configs of named constants as people write them on a command line."""

from __future__ import annotations

import re
from typing import Final

from fusetune.core.config import NamedConfig
from fusetune.core.values import Value
from fusetune.errors import UsageError

_OPTION: Final = {"w": "num_warps", "s": "num_stages", "c": "num_ctas", "r": "maxnreg"}
_FORM: Final = "write 'BLOCK=1024 w4 s2': constants as NAME=VALUE, then w, s, c, r for warps, stages, CTAs, registers"


def parse_named_config(text: str) -> NamedConfig:
    """A config from its label, in any order of its words; what is left out is 4 warps and 2 stages.

    Raises UsageError for a word that is none of a config, and for a value that no launch can have.
    """
    fields: dict[str, Value] = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        option = re.fullmatch(r"([wscr])(\d+)", word)
        if equals:
            fields[name] = parse_value(value)
        elif option:
            fields[_OPTION[option[1]]] = int(option[2])
        else:
            raise UsageError(f"config {text!r}: {word!r} cannot be read; {_FORM}")
    try:
        return NamedConfig(**fields)  # type: ignore[arg-type]  # checked by it
    except ValueError as error:
        raise UsageError(f"config {text!r}: {error}") from error


def parse_value(text: str) -> Value:
    """A value as people write it: a whole number, a number, true, false, none, or else a word."""
    known = {"true": True, "false": False, "none": None}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
