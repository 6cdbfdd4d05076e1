"""A module cut at its top statements: each with the comments above it, the names it binds and those it needs."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import libcst as cst
from libcst.metadata import ClassScope, GlobalScope

from fusetune.code.patch.source_file import SourceFile, last_name
from fusetune.core.in_place import changed_in_place

Kind = Literal["docstring", "future", "import", "constant", "kernel", "function", "model", "main", "call"]
MODEL: Final = "ModelNew"
_KERNEL_DECORATORS: Final = frozenset({"jit", "autotune", "heuristics"})
_SETS: Final = re.compile(r"torch\.(?:set_|backends\.)")
"""Calls that change how everything is computed."""


class Chunk:
    """One top statement. `text` is its source with what stands above it since the statement before.

    `inlined`: it is of a module that the program's file imports, and not of that file.
    """

    def __init__(self, source: SourceFile, node: cst.CSTNode, text: str, *, inlined: bool = False) -> None:
        self.source, self.node, self.text, self.inlined = source, node, text, inlined
        self.kind = _kind(source, node)
        self.binds = frozenset(_bound(source, node))
        names = (one for one in source.all(cst.Name, node) if not _is_own(source, one))
        self.needs = frozenset(one.value for one in names) - self.binds

    @functools.cached_property
    def fills(self) -> frozenset[str]:
        """The names of values that a statement which binds none changes in place, as `TABLE.append(2)`."""
        if self.kind != "call":
            return frozenset()
        return frozenset(name for one in ast.parse(self.source.text(self.node)).body for name in changed_in_place(one))

    def take_as_constant(self) -> None:
        """Have a loop or a call stand among the constants, as what fills one of them."""
        self.kind = "constant"

    @functools.cached_property
    def reads(self) -> frozenset[str]:
        """The names in it, without what is asked of something else, as `sum` in `x.sum()`."""
        names = (one for one in self.source.all(cst.Name, self.node) if not is_asked(self.source, one))
        return frozenset(one.value for one in names) - self.binds

    def imported(self) -> Sequence[tuple[str, str]]:
        """The names that an import binds, each with what it is."""
        return imported_names(self.source, self.node)

    def needs_at_import(self) -> frozenset[str]:
        """The names that have to be there when the statement is run, not only when a function is called."""
        found: set[str] = set()
        for part in _evaluated(self.node):
            found |= {one.value for one in self.source.all(cst.Name, part)}
        return frozenset(found)

    def name(self) -> str:
        """What a function or a class is called; empty of anything else."""
        return self.node.name.value if isinstance(self.node, cst.FunctionDef | cst.ClassDef) else ""


def is_asked(source: SourceFile, name: cst.Name) -> bool:
    """Whether a name is an attribute or a keyword, and no name by itself."""
    above = source.parent(name)
    if isinstance(above, cst.Attribute):
        return above.attr is name
    return isinstance(above, cst.Arg) and above.keyword is name


def chunks_of(source: SourceFile, *, inlined: bool = False) -> tuple[str, list[Chunk]]:
    """The comments at the top of a module, and its statements in order."""
    at = 0 if source.start(source.module) == 0 else source.start(source.module)
    made: list[Chunk] = []
    body = source.module.body
    top = ""
    for number, node in enumerate(body):
        end = _end_of_line(source, node)
        text = source.between(at, end)
        if number == 0:
            begin = source.line_start(source.start(node))
            top, text = source.between(at, begin), source.between(begin, end)
        made.append(Chunk(source, node, text, inlined=inlined))
        at = end
    return top, made


def _is_own(source: SourceFile, name: cst.Name) -> bool:
    """Whether a name is a function's own: a parameter, or a variable that it alone has."""
    above = source.parent(name)
    if isinstance(above, cst.Param) and above.name is name:
        return True
    scope = source.scope(name)
    if scope is None or isinstance(scope, GlobalScope | ClassScope) or is_asked(source, name):
        return False  # In a class `SIZE = SIZE` reads the module's.
    found = scope[name.value]
    return bool(found) and not any(isinstance(one.scope, GlobalScope) for one in found)


def _end_of_line(source: SourceFile, node: cst.CSTNode) -> int:
    end = source.end(node)
    found = re.compile(rb"\r\n|\r|\n").search(source.data, max(end - 1, 0))
    return len(source.data) if found is None else found.end()


def _kind(source: SourceFile, node: cst.CSTNode) -> Kind:
    if isinstance(node, cst.ClassDef):
        return "model" if node.name.value == MODEL else "function"
    if isinstance(node, cst.FunctionDef):
        names = {last_name(_called(one.decorator)) for one in node.decorators}
        return "kernel" if names & _KERNEL_DECORATORS else "function"
    if isinstance(node, cst.If) and any(one.value == "__name__" for one in source.all(cst.Name, node.test)):
        return "main"
    if isinstance(node, cst.For | cst.While | cst.With):
        return "call"
    return _kind_of_line(source, list(_smalls(node)))


def _kind_of_line(source: SourceFile, smalls: Sequence[cst.CSTNode]) -> Kind:
    if not smalls:
        return "constant"
    first = smalls[0]
    if all(isinstance(one, cst.Import | cst.ImportFrom | cst.Pass) for one in smalls):
        is_future = isinstance(first, cst.ImportFrom) and last_name(first.module or cst.Name("_")) == "__future__"
        return "future" if is_future else "import"
    if isinstance(first, cst.Expr) and isinstance(first.value, cst.SimpleString | cst.ConcatenatedString):
        return "docstring"
    sets = isinstance(first, cst.Expr) and _SETS.match(source.text(first))
    return "call" if isinstance(first, cst.Expr | cst.Assert) and not sets else "constant"


def _smalls(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The small statements of a line, or of the blocks of an `if` or a `try`."""
    if isinstance(node, cst.BaseSmallStatement):
        yield node
    elif not isinstance(node, cst.FunctionDef | cst.ClassDef | cst.BaseExpression):
        for child in node.children:
            yield from _smalls(child)


def _called(node: cst.BaseExpression) -> cst.BaseExpression:
    return node.func if isinstance(node, cst.Call) else node


def _bound(source: SourceFile, node: cst.CSTNode) -> Iterator[str]:
    if isinstance(node, cst.FunctionDef | cst.ClassDef):
        yield node.name.value
        return
    for small in _smalls(node):
        if isinstance(small, cst.Import | cst.ImportFrom):
            yield from (name for name, _ in imported_names(source, small))
        elif isinstance(small, cst.Assign):
            for target in small.targets:
                yield from _targets(target.target)
        elif isinstance(small, cst.AnnAssign | cst.AugAssign):
            yield from _targets(small.target)


def _targets(node: cst.CSTNode) -> Iterator[str]:
    if isinstance(node, cst.Name):
        yield node.value
    elif isinstance(node, cst.Tuple | cst.List):
        for element in node.elements:
            yield from _targets(element.value)


def imported_names(source: SourceFile, node: cst.CSTNode) -> Sequence[tuple[str, str]]:
    """The names that an import binds, each with what it is: `nn` is `torch.nn`."""
    found = []
    for small in _smalls(node):
        if not isinstance(small, cst.Import | cst.ImportFrom) or isinstance(small.names, cst.ImportStar):
            continue
        module = source.text(small.module) if isinstance(small, cst.ImportFrom) and small.module else ""
        for alias in small.names:
            whole = source.text(alias.name)
            bound = last_name(alias.asname.name) if alias.asname is not None else whole.partition(".")[0]
            means = f"{module}.{whole}" if module else (whole if alias.asname is not None else bound)
            found.append((bound, means))
    return found


def _evaluated(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The parts of a statement that are evaluated when it is run."""
    if isinstance(node, cst.FunctionDef):
        yield from node.decorators
        yield node.params
        if node.returns is not None:
            yield node.returns
    elif isinstance(node, cst.ClassDef):
        yield from (*node.decorators, *node.bases, *node.keywords)
        for one in node.body.body:
            yield from _evaluated(one)
    else:
        yield node
