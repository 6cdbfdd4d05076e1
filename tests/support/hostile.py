"""Texts that a file may hold to be more than text where they are shown, and what may be left of them."""

from __future__ import annotations

import unicodedata
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

TEXTS: Final = {
    "workflow command": "a\n::stop-commands::tok",
    "workflow command first": "::stop-commands::tok",
    "old workflow command": "x ##[stop-commands]tok",
    "escaped line feed": "a%0A::error::x\r::error::y",
    "terminal": "\x1b[2J\x1b]0;title\x07\x9b31m\x08\x7f",
    "formula": "=cmd|' /C calc'!A0",
    "formula by sign": "@SUM(1)",
    "html": "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>",
    "markup of rich": "[bold red]big[/] [link=https://evil.example]x[/link] :smile: [/nothing]",
    "link": "[x](https://evil.example) ![i](//evil.example/i.png) https://evil.example www.evil.example @everyone",
    "table": "a | b \\| c",
    "backticks": "a ` b ``` c",
    "backwards": "\u202egnp.exe\u2028\u2029\x85",
    "no xml": "\ufffe\uffff\x00\x01\x0b\x0c\ud800",
    "code": "*/ \"\"\" ''' \\",
    "long": "w" * 5000,
}


def planted(value: T, text: str) -> T:
    """The structure with the text in place of every string in it that its type leaves free."""
    changed: Any = value
    if isinstance(value, msgspec.Struct):
        put = {}
        for name in value.__struct_fields__:
            old = getattr(value, name)
            free = type(value).__annotations__.get(name) in _FREE and old is not None
            kept = "library" if name == "variant" and str(old).startswith("library") else ""
            new = kept + text if free else planted(old, text)
            if new is not old:
                put[name] = new
        changed = msgspec.structs.replace(value, **put)
    elif isinstance(value, list | tuple):
        changed = type(value)(planted(item, text) for item in value)
    return changed  # type: ignore[no-any-return]


_FREE: Final = ("str", "str | None")


def assert_harmless(output: str) -> None:
    """No line of it is a workflow's command, and no letter of it is a command to a terminal."""
    for line in output.split("\n"):
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line
        for letter in line:
            held = unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
            assert held, (hex(ord(letter)), line[:200])
    output.encode()
