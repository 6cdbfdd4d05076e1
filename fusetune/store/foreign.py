"""Text files that others wrote, such as a list of problems or a profiler's table, in the forms that programs save."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path
from typing import Final

from fusetune.core.text import printable
from fusetune.errors import UsageError

MOST_BYTES: Final = 256 << 20
"""More than this is no list and no table that somebody means to be read."""
DELIMITERS: Final = (",", ";", "\t")
"""What stands between the cells of a table: the third is a spreadsheet's, the second one's in Europe."""
_SHOWN: Final = 60
# In this order: the mark of UTF-32 begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_foreign_bytes(path: Path, called: str, fix: str) -> bytes:
    """All of a file. Raises UsageError, which names it and says `fix`, where it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {called} {path}: {error.strerror}; {fix}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"cannot read {called} {path}: it has more than {MOST_BYTES >> 20} MiB; {fix}")
    return data


def text_of(data: bytes, path: Path, called: str, fix: str) -> str:
    """The text of a file, UTF-8 unless its first bytes say UTF-16 or UTF-32 (as PowerShell's `>` writes it).

    Line breaks come as line feeds. Raises UsageError where it is no text.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {called} {path}: it is not text; {fix}") from error
    if "\0" in text:
        raise UsageError(f"cannot read {called} {path}: it is not text; {fix}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cells_of(line: str, delimiter: str, place: str) -> list[str]:
    """The cells of one line of a table, without the spaces around them. Raises UsageError, which begins with `place`.

    Line by line, so that a stray quotation mark spoils no more than its own.
    """
    try:
        return [cell.strip() for row in csv.reader([line], delimiter=delimiter, skipinitialspace=True) for cell in row]
    except csv.Error as error:
        raise UsageError(f"{place}: not a row of a table: {error}") from error


def shown(value: object) -> str:
    """A value from a file, short and on one line, for a sentence about it: only words and numbers are repeated."""
    if isinstance(value, dict | list | tuple | set):
        return {dict: "a mapping", set: "a set"}.get(type(value), "a list")
    text = printable(value if isinstance(value, str) else str(value))
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
    return f"'{text}'" if isinstance(value, str) else text
