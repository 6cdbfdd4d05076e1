"""Which part of the work each constant of a kernel cuts into tiles: by its programs' numbers, in its own source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from fusetune.ops.hashing import innermost

_DATA: Final = frozenset({"load", "dot", "gather", "atomic_add", "atomic_cas"})
"""Calls whose result says nothing about where a program works."""


class Tiling(NamedTuple):
    """By each constant: the axes of the grid whose program's number it multiplies, and the arguments it cuts up.

    An argument is one that what the constant takes part in is held against, as in `pid * TILE + ... < n`. `factors` has
    what each is multiplied by, as it is written: constants of one factor are tiles of the same.
    """

    axes: Mapping[str, frozenset[int]]
    covers: Mapping[str, frozenset[str]]
    factors: Mapping[str, frozenset[str]] = {}


def tiling_of(kernel: Any) -> Tiling:
    """Read a `@triton.jit` function, whatever is wrapped around it; empty where its source is not there."""
    try:
        function = innermost(kernel)
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return Tiling({}, {})
    if not isinstance(definition, ast.FunctionDef):
        return Tiling({}, {})
    return _Reader(definition).tiling()


class _Reader:
    """One function: of each local name, the axes that it is computed from and the constants that place it."""

    def __init__(self, definition: ast.FunctionDef) -> None:
        self._body = definition
        arguments = definition.args
        self._parameters = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        self._axes: dict[str, set[int]] = {}
        self._placed: dict[str, set[str]] = {}
        assigned = list(_assigned(definition))
        before = None
        while before != (before := self._weight()):
            for name, value in assigned:
                self._axes.setdefault(name, set()).update(self._axes_in(value))
                self._placed.setdefault(name, set()).update(self._placed_by(value))

    def tiling(self) -> Tiling:
        axes: dict[str, set[int]] = {}
        covers: dict[str, set[str]] = {}
        factors: dict[str, set[str]] = {}
        for node in ast.walk(self._body):
            for constant, numbers, factor in self._products(node):
                axes.setdefault(constant, set()).update(numbers)
                factors.setdefault(constant, set()).add(factor)
            for constant, argument in self._covered(node):
                covers.setdefault(constant, set()).add(argument)
        return Tiling(_frozen(axes), _frozen(covers), _frozen(factors))

    def _axes_in(self, value: ast.AST) -> set[int]:
        """The axes whose program's number some value follows."""
        found: set[int] = set()
        for node in _numbers_in(value):
            if isinstance(node, ast.Call) and _called(node) == "program_id":
                given = [*node.args, *(one.value for one in node.keywords)]
                if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, int):
                    found.add(given[0].value)
            elif isinstance(node, ast.Name):
                found |= self._axes.get(node.id, set())
        return found

    def _products(self, node: ast.AST) -> Iterator[tuple[str, set[int], str]]:
        """The constants that a program's number is multiplied by, each with the axes of that and its source."""
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            return
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if isinstance(one, ast.Name) and one.id in self._parameters and (axes := self._axes_in(other)):
                yield one.id, axes, ast.unparse(other)

    def _placed_by(self, value: ast.AST) -> set[str]:
        """The constants that a value is a multiple of a program's number by."""
        found: set[str] = set()
        for node in _numbers_in(value):
            found.update(constant for constant, _, _ in self._products(node))
            if isinstance(node, ast.Name):
                found |= self._placed.get(node.id, set())
        return found

    def _covered(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        """A constant and the argument that it cuts up: by a bound, by a count of tiles, or by a block's place."""
        if isinstance(node, ast.Compare) and len(node.comparators) == 1 and isinstance(node.ops[0], ast.Lt):
            yield from self._pair(node.left, node.comparators[0])
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            yield from self._pair(node.left, node.right)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
            yield from self._count(node.left, node.right)
        elif isinstance(node, ast.Call) and _called(node) == "cdiv" and len(node.args) == 2:
            yield from self._count(*node.args)
        elif isinstance(node, ast.Call) and _called(node) == "make_block_ptr":
            given = dict(zip(("base", "shape", "strides", "offsets"), node.args, strict=False))
            given |= {one.arg: one.value for one in node.keywords if one.arg is not None}
            shape, offsets = given.get("shape"), given.get("offsets")
            if isinstance(shape, ast.Tuple | ast.List) and isinstance(offsets, ast.Tuple | ast.List):
                for size, offset in zip(shape.elts, offsets.elts, strict=False):
                    yield from self._pair(offset, size)

    def _pair(self, place: ast.expr, bound: ast.expr) -> Iterator[tuple[str, str]]:
        constants = self._placed_by(place)
        if len(constants) == 1 and isinstance(bound, ast.Name) and bound.id in self._parameters:
            yield constants.pop(), bound.id

    def _count(self, size: ast.expr, tile: ast.expr) -> Iterator[tuple[str, str]]:
        """Of cdiv(n, TILE) and (n + TILE - 1) // TILE."""
        if not isinstance(tile, ast.Name) or tile.id not in self._parameters:
            return
        names = {one.id for one in ast.walk(size) if isinstance(one, ast.Name)} - {tile.id}
        if len(names) == 1 and names <= self._parameters:
            yield tile.id, names.pop()

    def _weight(self) -> tuple[int, int]:
        return sum(map(len, self._axes.values())), sum(map(len, self._placed.values()))


def _numbers_in(value: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression, but for what is read from memory."""
    if isinstance(value, ast.Call) and _called(value) in _DATA:
        return
    yield value
    for child in ast.iter_child_nodes(value):
        yield from _numbers_in(child)


def _assigned(definition: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _paired(target, node.value)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign) and node.value is not None:
            yield from _paired(node.target, node.value)


def _paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List):
        apart = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        for index, one in enumerate(target.elts):
            yield from _paired(one, value.elts[index] if apart else value)  # type: ignore[attr-defined]


def _called(node: ast.Call) -> str:
    called = node.func
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _frozen(found: Mapping[str, set[Any]]) -> dict[str, frozenset[Any]]:
    return {name: frozenset(some) for name, some in found.items()}
