"""A grid that has a tile's number written into it: it has to change with the tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst
from libcst.metadata import Assignment, FunctionScope

from fusetune.code.patch.assignments import value_assigned
from fusetune.code.patch.calls import grid_of
from fusetune.code.patch.change import Change
from fusetune.code.patch.edits import Edit
from fusetune.code.patch.literals import literal, same
from fusetune.code.patch.places import Place
from fusetune.code.patch.source_file import SourceFile, last_name, shown

_DIVISIONS = frozenset({"cdiv", "ceil_div", "ceildiv", "div_up", "div_ceil"})


def follow_by_hand(source: SourceFile, call: cst.Call, name: str, place: Place, change: Change) -> list[Edit]:
    """The edits of a grid that has the number of a constant written out; none where it reads the constant itself.

    Raises NotWritableError where the grid follows in a way that is not understood.
    """
    grid = grid_of(call) or call
    parts = list(_parts(source, grid))
    names = {one.name for one in place.through}
    if any(_reads(part, name, names, source) for part in parts):
        return []
    before, value = place.value, change.wanted[name]
    found = [numbers for part in parts for numbers in _divided(source, part, before)]
    others = [
        other
        for other in change.launch.follows
        if other != name and same(change.before.get(other), before) and not same(change.wanted.get(other), value)
    ]
    if not found or others:
        why = f"cannot be told from {others[0]}'s" if others else "is computed elsewhere"
        raise source.refused(call, f"the grid follows {name}, whose number {why}: `{shown(source.text(grid))}`")
    return _replaced(source, found, name, before, value)


def written_numbers(source: SourceFile, call: cst.Call, name: str, place: Place, value: int) -> list[Edit]:
    """The edits of all divisions of a grid by a constant's number, whether that is what is meant by it or not.

    None where the grid reads the constant itself.
    """
    parts = list(_parts(source, grid_of(call) or call))
    names = {one.name for one in place.through}
    if any(_reads(part, name, names, source) for part in parts):
        return []
    found = [numbers for part in parts for numbers in _divided(source, part, place.value)]
    return _replaced(source, found, name, place.value, value)


def _replaced(
    source: SourceFile, found: Sequence[Sequence[tuple[cst.CSTNode, int]]], name: str, before: int, value: int
) -> list[Edit]:
    what = f"the grid's {name} {before} -> {value}"
    return [source.replaced(node, repr(value - before + number), what) for numbers in found for node, number in numbers]


def reads_constant(source: SourceFile, call: cst.Call, name: str) -> bool:
    """Whether a launch's grid reads a constant from what it is called with, as `meta["BLOCK"]` does."""
    return any(_reads(part, name, set(), source) for part in _parts(source, grid_of(call) or call))


def _parts(source: SourceFile, grid: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The grid's expression, and those that local names in it were assigned."""
    waiting, seen = [grid], {id(grid)}
    while waiting:
        part = waiting.pop(0)
        yield part
        for node in source.all(cst.Name, part):
            scope = source.scope(node)
            for one in scope[node.value] if scope is not None else ():
                if not isinstance(one, Assignment) or not isinstance(one.scope, FunctionScope):
                    continue
                made = one.node if isinstance(one.node, cst.FunctionDef) else value_assigned(source, one.node)
                if made is not None and id(made) not in seen:
                    seen.add(id(made))
                    waiting.append(made)


def _reads(part: cst.CSTNode, name: str, names: set[str], source: SourceFile) -> bool:
    """Whether an expression reads a constant, from what it is called with or by a name that stands for it."""
    if any(literal(node) == (True, name) for node in source.all(cst.SimpleString, part)):
        return True
    if any(node.attr.value in names for node in source.all(cst.Attribute, part)):
        return True
    return any(node.value in names for node in source.all(cst.Name, part))


def _divided(source: SourceFile, part: cst.CSTNode, before: int) -> Iterator[list[tuple[cst.CSTNode, int]]]:
    """The numbers of `cdiv(n, 64)` and `(n + 63) // 64`: each with what it is worth."""
    for call in source.all(cst.Call, part):
        if last_name(call.func) in _DIVISIONS and len(call.args) == 2 and literal(call.args[1].value) == (True, before):
            yield [(call.args[1].value, before)]
    for node in source.all(cst.BinaryOperation, part):
        if not isinstance(node.operator, cst.FloorDivide) or literal(node.right) != (True, before):
            continue
        numbers: list[tuple[cst.CSTNode, int]] = [(node.right, before)]
        for one in _added(node.left):
            is_written, number = literal(one)
            if is_written and number in {before, before - 1} and number > 1:
                numbers.append((one, number))
        yield numbers


def _added(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """What a sum is made of: the 64 in `n * 64 + 63` is a size, and none of the tile's."""
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Add | cst.Subtract):
        yield from _added(node.left)
        yield from _added(node.right)
    else:
        yield node
