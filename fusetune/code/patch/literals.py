"""Numbers, words and flags as Python writes them, and arithmetic of them alone."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import libcst as cst

from fusetune.code.patch.source_file import last_name

_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
"""A power is written as such seldom, and may be huge."""
_LONGEST: Final = 60


def literal(node: cst.CSTNode) -> tuple[bool, Any]:
    """Whether an expression is written out, as `64`, `2 * 32` or `"tf32"`, and what it is worth."""
    if isinstance(node, cst.Name) and node.value in {"True", "False", "None"}:
        return True, {"True": True, "False": False, "None": None}[node.value]
    if not isinstance(node, cst.Integer | cst.Float | cst.SimpleString | cst.UnaryOperation | cst.BinaryOperation):
        return False, None
    text = cst.Module([]).code_for_node(node)
    if len(text) > _LONGEST:
        return False, None
    try:
        return True, _worth(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, ArithmeticError, TypeError):
        return False, None


def unwrapped(node: cst.BaseExpression) -> cst.BaseExpression:
    """The one argument of `tl.constexpr(64)` or `int(64)`; any other expression itself."""
    if isinstance(node, cst.Call) and last_name(node.func) in {"constexpr", "int"} and len(node.args) == 1:
        return node.args[0].value
    return node


def worth(node: cst.BaseExpression, names: Mapping[str, Any]) -> int | None:
    """What an expression of numbers and names comes to; None where that is not known."""
    is_written, value = literal(node)
    if is_written:
        return value if type(value) is int else None
    if isinstance(node, cst.Name):
        held = names.get(node.value)
        return held if type(held) is int else None
    if isinstance(node, cst.Call) and last_name(node.func) in {"min", "max", "next_power_of_2"}:
        inner = [found for one in node.args if (found := worth(one.value, names)) is not None]
        if not inner or len(inner) != len(node.args):
            return None
        if last_name(node.func) == "next_power_of_2":
            return 1 << (inner[0] - 1).bit_length() if inner[0] > 0 else None
        return min(inner) if last_name(node.func) == "min" else max(inner)
    return None


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one kind: True is not 1."""
    return type(one) is type(other) and bool(one == other)


def _worth(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_worth(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _worth(node.left), _worth(node.right)
        if type(left) is int and type(right) is int and abs(right) < 1 << 32:
            if isinstance(node.op, ast.LShift | ast.RShift) and right > 32:
                raise ValueError("a shift so far")
            return _OPERATORS[type(node.op)](left, right)
    raise ValueError("it is not written out")
