"""Numbers of a grid's source that are a constant's own number, written again: which constant each of them is."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fusetune.capture.call_sites import CallSite
from fusetune.capture.expressions import NotPureError, cdiv, key_of, rounds_up
from fusetune.capture.tiling import Tiling


class WrittenAgain(NamedTuple):
    """What stands for constants in a grid though it is a number there.

    `nodes` has, by the id of a node of the source, what it is over constants, and `names` the local names on the way to
    these. `unclear` are the constants that a number may be as well as another, and `why` says so.
    """

    nodes: Mapping[int, str] = {}
    names: frozenset[str] = frozenset()
    unclear: frozenset[str] = frozenset()
    why: str = ""


class _Division(NamedTuple):
    """A size of the grid that is divided by a number: on which axis, None where that is not told.

    `size` is `numerator` without what rounds up. `named` is the constant that the caller has a name for, if any.
    """

    axis: int | None
    size: ast.expr
    numerator: ast.expr
    divisor: ast.expr
    number: int
    named: str | None


def written_again(
    site: CallSite, grid: ast.expr, left_open: Mapping[str, str], constants: Mapping[str, Any], tiling: Tiling
) -> WrittenAgain:
    """The numbers in `grid` that are constants' own. `left_open` are the constants that the caller has a name for.

    A constant must multiply the number of a program on the axis that is divided. Where several do, the one is meant
    that cuts up what the caller passes for the size, or the one that is left over. Of a kernel whose source tells
    nothing, a number is the only constant of it that is written as a number.
    """
    walk = _Walk(site, left_open)
    divisions = list(walk.divisions(grid))
    tells = bool(tiling.axes.keys() & constants.keys())
    found = _Found()
    for axis, number in dict.fromkeys((one.axis, one.number) for one in divisions):
        group = [one for one in divisions if (one.axis, one.number) == (axis, number)]
        same = [name for name, value in constants.items() if type(value) is int and value == number]
        literal = [name for name in same if name not in left_open.values()]
        if tells:
            literal = [name for name in literal if name in tiling.axes]
            candidates = [name for name in same if _is_on(name, axis, tiling)]
            meant = _meant(site, group, candidates, tiling)
        else:
            meant = [literal for _ in group]
        for division, names in zip(group, meant, strict=True):
            if division.named is None:
                found.add(division, names, literal)
    return WrittenAgain(found.nodes, walk.names_over(found.nodes), found.unclear(), "; ".join(found.texts))


def divided(text: str, name: str) -> Counter[int]:
    """How often a constant divides in a grid's text, by the axis."""
    tree = ast.parse(text, mode="eval").body
    axes = tree.elts if isinstance(tree, ast.Tuple) else [tree]
    return +Counter({number: sum(_divides(node, name) for node in ast.walk(axis)) for number, axis in enumerate(axes)})


def covers_as_it_did(grids: Sequence[tuple[int, tuple[int, ...]]], sizes: Sequence[int], own: int) -> bool:
    """Whether the programs of a grid follow a tile as the tiles of what it cuts up do, at each of several tiles.

    `grids` has the grid by the tile, that of `own` among them; `sizes` are what each constant of that tile cuts up.
    """
    by_tile = {tile: math.prod(grid) for tile, grid in grids}
    tiles = {tile: math.prod(cdiv(size, tile) for size in sizes) for tile in by_tile}
    return all(by_tile[tile] * tiles[own] == by_tile[own] * tiles[tile] for tile in by_tile)


class _Found:
    """What was made of each division so far."""

    def __init__(self) -> None:
        self.nodes: dict[int, str] = {}
        self.texts: list[str] = []
        self._unclear: set[str] = set()

    def add(self, division: _Division, names: Sequence[str], literal: Sequence[str]) -> None:
        """A division that may be by these; those of `literal` are not known to be free of it otherwise."""
        if len(names) == 1:
            (name,) = names
            if self.nodes.setdefault(id(division.divisor), name) != name:  # One local on two axes.
                names = [name, self.nodes.pop(id(division.divisor))]
            else:
                self.nodes.update(_rounding(division, name))
        if len(names) != 1:
            self._unclear.update(names, literal)
        if len(names) > 1:
            divided = f"{ast.unparse(division.divisor)}, which divides {ast.unparse(division.size)}"
            self.texts.append(f"{divided}, may be {' or '.join(sorted(names))}")

    def unclear(self) -> frozenset[str]:
        return frozenset(self._unclear - set(self.nodes.values()))


class _Walk:
    """The source of a grid with the local names in it followed to what was assigned to them."""

    def __init__(self, site: CallSite, left_open: Mapping[str, str]) -> None:
        self._site = site
        self._left_open = left_open
        self._computed = site.computed(left_open)
        self._made: dict[str, ast.expr] = {}

    def divisions(self, grid: ast.expr) -> Iterator[_Division]:
        axes = enumerate(grid.elts) if isinstance(grid, ast.Tuple | ast.List) else [(None, grid)]
        for axis, node in axes:
            yield from self._divisions(axis, node, set())

    def _divisions(self, axis: int | None, node: ast.expr, seen: set[str]) -> Iterator[_Division]:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id not in seen:
                seen.add(inner.id)
                if (made := self._site.assigned(inner.id)) is not None:
                    self._made[inner.id] = made
                    yield from self._divisions(axis, made, seen)
            parts = _division(inner)
            if parts is None:
                continue
            numerator, divisor = parts
            if isinstance(number := _value(self._site, divisor), int) and number > 1:
                size = _unrounded(numerator, divisor, number) if isinstance(inner, ast.BinOp) else numerator
                yield _Division(axis, size, numerator, divisor, number, self._named(divisor))

    def _named(self, divisor: ast.expr) -> str | None:
        if key_of(divisor) in self._left_open:
            return self._left_open[key_of(divisor)]
        inner = {one.id for one in ast.walk(divisor) if isinstance(one, ast.Name)}
        return "" if inner & self._computed else None

    def names_over(self, nodes: Mapping[int, str]) -> frozenset[str]:
        """The names whose values hold one of these nodes, or a name that does."""
        found: set[str] = set()
        before = -1
        while before != (before := len(found)):
            for name, made in self._made.items():
                inner = list(ast.walk(made))
                if any(id(one) in nodes or (isinstance(one, ast.Name) and one.id in found) for one in inner):
                    found.add(name)
        return frozenset(found)


def _is_on(name: str, axis: int | None, tiling: Tiling) -> bool:
    axes = tiling.axes.get(name, frozenset())
    return bool(axes) if axis is None else axis in axes


def _meant(
    site: CallSite, group: Sequence[_Division], candidates: Sequence[str], tiling: Tiling
) -> list[Sequence[str]]:
    """The constants that each division by one number may be of: first by what it cuts up, then by what is left."""
    found: dict[int, Sequence[str]] = {}
    for index, division in enumerate(group):
        if division.named is not None:
            found[index] = [division.named]
            continue
        meant = [name for name in candidates if _cuts(site, division.size, name, tiling)]
        if len(meant) == 1:
            found[index] = meant
    used = {name for names in found.values() for name in names}
    left = [name for name in candidates if name not in used]
    rest = [index for index in range(len(group)) if index not in found]
    for index in rest:
        found[index] = left if len(rest) == 1 or len(left) > 1 else []
    return [found[index] for index in range(len(group))]


def _cuts(site: CallSite, size: ast.expr, name: str, tiling: Tiling) -> bool:
    """Whether a constant cuts up the argument that the caller passes this size for: the same source, or its value.

    The value alone says nothing where the source is that of another argument.
    """
    key = key_of(size)
    passed = {argument: _followed(site, node) for argument, node in site.arguments.items()}
    covered = tiling.covers.get(name, frozenset())
    by_source = {argument for argument, keys in passed.items() if key in keys}
    if by_source:
        return bool(by_source & covered)
    value = _value(site, size)
    return type(value) is int and any(_value(site, site.arguments[one]) == value for one in covered & passed.keys())


def _followed(site: CallSite, node: ast.expr) -> set[str]:
    """The source of an expression, and where it is a name, of what was assigned to that."""
    keys = {key_of(node)}
    while isinstance(node, ast.Name) and (made := site.assigned(node.id)) is not None and key_of(made) not in keys:
        node = made
        keys.add(key_of(node))
    return keys


def _rounding(division: _Division, name: str) -> dict[int, str]:
    """The nodes that round up by a divisor: in (n + 63) // 64 and (n + 64 - 1) // 64."""
    for node in ast.walk(division.numerator):
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add):
            continue
        for one in (node.right, node.left):
            inner = one.left if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub) else one
            if isinstance(one, ast.Constant) and one.value == division.number - 1:
                return {id(one): f"{name} - 1"}
            if key_of(inner) == key_of(division.divisor):
                return {id(inner): name}
    return {}


def _unrounded(numerator: ast.expr, divisor: ast.expr, number: int) -> ast.expr:
    """`n` of n + 63, of n + 64 - 1 and of -n; anything else as it is."""
    node = numerator
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    less = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is(node.right, 1)
    if less:
        assert isinstance(node, ast.BinOp), "as asked"
        node = node.left
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for size, added in ((node.left, node.right), (node.right, node.left)):
            whole = key_of(added) == key_of(divisor)
            in_parts = isinstance(added, ast.BinOp) and key_of(added.left) == key_of(divisor)
            if (whole and less) or (not less and (in_parts or _is(added, number - 1))):
                return size
    return numerator


def _is(node: ast.expr, number: int) -> bool:
    return isinstance(node, ast.Constant) and node.value == number


def _division(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """What is divided, and by what; of a call, by its second argument."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv | ast.Div):
        return node.left, node.right
    if isinstance(node, ast.Call) and len(node.args) == 2 and rounds_up(_called(node)):
        return node.args[0], node.args[1]
    return None


def _divides(node: ast.AST, name: str) -> bool:
    parts = _division(node)
    return parts is not None and isinstance(parts[1], ast.Name) and parts[1].id == name


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _value(site: CallSite, node: ast.expr) -> Any:
    try:
        return site.value(node)
    except NotPureError:
        return None
