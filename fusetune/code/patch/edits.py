"""Edits of files as data, what could not be written back, and the bytes of a file after its edits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec


class Edit(msgspec.Struct, frozen=True):
    """`length` bytes of a file from `start` on become `text`; `what` says so for people, with `line` counted from 1."""

    file: str
    start: int
    length: int
    text: str
    line: int
    what: str

    @property
    def end(self) -> int:
        """The first byte that stays behind it."""
        return self.start + self.length


class Finding(msgspec.Struct, frozen=True):
    """A sentence on a place in a file: why something is not written back there, or what was left as it is."""

    file: str
    line: int
    text: str

    def told(self) -> str:
        """`file:line: sentence`."""
        return f"{self.file}:{self.line}: {self.text}"


class NotWritableError(Exception):
    """Something cannot be written back; `finding` says what, where and why."""

    def __init__(self, file: str, line: int, text: str) -> None:
        self.finding = Finding(file, line, text)
        super().__init__(self.finding.told())


def distinct(edits: Iterable[Edit]) -> list[Edit]:
    """The edits in the order of their places, each once. Raises NotWritableError where two want different things."""
    found: list[Edit] = []
    for edit in sorted(dict.fromkeys(edits), key=lambda one: (one.file, one.start, one.length)):
        last = found[-1] if found and found[-1].file == edit.file else None
        if last is not None and (last.start, last.length, last.text) == (edit.start, edit.length, edit.text):
            continue
        if last is not None and (edit.start < last.end or edit.start == last.start):
            raise NotWritableError(edit.file, edit.line, f"two changes meet here: {last.what}; {edit.what}")
        found.append(edit)
    return found


def spliced(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The bytes after the edits of one file, which are `distinct`."""
    made = bytearray(data)
    for edit in reversed(edits):
        made[edit.start : edit.end] = edit.text.encode()
    return bytes(made)
