"""One module from a user's own: imports, kernels, wrappers, `class ModelNew`, in this order, and no code that tests."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fusetune.code.patch.chunks import MODEL, Chunk, chunks_of
from fusetune.code.patch.clashes import without_clashes
from fusetune.code.patch.edits import Finding, NotWritableError
from fusetune.code.patch.lacking import left_over, without_lacking
from fusetune.code.patch.own_modules import Gathered, Origins, OwnModules, with_own_modules
from fusetune.code.patch.source_file import SourceFile

IMPORTS: Final = ("import torch", "import torch.nn as nn", "import triton", "import triton.language as tl")
_MEANT: Final = {"torch": "torch", "nn": "torch.nn", "triton": "triton", "tl": "triton.language"}
_NEVER: Final = frozenset({"get_inputs", "get_init_inputs"})
_TESTS: Final = re.compile(r"Model|main|(?:run_)?(?:tests?|bench\w*|check|verify|compare|profile|validate)(?:_\w+)?")
"""Names of what is there to try the model; kept all the same where the model needs it."""
_SECTIONS: Final = {"docstring": 0, "future": 1, "import": 2, "constant": 3, "kernel": 4, "function": 5, "model": 6}
_KERNELS: Final = _SECTIONS["kernel"]


class Standalone(NamedTuple):
    """A module's text, what somebody should know of it, and the program's own modules that it has something of."""

    text: str
    findings: list[Finding]
    inlined: tuple[str, ...] = ()


def standalone(file: str, data: bytes, header: Sequence[str] = (), modules: OwnModules | None = None) -> Standalone:
    """The module of a file's text, with comments at its top.

    What it uses of `modules`, the program's own, is in it, under the same names. Raises NotWritableError where the file
    has no class ModelNew, where names of two files clash, and where a module is used in a way that is not names.
    """
    source = without_lacking(SourceFile(file, data))
    found = Gathered(*chunks_of(source)) if modules is None else with_own_modules(source, modules)
    chunks = found.chunks
    if not any(one.kind == "model" and not one.inlined for one in chunks):
        raise NotWritableError(file, 1, f"it has no class {MODEL}, so there is no module to write; --diff changes it")
    kept = without_clashes(_kept(chunks, found.origins))
    inlined = tuple(dict.fromkeys(one.source.file for one in kept if one.inlined))
    names = ", ".join(Path(one).name for one in inlined)
    lines = [*header, *([f"With what it uses of {names}."] if names else [])]
    comments = "".join(f"# {line}\n" if line else "#\n" for line in lines)
    text = comments + ("\n" if comments else "") + found.top.lstrip("\n") + _joined(chunks, _in_order(kept))
    findings = [*left_over(kept), *found.findings, *_of_its_place(kept)]
    return Standalone(text.replace("\r\n", "\n"), findings, inlined)


def _of_its_place(chunks: Sequence[Chunk]) -> list[Finding]:
    """The statements that ask where their file is: a module may stand elsewhere."""
    told = "__file__ is the module's own, so that what is found by it has to be beside the module"
    asking = [one for one in chunks if "__file__" in one.reads]
    return [Finding(one.source.file, one.source.line(one.node), told) for one in asking]


def _kept(chunks: Sequence[Chunk], origins: Origins) -> list[Chunk]:
    """The statements that the model and its kernels need, and helpers that need nothing which goes."""
    gone = {id(one) for one in chunks if one.kind in {"main", "call"} or one.binds & _NEVER}
    roots = [one for one in chunks if id(one) not in gone and _is_root(one)]
    needed = _reached(roots, chunks, origins)
    while fills := [one for one in chunks if id(one) not in needed and _fills(one, chunks, needed)]:
        roots += fills
        needed = _reached(roots, chunks, origins)
    for one in chunks:
        if one.kind == "call" and id(one) in needed:
            one.take_as_constant()
            gone.remove(id(one))
    gone |= {id(one) for one in chunks if one.inlined and id(one) not in needed}
    for one in chunks:
        if one.kind == "function" and id(one) not in needed and _TESTS.fullmatch(one.name()):
            gone.add(id(one))
    while True:
        lost = {name for one in chunks if id(one) in gone for name in one.binds}
        more = {
            id(one)
            for one in chunks
            if id(one) not in gone | needed and one.kind in {"function", "constant"} and one.needs & lost
        }
        if not more:
            break
        gone |= more
    kept = [one for one in chunks if id(one) not in gone]
    wanted = {name for one in kept for name in one.needs}
    dropped = {name for one in chunks if id(one) in gone for name in one.needs}
    unused = [
        one
        for one in kept
        if one.kind in {"import", "constant"}
        and one.binds
        and id(one) not in needed
        and not one.binds & wanted
        and one.binds & dropped
    ]
    return [one for one in kept if one not in unused]


def _is_root(chunk: Chunk) -> bool:
    """Whether a statement stays whoever needs it; of an own module only what sets how everything is computed."""
    if chunk.inlined:
        return chunk.kind == "future" or (chunk.kind == "constant" and not chunk.binds)
    return chunk.kind in {"model", "kernel", "docstring", "future"} or not chunk.binds


def _fills(chunk: Chunk, chunks: Sequence[Chunk], needed: Collection[int]) -> bool:
    """Whether a statement fills a table that is needed: without it that would be another one."""
    tables = (one for one in chunks if one.kind == "constant" and id(one) in needed)
    return any(one.source.file == chunk.source.file and one.binds & chunk.fills for one in tables)


def _reached(roots: Sequence[Chunk], chunks: Sequence[Chunk], origins: Origins) -> set[int]:
    found = {id(one) for one in roots}
    waiting = list(roots)
    while waiting:
        taken = waiting.pop()
        for one in chunks:
            if id(one) in found or one.kind == "main" or one.binds & _NEVER:
                continue
            if _takes(taken, one, origins):
                found.add(id(one))
                waiting.append(one)
    return found


def _takes(chunk: Chunk, other: Chunk, origins: Origins) -> bool:
    """Whether a statement may need what another one binds, of its own file or of one that this has the name from."""
    file = other.source.file
    if chunk.source.file == file:
        return bool(other.binds & (chunk.reads if chunk.inlined else chunk.needs))
    return any(file in origins.of(chunk.source.file, name) for name in other.binds & chunk.reads)


def _in_order(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The statements by their sections, else as they stood; what another needs at import stays before it."""
    at = {id(one): _SECTIONS[one.kind] for one in chunks}
    most = {id(one): _SECTIONS["model"] if one.kind != "kernel" else _KERNELS for one in chunks}
    moved = True
    while moved:
        moved = False
        for one in chunks:
            # What is called at import needs all that it calls.
            is_called = one.kind in {"function", "constant"} and most[id(one)] <= _KERNELS
            names = one.needs if is_called else one.needs_at_import()
            for other in chunks:
                if other is one or not other.binds & names or at[id(other)] <= at[id(one)]:
                    continue
                if one.kind == "constant" and most[id(one)] >= at[id(other)]:
                    at[id(one)], moved = at[id(other)], True
                elif other.kind in {"function", "constant"}:
                    at[id(other)], moved = at[id(one)], True
                    most[id(other)] = min(most[id(one)], at[id(one)])
    return sorted(chunks, key=lambda one: at[id(one)])


def _joined(chunks: Sequence[Chunk], ordered: Sequence[Chunk]) -> str:
    """The statements as text; those that follow each other as before keep what is between them."""
    following = {id(one): other for one, other in itertools.pairwise(chunks)}
    text, last = "", None
    imports = _imports(ordered)
    for one in ordered:
        if one.kind not in {"docstring", "future"} and imports:
            text, last, imports = f"{text}{'' if not text else chr(10)}{imports}", None, ""
        if _is_usual(one):
            continue
        own = one.text if one.text.endswith("\n") else f"{one.text}\n"
        if last is not None and following.get(id(last)) is one and last.source is one.source:
            text += own
        else:
            is_import = one.kind == "import"
            gap = "" if not text or is_import else "\n\n"
            text += gap + own.lstrip("\r\n")
        last = one
    return text


def _imports(chunks: Sequence[Chunk]) -> str:
    """The four imports, with the comments that stood above the user's own."""
    comments = [
        line.strip()
        for one in chunks
        if _is_usual(one)
        for line in one.text.splitlines()
        if line.lstrip().startswith("#")
    ]
    return "".join(f"{line}\n" for line in (*comments, *IMPORTS))


def _is_usual(chunk: Chunk) -> bool:
    """Whether an import binds nothing but what the four do."""
    names = chunk.imported() if chunk.kind == "import" else ()
    return bool(names) and all(_MEANT.get(name) == means for name, means in names)
