"""Names of several files in one: what says the same twice is there once, and what clashes is an error."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from fusetune.code.patch.chunks import Chunk
from fusetune.code.patch.edits import NotWritableError


def without_clashes(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The statements, each that another file has word for word but once.

    Raises NotWritableError where two files give one name to different things, and where one of an own module hides a
    name of Python's that another file reads.
    """
    found: list[Chunk] = []
    bound: dict[str, Chunk] = {}
    for chunk in chunks:
        others = {name: bound[name] for name in sorted(chunk.binds) if name in bound}
        others = {name: one for name, one in others.items() if one.source.file != chunk.source.file}
        for name, other in others.items():
            if not _says_the_same(chunk, other, name):
                raise _clash(chunk, name, f"is something else here than in {_place(other)}")
        if others and others.keys() == chunk.binds:
            continue
        bound |= dict.fromkeys(chunk.binds, chunk)
        found.append(chunk)
    for chunk in (one for one in found if one.inlined and one.kind != "import"):
        for name in sorted(chunk.binds & vars(builtins).keys()):
            reading = next((one for one in found if one.source.file != chunk.source.file and name in one.reads), None)
            if reading is not None:
                raise _clash(chunk, name, f"is Python's own in {_place(reading)}")
    return found


def _says_the_same(one: Chunk, other: Chunk, name: str) -> bool:
    if one.kind == other.kind == "import":
        return dict(one.imported()).get(name) == dict(other.imported()).get(name)
    return one.source.text(one.node) == other.source.text(other.node)


def _clash(chunk: Chunk, name: str, told: str) -> NotWritableError:
    told = f"{name} {told}, and one module has one of a name: rename one of them"
    return NotWritableError(chunk.source.file, chunk.source.line(chunk.node), told)


def _place(chunk: Chunk) -> str:
    return f"{chunk.source.file}:{chunk.source.line(chunk.node)}"
