"""Text that comes from data, such as a GPU's name or a reason in a file, made fit to be shown or to name a file.

Who writes such a text takes the function of the output: `printable` for a terminal or a build log and `shown` for a
whole structure of them, `markdown`, `visible_lines`, `csv_cell` and `json_text` for what is read by others, `slugify`
and `file_part` for names. HTML is escaped by jinja2.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final, TypeVar

import msgspec

from fusetune.core.values import NamedValues

T = TypeVar("T")

OP_NAME: Final = r"^[a-z][a-z0-9_]{0,99}\Z"
"""What the name of an op is made of: it stands in files, and files are called by it."""
SPEC_PLACE: Final = r"^[^\x00-\x1f\x7f:]{1,900}:[A-Za-z_]\w{0,99}\Z"
"""Where the spec of a user's own op is: `module:attribute` or `folder/file.py:attribute`."""
MAX_NAME: Final = 100
"""Characters of one part of a file's name that comes from data."""

_UNFIT: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode that no screen shows as a letter: controls, formats (text that runs backwards), halves of
surrogate pairs, private and unassigned ones, separators of lines and paragraphs."""
_COMMAND: Final = re.compile(r"(?:(?<=\s)|^):(?=:)|##(?=\[)")
"""What a GitHub workflow takes for the begin of a command: `::` first on a line, `##[` anywhere."""
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_CODE: Final = re.compile(r"(`[\w .,=/-]+`)")
"""A word in the font of code, as messages have it: nothing in it does anything."""


def printable(text: str) -> str:
    r"""The text on one line; what a terminal, a parser or a workflow might act upon is spelled out, as in `\x1b`."""
    return _COMMAND.sub(_spell_last, _visible(text))


def printable_lines(text: str) -> str:
    """As `printable`, but line feeds stay: for a text of our own that quotes data in several lines."""
    return "\n".join(map(printable, text.split("\n")))


def shown(value: T, made: Callable[[str], str] = printable) -> T:
    """A structure with every text in it made `printable`, or what `made` makes of it, to any depth.

    A renderer that shows nothing but what this returned cannot forget a field.
    """
    changed: Any = value
    if isinstance(value, str):
        changed = made(value)
    elif isinstance(value, PurePath):
        changed = type(value)(made(str(value)))
    elif isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        better = {name: new for name, old in fields.items() if (new := shown(old, made)) is not old}
        changed = msgspec.structs.replace(value, **better) if better else value
    elif isinstance(value, NamedValues):
        changed = value.with_texts(made)
    elif isinstance(value, dict):
        changed = {shown(key, made): shown(item, made) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        items = [shown(item, made) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            changed = type(value)(items)
    result: T = changed
    return result


def no_command(text: str) -> str:
    """Lines as they are, except that a workflow finds no command of its own in them.

    The last look at what was laid out by somebody else, such as a table that broke a word in two.
    """
    return "\n".join(_COMMAND.sub(_spell_last, line) if _commands(line) else line for line in text.split("\n"))


def shortened(text: str, most: int) -> str:
    """The text, or its first characters and the number of those left out, in at most `most` or so.

    What would be as long as the text is the text.
    """
    cut = f"{text[:most]}... ({len(text) - most} more characters)"
    return text if len(text) <= max(most, len(cut)) else cut


def markdown(text: str) -> str:
    """The text in GitHub-flavoured Markdown, on one line and in its cell of a table: no markup, link, HTML or mention.

    Words in backticks stay code where nothing in them could do anything.
    """
    parts = _CODE.split(printable(" ".join(text.split())))
    return "".join(part if place % 2 else _plain_markdown(part, first=place == 0) for place, part in enumerate(parts))


def visible_lines(text: str) -> str:
    """The text with all but its letters and line feeds spelled out, as XML 1.0 can hold it.

    For a writer of XML or of a workflow's own command, who does the rest of the escaping: `::` and `##[` stay.
    """
    return "\n".join(map(_visible, text.split("\n")))


def csv_cell(value: Any) -> Any:
    """A value for a cell of a spreadsheet: text on one line, never a formula; figures stay figures."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def json_text(text: str) -> str:
    """JSON of the same meaning that no terminal and no workflow acts upon, whatever its strings hold."""
    if not text.isascii():
        text = "".join(
            json_escape(letter) if letter != "\n" and unicodedata.category(letter) in _UNFIT else letter
            for letter in text
        )
    return text.replace("##[", "#\\u0023[").replace("\x7f", "\\u007f")


def json_escape(letter: str) -> str:
    """A letter as an escape of JSON."""
    return "".join(
        f"\\u{int.from_bytes(unit, 'big'):04x}"
        for unit in map(bytes, zip(*[iter(letter.encode("utf-16-be", "surrogatepass"))] * 2, strict=True))
    )


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold spelled out: bytes of a file's name that were no text."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def slugify(name: str) -> str:
    """A name as the name of a file or folder: lower case, everything but letters and digits turned into hyphens.

    Whatever it is given, the result is one part of a path, at most 100 characters long, or empty.
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:MAX_NAME].strip("-")


def file_part(name: str) -> str:
    """A name as part of a file's name where others fix its form: letters, digits and `._,=-` stay, the rest is `_`.

    Whatever it is given, the result is one part of a path, not hidden, not empty and at most 100 characters long.
    """
    return re.sub(r"[^A-Za-z0-9._,=-]", "_", name)[:MAX_NAME].lstrip(".") or "_"


def _commands(line: str) -> bool:
    return "##[" in line or line.lstrip().startswith("::")


def _plain_markdown(text: str, *, first: bool) -> str:
    text = text.replace("&", "&amp;").replace("\\", "\\\\")
    text = re.sub(r"([|`*~])", r"\\\1", text)
    text = text.replace("<", "&lt;").replace("](", "]\\(").replace("][", "]\\[").replace("]:", "]\\:")
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    # Addresses, and names after an @, are links without any brackets; a comment between the letters ends that.
    text = text.replace("://", ":&#47;/").replace("www.", "www&#46;").replace("@", "@<!-- -->")
    return re.sub(r"^(#+ |>|[-+] |\d+[.)] )", r"\\\1", text) if first else text


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(_spelled(letter) if unicodedata.category(letter) in _UNFIT else letter for letter in text)


def _spell_last(found: re.Match[str]) -> str:
    return found[0][:-1] + _spelled(found[0][-1])


def _spelled(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
