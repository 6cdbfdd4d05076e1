"""Numbers, words and flags as Python writes them, and arithmetic of them alone."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import libcst as cst

from fusetune.code.patch.source_file import last_name


def next_power_of_2(value: int) -> int:
    """The least power of two that a positive number does not exceed; raises ValueError for any other."""
    if value < 1:
        raise ValueError(f"{value} has no next power of two")
    return 1 << (value - 1).bit_length()


_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
"""A power is written as such seldom, and may be huge."""
COMPUTING: Final[Mapping[str, Callable[..., int]]] = {
    "min": min,
    "max": max,
    "next_power_of_2": next_power_of_2,
    "cdiv": lambda count, size: -(-count // size),
}
"""Calls that are known by their names alone, as launches use them."""
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
    """What an expression of numbers and names comes to, with the calls of COMPUTING; None where that is not known."""
    text = cst.Module([]).code_for_node(node)
    try:
        value = _worth(ast.parse(f"({text})", mode="eval").body, names)
    except (ValueError, SyntaxError, ArithmeticError, TypeError):
        return None
    return value if type(value) is int else None


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one kind: True is not 1."""
    return type(one) is type(other) and bool(one == other)


def _worth(node: ast.expr, names: Mapping[str, Any] = MappingProxyType({})) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and type(names.get(node.id)) is int:
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_worth(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _worth(node.left, names), _worth(node.right, names)
        if type(left) is int and type(right) is int and abs(right) < 1 << 32:
            if isinstance(node.op, ast.LShift | ast.RShift) and right > 32:
                raise ValueError("a shift so far")
            return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Call) and not node.keywords:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in COMPUTING:
            return COMPUTING[called](*(_worth(one, names) for one in node.args))
    raise ValueError("it is not written out")
