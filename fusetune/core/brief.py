"""Text of any length for a message: what was read is quoted, and nobody's screen or log is filled with it."""

from __future__ import annotations

from typing import Any, Final

from fusetune.core.text import printable

MOST_QUOTED: Final = 200
"""Characters of a quoted text that a message has room for."""


def brief(text: object, most: int = MOST_QUOTED) -> str:
    """The text on one line, printable, and cut off beyond `most` characters with a word on how long it was."""
    whole = str(text)
    if len(whole) <= most:
        return printable(whole)
    return f"{printable(whole[:most])}... ({len(whole)} characters)"


def brief_error(error: BaseException) -> str:
    """An error's kind and what it says, which may be many lines, as those of a compiler, on one."""
    return f"{type(error).__name__}: {brief(' '.join(str(error).split()))}"


def brief_value(value: Any) -> str:
    """A value that was read, as Python writes it; a list or a mapping by its kind alone, as it may be endless."""
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    return brief(repr(value[:MOST_QUOTED] if isinstance(value, str | bytes) else value))
