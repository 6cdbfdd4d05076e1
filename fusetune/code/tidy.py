"""A specialized kernel, tidied: each constant declared once, and nothing computed that nobody reads.

A call that is written out in place more than once leaves its constants as often, and Triton lets no function declare
one twice. What a branch that is gone would have read is of no use either, and linters say so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from fusetune.code.source import KernelSource

_ACTS: Final = ("store", "atomic_", "debug_barrier", "device_", "inline_asm", "static_")
"""How the names of Triton's functions begin that do more than to compute a value."""
_METHODS: Final = ("to", "load")
"""Methods that only compute a value."""


def tidied(body: Sequence[ast.stmt], taken: Iterable[str], functions: Mapping[str, KernelSource]) -> list[ast.stmt]:
    """The same statements, without a second declaration of a constant, x = x, or a value that nothing reads.

    `taken` are names that mean something besides those of the statements, `functions` those that these may call.
    Changes the statements in place.
    """
    names = {*taken, *(node.id for node in _nodes(body) if isinstance(node, ast.Name))}
    made = _without_self_assignments(_Declarations(names).block(body, {}, {}))
    pure = {name for name, function in functions.items() if _is_pure_function(function)}
    size = -1
    while size != (size := sum(1 for _ in _nodes(made))):
        made = _without_unread(made, set(_read(made)), pure)
    return made


class _Declarations:
    """Constants that a function declares, `NAME: tl.constexpr = value`, each under a name of its own."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._declared: set[str] = set()

    def block(
        self, statements: Sequence[ast.stmt], visible: Mapping[str, str], renamed: Mapping[str, str]
    ) -> list[ast.stmt]:
        """The statements of a block that sees the constants `visible`, by name; `renamed` are those with new names."""
        visible, renamed = dict(visible), dict(renamed)
        made: list[ast.stmt] = []
        for statement in statements:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                assert statement.value is not None, "a constant has a value"
                statement.value = _Renamed(renamed).visit(statement.value)
                name, value = statement.target.id, ast.dump(statement.value)
                same = renamed.get(name, name)
                if visible.get(same) == value:
                    continue  # The same again.
                renamed[name] = self._own(name)
                visible[renamed[name]] = value
                statement.target.id = renamed[name]
            else:
                inner = {
                    field: self.block(getattr(statement, field), visible, renamed)
                    for field in ("body", "orelse")
                    if getattr(statement, field, None)
                }
                _Renamed(renamed, but=inner).visit(statement)
                for field, block in inner.items():
                    setattr(statement, field, block)
            made.append(statement)
        return made

    def _own(self, name: str) -> str:
        own, number = name, 2
        while own in self._declared or (own != name and own in self._taken):
            own, number = f"{name}_{number}", number + 1
        self._declared.add(own)
        return own


class _Renamed(ast.NodeTransformer):
    """Names by their new names, in a whole statement, or in what is left of it without its blocks."""

    def __init__(self, names: Mapping[str, str], but: Iterable[str] = ()) -> None:
        self._names, self._but = names, set(but)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not self._but:
            return super().generic_visit(node)
        blocks = {field: getattr(node, field) for field in self._but}
        self._but = set()
        for field in blocks:
            setattr(node, field, [])
        node = super().generic_visit(node)
        for field, block in blocks.items():
            setattr(node, field, block)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name."""
        new = self._names.get(node.id, node.id)
        return node if new == node.id else ast.copy_location(ast.Name(new, node.ctx), node)


def _without_self_assignments(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    made: list[ast.stmt] = []
    for statement in body:
        for field in ("body", "orelse"):
            if getattr(statement, field, None):
                setattr(statement, field, _without_self_assignments(getattr(statement, field)))
        if isinstance(statement, ast.Assign):
            pairs = list(_pairs(statement))
            others = [(target, value) for target, value in pairs if ast.unparse(target) != ast.unparse(value)]
            if not others:
                continue
            if len(others) < len(pairs):
                statement.targets, statement.value = [_joined(one for one, _ in others)], _joined(v for _, v in others)
        made.append(statement)
    return made


def _pairs(statement: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is assigned to what, one by one where both sides are written out."""
    target, value = statement.targets[0], statement.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        yield from zip(target.elts, value.elts, strict=True)
    else:
        yield target, value


def _joined(expressions: Iterable[ast.expr]) -> ast.expr:
    every = list(expressions)
    return every[0] if len(every) == 1 else ast.Tuple(every, getattr(every[0], "ctx", ast.Load()))


def _without_unread(body: Sequence[ast.stmt], read: set[str], pure: set[str]) -> list[ast.stmt]:
    """The statements without those that do nothing but give a value to names that are not `read`."""
    made: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            stored = [node for target in targets for node in ast.walk(target) if not isinstance(node, ast.expr_context)]
            unread = all(isinstance(n, ast.Tuple) or (isinstance(n, ast.Name) and n.id not in read) for n in stored)
            if unread and _only_computes(statement.value, pure):
                continue
        if isinstance(statement, ast.If | ast.For | ast.While):
            statement.body = _without_unread(statement.body, read, pure)
            statement.orelse = _without_unread(statement.orelse, read, pure)
            empty = isinstance(statement, ast.If) and not statement.body and not statement.orelse
            if isinstance(statement, ast.If) and empty and _only_computes(statement.test, pure):
                continue
            if not statement.body:
                statement.body = [ast.Pass()]
        made.append(statement)
    return made


def _is_pure_function(function: KernelSource) -> bool:
    """Whether a function of the project does nothing but to compute a value."""
    calls = [node.func for node in _nodes(function.body) if isinstance(node, ast.Call)]
    called = {one.id for one in calls if isinstance(one, ast.Name)}
    inner = {name: function.function(ast.Name(name, ast.Load())) for name in called}
    pure = {name for name, one in inner.items() if one is not None and _is_pure_function(one)}
    return all(_is_pure(node, pure) for node in _nodes(function.body) if isinstance(node, ast.Call))


def _only_computes(value: ast.expr, pure: set[str]) -> bool:
    """Whether an expression does nothing but to compute a value, where the functions `pure` do no more either."""
    return all(_is_pure(node, pure) for node in ast.walk(value) if isinstance(node, ast.Call))


def _is_pure(call: ast.Call, pure: set[str]) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in {"min", "max", "range", *pure}
    if not isinstance(function, ast.Attribute):
        return False
    if isinstance(function.value, ast.Name) and function.value.id == "tl":
        return not function.attr.startswith(_ACTS)
    return function.attr in _METHODS


def _read(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Names whose value is used; one that is changed in place counts."""
    for node in _nodes(body):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _nodes(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for one in body:
        yield from ast.walk(one)
