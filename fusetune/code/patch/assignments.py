"""What a name stands for where it is read: the assignment that it has its value from, and who else reads that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import libcst as cst
from libcst.metadata import Assignment, BaseAssignment

from fusetune.code.patch.edits import NotWritableError
from fusetune.code.patch.source_file import SourceFile, last_name


class Asked(NamedTuple):
    """An attribute that is asked of a value, such as a Config's `kwargs`; a key is asked as itself."""

    attribute: str


Keys = tuple[Any, ...]


class Named(NamedTuple):
    """A name that a value comes through, where it is read in its file, and the keys that are asked of it."""

    source: SourceFile
    name: str
    read: tuple[cst.CSTNode, ...]
    keys: Keys = ()


def named(source: SourceFile, assignment: BaseAssignment, keys: Keys = ()) -> Named:
    """An assignment as a name that a value comes through.

    What `name := value` stands in reads the value there, and so does `other` in `name = other = value`.
    """
    read: list[cst.CSTNode] = [one.node for one in assignment.references if _may_read(source, one.node, assignment)]
    above = source.parent(assignment.node) if isinstance(assignment, Assignment) else None
    if isinstance(above, cst.NamedExpr):
        read.append(above)
    read += also_assigned(source, above)
    return Named(source, assignment.name, tuple(sorted(read, key=source.start)), keys)


def also_assigned(source: SourceFile, target: cst.CSTNode | None) -> list[cst.CSTNode]:
    """What else a statement assigns the value of one of its targets to."""
    statement = source.parent(target) if isinstance(target, cst.AssignTarget) else None
    others = statement.targets if isinstance(statement, cst.Assign) else ()
    return [one.target for one in others if one is not target]


def assignment_of(source: SourceFile, node: cst.Name) -> BaseAssignment:
    """The one assignment that a name can have its value from. Raises NotWritableError where there is none, or more."""
    scope = source.scope(node)
    found = sorted(scope[node.value], key=lambda one: _line_of(source, one)) if scope is not None else []
    last = found[0] if len(found) == 1 else _last_before(source, node, found)
    if last is None:
        lines = ", ".join(str(_line_of(source, one)) for one in found)
        where = f"is assigned at several lines: {lines}" if found else "is assigned nowhere in the file"
        raise source.refused(node, f"{node.value} {where}")
    return last


def _may_read(source: SourceFile, node: cst.CSTNode, assignment: BaseAssignment) -> bool:
    """Whether a name may have its value from an assignment: not where another one always comes between."""
    if not isinstance(node, cst.Name):
        return True
    try:
        return assignment_of(source, node) is assignment
    except NotWritableError:
        return True


def _last_before(source: SourceFile, node: cst.Name, found: Sequence[BaseAssignment]) -> BaseAssignment | None:
    """Of several assignments the one that is always the last before a name is read; None where that depends."""
    placed = [(_statement(source, one), one) for one in found]
    if any(statement is None for statement, _ in placed):
        return None
    earlier = [(at, one) for at, one in placed if at is not None and source.end(at) <= source.start(node)]
    for statement, one in reversed(earlier):
        block = source.parent(statement)
        if isinstance(statement, cst.Param) or (block is not None and source.inside(node, block)):
            return one if not _again_in_loop(source, node, statement, placed) else None
        if _excludes(source, statement, node):
            continue
        return one if _is_default(source, statement, node, [at for at, _ in earlier]) else None
    return None


def _statement(source: SourceFile, assignment: BaseAssignment) -> cst.CSTNode | None:
    """The line of an assignment, or the parameter."""
    node = assignment.node if isinstance(assignment, Assignment) else None
    if node is None or isinstance(node, cst.Param):
        return node
    return next((one for one in source.above(node) if isinstance(one, cst.SimpleStatementLine)), None)


def _again_in_loop(
    source: SourceFile,
    node: cst.CSTNode,
    statement: cst.CSTNode,
    placed: Sequence[tuple[cst.CSTNode | None, BaseAssignment]],
) -> bool:
    """Whether a loop around a reading may assign behind it, and not before."""
    loops = [one for one in source.above(node) if isinstance(one, cst.For | cst.While)]
    return any(
        at is not None and source.inside(at, loop) and not source.inside(statement, loop)
        for loop in loops
        for at, _ in placed
    )


def _excludes(source: SourceFile, statement: cst.CSTNode, node: cst.CSTNode) -> bool:
    """Whether an assignment stands in another branch of an `if` than a reading, so that only one of them happens."""
    for above in source.above(statement):
        if isinstance(above, cst.If) and source.inside(node, above):
            return source.inside(statement, above.body) != source.inside(node, above.body)
    return False


def _is_default(source: SourceFile, statement: cst.CSTNode, node: cst.Name, earlier: Sequence[cst.CSTNode]) -> bool:
    """Whether an assignment stands under `if x is None:`, and x is a parameter that is None unless a call says more."""
    block = source.parent(statement)
    branch = source.parent(block) if block is not None else None
    if len(earlier) != 2 or not isinstance(earlier[0], cst.Param) or not isinstance(branch, cst.If):
        return False
    if " ".join(source.text(branch.test).split()) != f"{node.value} is None" or branch.orelse is not None:
        return False
    default, function = earlier[0].default, next(source.above(source.parent(earlier[0]) or earlier[0]), None)
    if not isinstance(default, cst.Name) or default.value != "None" or not isinstance(function, cst.FunctionDef):
        return False
    return all(passed(call, function, node.value) is None for call in calls_of(source, function))


def _line_of(source: SourceFile, assignment: BaseAssignment) -> int:
    node = getattr(assignment, "node", None)
    return source.line(node) if isinstance(node, cst.CSTNode) else 0


def value_assigned(source: SourceFile, target: cst.CSTNode) -> cst.BaseExpression | None:
    """The expression that is assigned to a name where it stands; None where it is not one by itself."""
    above = source.parent(target)
    if isinstance(above, cst.AssignTarget):
        statement = source.parent(above)
        return statement.value if isinstance(statement, cst.Assign) else None
    if isinstance(above, cst.AnnAssign) and above.target is target:
        return above.value
    if isinstance(above, cst.NamedExpr):
        return above.value
    if isinstance(above, cst.Element):
        return _paired(source, above)
    return None


def _paired(source: SourceFile, element: cst.Element) -> cst.BaseExpression | None:
    """What `b` is given in `a, b = 1, 2`."""
    outer = source.parent(element)
    target = source.parent(outer) if outer is not None else None
    statement = source.parent(target) if isinstance(target, cst.AssignTarget) else None
    if not isinstance(outer, cst.Tuple | cst.List) or not isinstance(statement, cst.Assign):
        return None
    if len(statement.targets) > 1:
        return None
    values = statement.value
    if isinstance(values, cst.Tuple | cst.List) and len(values.elements) == len(outer.elements):
        return values.elements[list(outer.elements).index(element)].value
    return None


def calls_of(source: SourceFile, function: cst.FunctionDef) -> Iterator[cst.Call]:
    """The calls of a function in its file, by its name alone."""
    for call in source.all(cst.Call):
        if last_name(call.func) == function.name.value:
            yield call


def passed(call: cst.Call, function: cst.FunctionDef, name: str) -> cst.BaseExpression | None:
    """What a call gives a parameter; None where it leaves it out."""
    names = [one.name.value for one in (*function.params.posonly_params, *function.params.params)]
    if names[:1] == ["self"] and isinstance(call.func, cst.Attribute):
        names = names[1:]
    for number, one in enumerate(call.args):
        if one.star:
            if one.star == "*" and name in names[number:]:
                return one.value
            continue
        if (one.keyword is not None and one.keyword.value == name) or (
            one.keyword is None and number < len(names) and names[number] == name
        ):
            return one.value
    return None
