"""Which statements of a file a function of it needs: its own, and those of every name that these use.

So a kernel of a script can be had without running the script.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from fusetune.core.in_place import SCOPES, changed_in_place, of_own_scope


def needed(tree: ast.Module, names: Collection[str]) -> ast.Module:
    """The file with nothing but what these names need, in its own order and with its own line numbers.

    A statement is taken whole: an `if` or a `try` of which a part binds a name. What changes a plain value at the top
    of the file, as `TABLE["a"] = 1` or `TABLE.append(2)`, belongs to that value.
    """
    binds = [frozenset(_bound(one)) for one in tree.body]
    plain = {name for one in tree.body for name in _assigned(one)}
    changes = [frozenset(changed_in_place(one)) & plain for one in tree.body]
    chosen = {number for number, one in enumerate(tree.body) if _always(one)}
    wanted, seen = set(names), set[str]()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        for number, statement in enumerate(tree.body):
            if number not in chosen and (name in binds[number] or name in changes[number]):
                chosen.add(number)
                wanted |= _used(statement) - seen
    return ast.Module(body=[tree.body[number] for number in sorted(chosen)], type_ignores=[])


def _always(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "__future__" or any(one.name == "*" for one in statement.names)
    return False


def _used(node: ast.AST) -> set[str]:
    """The names that something uses of what is around it: a parameter or a variable of a function is its own."""
    if isinstance(node, ast.Name):
        return {node.id}
    used = set[str]().union(*map(_used, ast.iter_child_nodes(node)))
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return used
    body = node.body if isinstance(node.body, list) else [node.body]
    around = [one for one in ast.iter_child_nodes(node) if one not in body]  # as decorators and defaults
    inner = set[str]().union(*map(_used, body)) - _own(node.args, body)
    return inner.union(*map(_used, around))


def _own(arguments: ast.arguments, body: Collection[ast.AST]) -> set[str]:
    """The parameters and variables of a function; what only a comprehension binds is not counted."""
    several = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    own, around = {one.arg for one in several if one is not None}, set[str]()
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Global):
            around |= set(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        if not isinstance(node, (*SCOPES, ast.Lambda, ast.comprehension)):
            waiting += ast.iter_child_nodes(node)
    return own - around


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds in the scope that it stands in."""
    if isinstance(statement, SCOPES):
        yield statement.name
        return
    if isinstance(statement, ast.Import):
        yield from (one.asname or one.name.partition(".")[0] for one in statement.names)
        return
    if isinstance(statement, ast.ImportFrom):
        yield from (one.asname or one.name for one in statement.names)
        return
    for node in of_own_scope(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif node is not statement and isinstance(node, (*SCOPES, ast.Import, ast.ImportFrom)):
            yield from _bound(node)


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement gives values to, which are no function, class or module by that."""
    for node in of_own_scope(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
