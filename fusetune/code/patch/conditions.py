"""A value that the source computes, written for the sizes that were measured: `32 if C == 16 else min(C, 64)`."""

from __future__ import annotations

from typing import Any, Final

import libcst as cst

from fusetune.code.patch.change import Launched
from fusetune.code.patch.literals import COMPUTING, same, worth
from fusetune.code.patch.source_file import SourceFile, last_name

_MOST_NAMES: Final = 3
"""A condition on more says nothing to whoever reads it."""


def condition(source: SourceFile, node: cst.BaseExpression, launch: Launched, before: Any) -> str | None:
    """`C == 16`, under which an expression is worth `before`; None where that is not sure.

    It is where the expression is arithmetic of numbers that the launching function has under names, each assigned
    once.
    """
    names = _names(source, node, launch)
    if names is None or not same(worth(node, launch.names), before):
        return None
    return " and ".join(f"{name} == {launch.names[name]}" for name in names)


def branch(source: SourceFile, node: cst.IfExp, launch: Launched) -> cst.BaseExpression | None:
    """The side of `32 if C == 16 else ...` that the launch took; None where that is not sure."""
    if _names(source, node.test, launch) is None:
        return None
    found = [_holds(one, launch) for one in _parts(node.test)]
    if None in found:
        return None
    return node.body if all(found) else node.orelse


def _parts(test: cst.BaseExpression) -> list[cst.BaseExpression]:
    """What `and` joins."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return [*_parts(test.left), *_parts(test.right)]
    return [test]


def _holds(test: cst.BaseExpression, launch: Launched) -> bool | None:
    """Whether `C == 16` holds; None of another kind of test."""
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return None
    (target,) = test.comparisons
    both = [worth(one, launch.names) for one in (test.left, target.comparator)]
    if not isinstance(target.operator, cst.Equal) or None in both:
        return None
    return both[0] == both[1]


def _names(source: SourceFile, node: cst.BaseExpression, launch: Launched) -> list[str] | None:
    """The names that an expression reads, each with a number at the launch and never another; else None."""
    if not _is_beside(source, node, launch):
        return None
    called = {id(one) for call in source.all(cst.Call, node) for one in source.all(cst.Name, call.func)}
    if any(last_name(call.func) not in COMPUTING for call in source.all(cst.Call, node)):
        return None
    read = [one for one in source.all(cst.Name, node) if id(one) not in called]
    names = list(dict.fromkeys(one.value for one in read))
    if not 0 < len(names) <= _MOST_NAMES or any(type(launch.names.get(name)) is not int for name in names):
        return None
    scopes = [source.scope(one) for one in read]
    if any(scope is None or len(scope[one.value]) != 1 for scope, one in zip(scopes, read, strict=True)):
        return None
    return names


def _is_beside(source: SourceFile, node: cst.CSTNode, launch: Launched) -> bool:
    """Whether an expression stands in the function that launches, whose names are known."""
    if source.file != launch.file:
        return False
    function = next((one for one in source.above(node) if isinstance(one, cst.FunctionDef)), None)
    if function is None or not source.inside(node, function.body):  # A default is computed outside.
        return False
    inner = [one for one in source.all(cst.FunctionDef, function) if one is not function]
    lines = [(source.line(one), source.line_at(source.end(one) - 1)) for one in (function, *inner)]
    return lines[0][0] <= launch.line <= lines[0][1] and not any(low <= launch.line <= high for low, high in lines[1:])
