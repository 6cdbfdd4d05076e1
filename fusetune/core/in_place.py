"""What a statement of Python changes in place, as far as its form says so: `TABLE["a"] = 1`, `TABLE.append(2)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""What has names of its own."""


def of_own_scope(statement: ast.stmt) -> Iterator[ast.AST]:
    """The statement and all in it that is in no function or class within."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*SCOPES, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def changed_in_place(statement: ast.stmt) -> Iterator[str]:
    """The names of values that a statement changes in place."""
    for node in of_own_scope(statement):
        target: ast.expr | None = None
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            target = node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            target = node.value.func if isinstance(node.value.func, ast.Attribute) else None
        while isinstance(target, ast.Subscript | ast.Attribute):
            target = target.value
        if isinstance(target, ast.Name):
            yield target.id
