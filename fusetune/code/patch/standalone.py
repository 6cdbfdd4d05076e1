"""One module from a user's own: imports, kernels, wrappers, `class ModelNew`, in this order, and no code that tests."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from typing import Final

import libcst as cst

from fusetune.code.patch.chunks import MODEL, Chunk, chunks_of, imported_names
from fusetune.code.patch.edits import Finding, NotWritableError, distinct, spliced
from fusetune.code.patch.source_file import SourceFile

IMPORTS: Final = ("import torch", "import torch.nn as nn", "import triton", "import triton.language as tl")
_MEANT: Final = {"torch": "torch", "nn": "torch.nn", "triton": "triton", "tl": "triton.language"}
_NEVER: Final = frozenset({"get_inputs", "get_init_inputs"})
_TESTS: Final = re.compile(r"Model|main|(?:run_)?(?:tests?|bench\w*|check|verify|compare|profile|validate)(?:_\w+)?")
"""Names of what is there to try the model; kept all the same where the model needs it."""
_SECTIONS: Final = {"docstring": 0, "future": 1, "import": 2, "constant": 3, "kernel": 4, "function": 5, "model": 6}
_KERNELS: Final = _SECTIONS["kernel"]
_LACKING: Final = frozenset({"tanh", "sigmoid", "gelu", "silu", "softmax", "mish"})
"""Of `tl`: what not every version of Triton has."""


def standalone(
    file: str, data: bytes, header: Sequence[str] = (), own: Collection[str] = ()
) -> tuple[str, list[Finding]]:
    """The module of a file's text, with comments at its top, and what somebody should know of it.

    `own` are modules of the program that are not handed out with it. Raises NotWritableError where the file has no
    class ModelNew.
    """
    source = _without_lacking(SourceFile(file, data))
    top, chunks = chunks_of(source)
    if not any(one.kind == "model" for one in chunks):
        raise NotWritableError(file, 1, f"it has no class {MODEL}, so there is no module to write; --diff changes it")
    kept = _kept(chunks)
    findings = [*_left_over(source, kept), *_elsewhere(source, kept, own)]
    comments = "".join(f"# {line}\n" if line else "#\n" for line in header)
    text = comments + ("\n" if comments else "") + top.lstrip("\n") + _joined(chunks, _in_order(kept))
    return text.replace("\r\n", "\n"), findings


def _kept(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The statements that the model and its kernels need, and helpers that need nothing which goes."""
    gone = {id(one) for one in chunks if one.kind in {"main", "call"} or one.binds & _NEVER}
    roots = [
        one
        for one in chunks
        if id(one) not in gone and (one.kind in {"model", "kernel", "docstring", "future"} or not one.binds)
    ]
    needed = _reached(roots, chunks)
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


def _reached(roots: Sequence[Chunk], chunks: Sequence[Chunk]) -> set[int]:
    found = {id(one) for one in roots}
    waiting = list(roots)
    while waiting:
        names = waiting.pop().needs
        for one in chunks:
            if id(one) not in found and one.binds & names and not one.binds & _NEVER:
                found.add(id(one))
                waiting.append(one)
    return found


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
        if last is not None and following.get(id(last)) is one:
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
    names = imported_names(chunk.source, chunk.node) if chunk.kind == "import" else ()
    return bool(names) and all(_MEANT.get(name) == means for name, means in names)


def _without_lacking(source: SourceFile) -> SourceFile:
    """`tl.sigmoid(x)` written out, as Triton itself defines it, so that the result is the same to the bit."""
    while True:
        calls = [one for one in source.all(cst.Call) if _lacking(source, one.func) == "sigmoid" and len(one.args) == 1]
        inner = [one for one in calls if not any(two is not one and source.inside(two, one) for two in calls)]
        if not inner:
            return source
        edits = [
            source.replaced(one, f"(1 / (1 + tl.exp(-({source.text(one.args[0].value)}))))", "sigmoid") for one in inner
        ]
        source = SourceFile(source.file, spliced(source.data, distinct(edits)))


def _lacking(source: SourceFile, node: cst.CSTNode) -> str:
    if isinstance(node, cst.Attribute) and source.text(node.value) == "tl" and node.attr.value in _LACKING:
        return node.attr.value
    return ""


def _left_over(source: SourceFile, chunks: Sequence[Chunk]) -> list[Finding]:
    return [
        Finding(source.file, source.line(one), f"tl.{name} is not in every Triton; write it out")
        for chunk in chunks
        for one in source.all(cst.Attribute, chunk.node)
        if (name := _lacking(source, one))
    ]


def _elsewhere(source: SourceFile, chunks: Sequence[Chunk], own: Collection[str]) -> list[Finding]:
    """The imports of the program's own modules: the file does not stand alone."""
    found = []
    for chunk in chunks:
        for name, means in imported_names(source, chunk.node) if chunk.kind == "import" else ():
            module = means.rpartition(".")[0] or means
            if any(f".{one}".endswith(f".{module}") for one in own):
                text = f"{name} comes from the program's module {module}, which has to be beside the module"
                found.append(Finding(source.file, source.line(chunk.node), text))
    return found
