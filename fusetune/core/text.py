"""Text that comes from data, such as a GPU's name or a reason in a file, made fit to be shown or to name a file."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_UNFIT: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode that no screen shows as a letter: controls, formats (text that runs backwards), halves of
surrogate pairs, private and unassigned ones, separators of lines and paragraphs."""


def printable(text: str) -> str:
    r"""The text on one line; what a terminal or a parser might act upon is spelled out, as in `\x1b`."""
    if text.isprintable():
        return text
    return "".join(_spelled(letter) if unicodedata.category(letter) in _UNFIT else letter for letter in text)


def printable_lines(text: str) -> str:
    """As `printable`, but line feeds stay: for a text of our own that quotes data in several lines."""
    return "\n".join(map(printable, text.split("\n")))


def slugify(name: str) -> str:
    """A name as the name of a file or folder: lower case, everything but letters and digits turned into hyphens.

    Whatever it is given, the result is one part of a path, at most 100 characters long, or empty.
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:100].strip("-")


def _spelled(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
