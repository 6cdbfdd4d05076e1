"""Who else uses a kernel by its name: an autotuner above it would be theirs, too."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
from libcst.metadata import Assignment, ImportAssignment, Scope

from fusetune.code.patch.calls import grid_of
from fusetune.code.patch.edits import NotWritableError
from fusetune.code.patch.source_file import SourceFile, Sources, last_name


def refuse_other_users(source: SourceFile, kernel: cst.FunctionDef, call: cst.Call, sources: Sources) -> None:
    """Raise NotWritableError where a kernel is used beside one launch: launched, called by a kernel, or handed on.

    It is looked for in all of the program's files that are known, by the names that it is imported under.
    """
    name = kernel.name.value
    files = [source, *(one for one in _others(sources) if one is not source)]
    for one in files:
        launched = next((each for each in _launches(one, name) if each is not call), None)
        if launched is not None:
            raise one.refused(launched, f"{name} is launched here, too, and would share an autotuner: none is added")
        for node in _reads(one, kernel, name):
            if not one.inside(node, call.func):
                told = f"{name} is used here, too, and would be an autotuner by then: none is added"
                raise one.refused(node, told)


def _others(sources: Sources) -> Iterator[SourceFile]:
    for file in sources.files():
        try:
            yield sources.file(file)
        except NotWritableError:
            continue  # It is not the program's own, or no Python.


def _launches(source: SourceFile, name: str) -> list[cst.Call]:
    found = [call for call in source.all(cst.Call) if grid_of(call) is not None]
    return [call for call in found if last_name(_launched(call)) == name]


def _launched(call: cst.Call) -> cst.CSTNode:
    return call.func.value if isinstance(call.func, cst.Subscript | cst.Attribute) else call.func


def _reads(source: SourceFile, kernel: cst.FunctionDef, name: str) -> Iterator[cst.CSTNode]:
    """Where a file reads the kernel: by its own name or an alias, as `module.kernel`, and as `Class.kernel`."""
    scope = source.scope(kernel)
    if scope is not None:
        of_a_class = isinstance(source.parent(source.parent(kernel) or kernel), cst.ClassDef)
        for one in scope[name]:
            if isinstance(one, Assignment) and one.node is kernel:
                yield from (each.node for each in one.references)
    else:
        of_a_class = False
    for statement in source.all(cst.ImportFrom):
        if isinstance(statement.names, cst.ImportStar):
            yield from (one for one in source.all(cst.Name) if one.value == name and not _is_known(source, one))
            continue
        for alias in statement.names:
            if alias.evaluated_name == name:
                yield from _imported(source.scope(statement), alias.evaluated_alias or name, statement)
    for attribute in source.all(cst.Attribute):
        if attribute.attr.value == name and (of_a_class or _is_of_a_module(source, attribute.value)):
            yield attribute


def _imported(scope: Scope | None, name: str, statement: cst.ImportFrom) -> Iterator[cst.CSTNode]:
    for one in scope[name] if scope is not None else ():
        if isinstance(one, ImportAssignment) and one.node is statement:
            yield from (each.node for each in one.references)


def _is_known(source: SourceFile, node: cst.Name) -> bool:
    """Whether a name is no read of what a file does not assign, such as a parameter's or a keyword's."""
    scope, above = source.scope(node), source.parent(node)
    if isinstance(above, cst.Attribute) or (isinstance(above, cst.Arg) and above.keyword is node):
        return True
    return scope is None or bool(scope[node.value])


def _is_of_a_module(source: SourceFile, node: cst.BaseExpression) -> bool:
    """Whether an expression is a name that was imported, or an attribute of one."""
    while isinstance(node, cst.Attribute):
        node = node.value
    scope = source.scope(node) if isinstance(node, cst.Name) else None
    if scope is None or not isinstance(node, cst.Name):
        return False
    return any(isinstance(one, ImportAssignment) for one in scope[node.value])
