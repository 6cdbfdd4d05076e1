"""Programs of a grid that do nothing: all that they cover lies behind the end, by the kernel's own bounds."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fusetune.capture.expressions import cdiv
from fusetune.capture.tiling import tiling_of
from fusetune.ops.hashing import innermost

LEAST_SHARE: Final = 0.02
"""Of all programs: one that is too many is nothing to be told."""


def idle_programs(kernel: Any, grid: Sequence[int], arguments: Mapping[str, Any]) -> str | None:
    """The sentence that says so; None where each axis is needed, or where the source does not tell.

    It tells of an axis whose number does nothing in the kernel but to be multiplied by one constant, and to be held
    against one argument, where no store is without a mask: programs from cdiv(argument, constant) on find nothing.
    `arguments` has constants, too.
    """
    alone = _axes_alone(kernel)
    tiling = tiling_of(kernel)
    needed, told = list(grid), []
    for name, axes in tiling.axes.items():
        covered = tiling.covers.get(name, frozenset())
        axis = next(iter(axes))
        if len(axes) != 1 or len(covered) != 1 or axis not in alone or axis >= len(grid):
            continue
        if sum(axis in others for one, others in tiling.axes.items() if one in tiling.covers) > 1:
            continue
        (argument,) = covered
        size, tile = arguments.get(argument), arguments.get(name)
        if type(size) is not int or type(tile) is not int or size < 1 or tile < 1:
            continue
        if cdiv(size, tile) < grid[axis]:
            needed[axis] = cdiv(size, tile)
            told.append(f"{grid[axis]} on axis {axis}, where cdiv({argument}, {name}) is {needed[axis]}")
    launched = math.prod(grid)
    idle = launched - math.prod(needed)
    if idle < LEAST_SHARE * launched:
        return None
    return f"of the {launched} programs that it launches {idle} do nothing: {' and '.join(told)}"


def _axes_alone(kernel: Any) -> set[int]:
    """The axes whose program's number is used for one thing alone: to be multiplied."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(innermost(kernel)))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return set()
    if any(_stores_unasked(node) for node in ast.walk(definition)):
        return set()
    numbers = [node for node in ast.walk(definition) if _axis(node) is not None]
    assigned = {}
    for node in ast.walk(definition):
        pairs = _pairs(node)
        assigned.update({name: value for name, value in pairs if any(value is one for one in numbers)})
    read = Counter(
        node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )
    written = Counter(
        node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    factors = [
        side
        for node in ast.walk(definition)
        if _is_product(node)
        for side in (node.left, node.right)  # type: ignore[attr-defined]
    ]
    names = {side.id for side in factors if isinstance(side, ast.Name)}
    used: Counter[int] = Counter()
    fine: Counter[int] = Counter()
    for number in numbers:
        axis = _axis(number)
        assert axis is not None, "as asked"
        used[axis] += 1
        name = next((one for one, value in assigned.items() if value is number), None)
        if name is None:
            fine[axis] += any(number is side for side in factors)
        else:
            fine[axis] += name in names and read[name] == written[name] == 1
    return {axis for axis, count in used.items() if count == fine[axis] == 1}


def _axis(node: ast.AST) -> int | None:
    """The axis of tl.program_id(axis), given as a number; None of anything else."""
    if not isinstance(node, ast.Call) or _called(node) != "program_id":
        return None
    given = [*node.args, *(one.value for one in node.keywords if one.arg == "axis")]
    value = given[0].value if given and isinstance(given[0], ast.Constant) else None
    return value if type(value) is int else None


def _stores_unasked(node: ast.AST) -> bool:
    """Whether a call writes to memory wherever it is."""
    if not isinstance(node, ast.Call) or not (_called(node) == "store" or _called(node).startswith("atomic_")):
        return False
    masks = {one.arg for one in node.keywords} & {"mask", "boundary_check"}
    return not masks and len(node.args) < 3


def _called(node: ast.Call) -> str:
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def _pairs(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """The names that a statement assigns to, each with its own expression."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return []
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Name):
        return [(target.id, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return [(one.id, two) for one, two in zip(target.elts, value.elts, strict=True) if isinstance(one, ast.Name)]
    return []


def _is_product(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
