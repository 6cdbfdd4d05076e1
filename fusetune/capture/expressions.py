"""Python expressions about sizes: evaluated where they are pure, with some of their parts left open by name."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple


class NotPureError(Exception):
    """An expression does what cannot be done again safely, or what is not understood."""


class Open(NamedTuple):
    """A part of an expression that follows from a constant whose value is left open."""

    node: ast.expr


_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARED: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def cdiv(size: int, tile: int) -> int:
    """How many tiles cover a size."""
    return -(-size // tile)


def next_power_of_2(size: int) -> int:
    """The least power of two that is not below a size."""
    return 1 << max(size - 1, 0).bit_length()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "cdiv": cdiv,
    "next_power_of_2": next_power_of_2,
    "ceil": math.ceil,
    "floor": math.floor,
    "prod": math.prod,
    "min": min,
    "max": max,
    "len": len,
    "int": int,
    "abs": abs,
    "tuple": tuple,
}
"""What an expression may call, by the names that it has in what is folded."""
_BUILT_IN: Final = {id(one): name for name, one in FUNCTIONS.items() if name not in {"cdiv", "next_power_of_2"}}
_METHODS: Final = frozenset({"numel", "nelement", "size", "stride", "dim", "ndimension", "element_size"})
_SAMPLES: Final = ((1, 1), (7, 2), (64, 64), (65, 64), (1000, 128), (4096, 1024))
_SCALARS: Final = (int, float, bool, str, type(None))


class Folder:
    """Evaluates expressions by names; what stands in `left_open` stays, and so what is computed from it.

    `left_open` has, by `key_of` an expression, source over the constants that it stands for, and `nodes` the same for
    one place of the source, by its id. `value_of` gives the value of a name, or an Open; it raises LookupError where
    there is none.
    """

    def __init__(
        self,
        value_of: Callable[[str], Any],
        left_open: Mapping[str, str] | None = None,
        nodes: Mapping[int, str] | None = None,
    ) -> None:
        self._value_of = value_of
        self._left_open = left_open or {}
        self._nodes = nodes or {}

    def fold(self, node: ast.expr) -> Any:
        """The value of an expression, or an Open; of a tuple, a tuple of these. Raises NotPureError."""
        if self._nodes and (text := self._nodes.get(id(node))) is not None:
            return Open(_parsed(text))
        if self._left_open and (name := self._left_open.get(key_of(node))) is not None:
            return Open(_parsed(name))
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise NotPureError(f"`{ast.unparse(node)}` is no expression of sizes")
        try:
            return method(node)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
            raise NotPureError(f"`{ast.unparse(node)}`: {type(error).__name__}: {error}") from error

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        return self._value_of(node.id)

    def _tuple(self, node: ast.Tuple | ast.List) -> Any:
        found: list[Any] = []
        for element in node.elts:
            if isinstance(element, ast.Starred):
                found.extend(self.fold(element.value))
            else:
                found.append(self.fold(element))
        return tuple(found)

    _list = _tuple

    def _attribute(self, node: ast.Attribute) -> Any:
        return getattr(_known(self.fold(node.value)), node.attr)

    def _subscript(self, node: ast.Subscript) -> Any:
        held = self.fold(node.value)
        if isinstance(node.slice, ast.Slice):
            parts = (node.slice.lower, node.slice.upper, node.slice.step)
            return _known(held)[slice(*(None if one is None else _known(self.fold(one)) for one in parts))]
        if not isinstance(held, tuple | list | dict | str):
            raise NotPureError(f"`{ast.unparse(node)}` reads an element of a {type(held).__name__}")
        return held[_known(self.fold(node.slice))]

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self.fold(node.left), self.fold(node.right)
        if isinstance(left, Open) or isinstance(right, Open):
            return Open(ast.BinOp(_node(left), node.op, _node(right)))
        return _BINARY[type(node.op)](_scalar(left), _scalar(right))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        held = self.fold(node.operand)
        if isinstance(held, Open):
            return Open(ast.UnaryOp(node.op, held.node))
        return _UNARY[type(node.op)](_scalar(held))

    def _compare(self, node: ast.Compare) -> Any:
        values = [self.fold(one) for one in (node.left, *node.comparators)]
        if any(isinstance(one, Open) for one in values):
            return Open(ast.Compare(_node(values[0]), node.ops, [_node(one) for one in values[1:]]))
        pairs = zip(node.ops, values, values[1:], strict=False)
        return all(_COMPARED[type(one)](_scalar(left), _scalar(right)) for one, left, right in pairs)

    def _ifexp(self, node: ast.IfExp) -> Any:
        test = self.fold(node.test)
        if not isinstance(test, Open):
            return self.fold(node.body if test else node.orelse)
        return Open(ast.IfExp(test.node, _node(self.fold(node.body)), _node(self.fold(node.orelse))))

    def _call(self, node: ast.Call) -> Any:
        if node.keywords or any(isinstance(one, ast.Starred) for one in node.args):
            raise NotPureError(f"`{ast.unparse(node)}` is no call that is known to be pure")
        values = [self.fold(one) for one in node.args]
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            held = _known(self.fold(node.func.value))
            return getattr(held, node.func.attr)(*map(_known, values))
        name = self._function(node.func)
        if any(isinstance(one, Open) for one in values):
            return Open(ast.Call(ast.Name(name, ast.Load()), [_node(one) for one in values], []))
        if len(values) == 1 and isinstance(values[0], tuple) and any(isinstance(one, Open) for one in values[0]):
            if name == "len":
                return len(values[0])
            return values[0] if name == "tuple" else Open(ast.Call(ast.Name(name, ast.Load()), [_node(values[0])], []))
        return FUNCTIONS[name](*values)

    def _function(self, node: ast.expr) -> str:
        """The name in FUNCTIONS of what a call calls. Raises NotPureError for anything else."""
        if isinstance(node, ast.Name):
            try:
                held = self._value_of(node.id)
            except LookupError:
                if node.id in FUNCTIONS:
                    return node.id
                raise
        else:
            held = _known(self.fold(node))
        if (name := _BUILT_IN.get(id(held))) is not None:
            return name
        called = str(getattr(held, "__name__", ""))
        ours = "next_power_of_2" if "power" in called.lower() else "cdiv"
        if callable(held) and rounds_up(called) and _agree(held, FUNCTIONS[ours], 1 if "power" in ours else 2):
            return ours
        raise NotPureError(f"`{ast.unparse(node)}` is no function that is known to be pure")


def rounds_up(name: str) -> bool:
    """Whether a function's name says that it rounds up: triton's own, or one that a program has written for itself."""
    name = name.lower().replace("_", "")
    return name in {"cdiv", "ceildiv", "divup", "divceil", "nextpowerof2", "nextpow2", "nextpoweroftwo"}


def _agree(held: Callable[..., Any], ours: Callable[..., Any], count: int) -> bool:
    try:
        return all(held(*one[:count]) == ours(*one[:count]) for one in _SAMPLES)
    except Exception:  # noqa: BLE001 - somebody's function
        return False


def key_of(node: ast.expr) -> str:
    """What two expressions share that read the same, wherever they stand."""
    return ast.unparse(node)


def text_of(value: Any) -> str:
    """A folded value as source: numbers, tuples, and the names of constants left open. Raises NotPureError."""
    return ast.unparse(ast.fix_missing_locations(_node(value)))


def evaluated(text: str, constants: Mapping[str, Any]) -> Any:
    """The value of what `text_of` wrote, with the constants that it names. Raises NotPureError."""
    return Folder(constants.__getitem__).fold(_parsed(text))


def names_in(text: str) -> frozenset[str]:
    """The constants that what `text_of` wrote is computed from."""
    tree = ast.parse(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)


def _parsed(text: str) -> ast.expr:
    (statement,) = ast.parse(text).body
    assert isinstance(statement, ast.Expr), "an expression"
    return statement.value


def _known(value: Any) -> Any:
    if isinstance(value, Open):
        raise NotPureError(f"`{ast.unparse(value.node)}` would have to be known")
    return value


def _scalar(value: Any) -> Any:
    """A value that an operator is applied to: no tensor, whose operators launch kernels."""
    if not isinstance(value, (*_SCALARS, tuple, list)):
        raise NotPureError(f"a {type(value).__name__} is no number")
    return value


def _node(value: Any) -> ast.expr:
    if isinstance(value, Open):
        return value.node
    if isinstance(value, tuple | list):
        return ast.Tuple([_node(one) for one in value], ast.Load())
    if not isinstance(value, _SCALARS):
        raise NotPureError(f"a {type(value).__name__} is no number")
    return ast.Constant(value)
