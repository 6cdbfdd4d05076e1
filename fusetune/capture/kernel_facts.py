"""What a kernel's source does with its constants: which are sizes of blocks, and which loops step by them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple

from fusetune.ops.hashing import innermost

_SHAPES: Final = frozenset(
    {"arange", "zeros", "full", "ones", "make_block_ptr", "make_tensor_descriptor", "reshape", "view", "broadcast_to"}
)
_SHAPE_ARGUMENTS: Final = {"make_block_ptr": 4, "make_tensor_descriptor": 3}
"""Where the shape of the block stands among the arguments of those that also take that of the tensor."""
_LOADS: Final = frozenset({"load", "load_tensor_descriptor", "descriptor_load", "gather", "dot"})
_UNROLLED: Final = frozenset({"static_range"})


class KernelFacts(NamedTuple):
    """What a kernel does with its parameters, by their names, in its own code and in what it calls.

    `steps` has, by a parameter that a loop steps by, the source of what such loops cover, empty where that is not told.
    """

    sizes: frozenset[str]
    steps: Mapping[str, frozenset[str]]
    pipelined: bool


_NOTHING: Final = KernelFacts(frozenset(), {}, pipelined=False)


def facts_of(kernel: Any) -> KernelFacts:
    """Read a `@triton.jit` function, whatever is wrapped around it. Raises OSError where its source is not there."""
    return _facts(innermost(kernel), ())


def _facts(function: Any, callers: tuple[Any, ...]) -> KernelFacts:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    if not isinstance(definition, ast.FunctionDef) or function in callers:
        return _NOTHING
    return _Reader(definition, function, (*callers, function)).facts()


class _Reader:
    """One function: `_made` has the parameters that a local name is computed from, `_counts` the tiles it counts."""

    def __init__(self, definition: ast.FunctionDef, function: Any, callers: tuple[Any, ...]) -> None:
        self._body = definition.body
        self._function = function
        self._callers = callers
        self._made = {one.arg: {one.arg} for one in (*definition.args.args, *definition.args.kwonlyargs)}
        self._counts: dict[str, set[tuple[str, str]]] = {}
        before = None
        while before != (before := self._weight()):
            for name, value in _assignments(definition):
                # What holds a block is no longer a number.
                if not any(_called(one) in _SHAPES | _LOADS for one in ast.walk(value)):
                    self._made.setdefault(name, set()).update(self._parameters(value))
                self._counts.setdefault(name, set()).update(self._counted(value))

    def facts(self) -> KernelFacts:
        sizes: set[str] = set()
        steps: dict[str, set[str]] = {}
        pipelined = False
        for node in (inner for one in self._body for inner in ast.walk(one)):
            if isinstance(node, ast.Call):
                for shape in _shapes_in(node):
                    sizes |= self._parameters(shape)
                if (called := self._jit(node.func)) is not None:
                    facts, given = self._inside(called, node)
                    sizes |= {name for one in facts.sizes for name in given.get(one, ())}
                    pipelined = pipelined or facts.pipelined
                    for one, bounds in facts.steps.items():
                        for name in given.get(one, ()):
                            steps.setdefault(name, set()).update("" for _ in bounds)
            elif isinstance(node, ast.For | ast.While):
                pipelined = pipelined or self._is_pipelined(node)
                for name, bound in self._stepped(node):
                    steps.setdefault(name, set()).add(bound)
        return KernelFacts(frozenset(sizes), {name: frozenset(one) for name, one in steps.items()}, pipelined)

    def _inside(self, called: Any, node: ast.Call) -> tuple[KernelFacts, dict[str, set[str]]]:
        """What a called function does, and the parameters of this one that each of its own is given."""
        function = innermost(called)
        names = list(inspect.signature(function).parameters)
        given = dict(zip(names, node.args, strict=False))
        given |= {one.arg: one.value for one in node.keywords if one.arg is not None}
        return _facts(function, self._callers), {name: self._parameters(one) for name, one in given.items()}

    def _stepped(self, loop: ast.For | ast.While) -> Iterator[tuple[str, str]]:
        """The parameters that a loop steps by, or whose tiles it counts, each with what it covers."""
        if isinstance(loop, ast.While):
            for node in ast.walk(loop):
                if not isinstance(node, ast.AugAssign) or not isinstance(node.op, ast.Add):
                    continue
                if ast.unparse(node.target) in {one.id for one in ast.walk(loop.test) if isinstance(one, ast.Name)}:
                    yield from ((name, "") for name in self._parameters(node.value))
            return
        if not isinstance(loop.iter, ast.Call) or _called(loop.iter) not in {"range", *_UNROLLED}:
            return
        bounds = [one for one in loop.iter.args if not isinstance(one, ast.Starred)]
        if len(bounds) == 3:
            covered = ast.unparse(bounds[1])
            yield from ((name, covered) for name in self._parameters(bounds[2]))
        for bound in bounds:
            yield from self._counted(bound)

    def _counted(self, value: ast.AST) -> set[tuple[str, str]]:
        """The parameters that a value counts tiles of: cdiv(K, TILE), (K + TILE - 1) // TILE, or a name for one."""
        found: set[tuple[str, str]] = set()
        for node in ast.walk(value):
            if isinstance(node, ast.Name):
                found |= self._counts.get(node.id, set())
            elif isinstance(node, ast.Call) and _called(node) == "cdiv" and len(node.args) == 2:
                found |= {(name, ast.unparse(node.args[0])) for name in self._parameters(node.args[1])}
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
                numerator = {one.id for one in ast.walk(node.left) if isinstance(one, ast.Name)}
                names = self._parameters(node.right)
                told = "" if numerator & names else ast.unparse(node.left)
                found |= {(name, told) for name in names}
        return found

    def _is_pipelined(self, loop: ast.For | ast.While) -> bool:
        """Whether loads stand in a loop that the compiler overlaps: none that is unrolled."""
        if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call) and _called(loop.iter) in _UNROLLED:
            return False
        for node in (inner for one in loop.body for inner in ast.walk(one)):
            if isinstance(node, ast.Call):
                if _called(node) in _LOADS - {"dot"}:
                    return True
                if (called := self._jit(node.func)) is not None and _loads(called, self._callers):
                    return True
        return False

    def _parameters(self, value: ast.AST) -> set[str]:
        names = [node.id for node in ast.walk(value) if isinstance(node, ast.Name)]
        return {one for name in names for one in self._made.get(name, ())}

    def _jit(self, node: ast.expr) -> Any:
        return _jit_function(node, self._function)

    def _weight(self) -> tuple[int, int]:
        return sum(map(len, self._made.values())), sum(map(len, self._counts.values()))


def _loads(kernel: Any, callers: tuple[Any, ...]) -> bool:
    """Whether a jit function, or one that it calls, loads anything."""
    function = innermost(kernel)
    if function in callers:
        return False
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Call):
            if _called(node) in _LOADS - {"dot"}:
                return True
            called = _jit_function(node.func, function)
            if called is not None and _loads(called, (*callers, function)):
                return True
    return False


def _jit_function(node: ast.expr, function: Any) -> Any:
    """The jit function of somebody's that a call calls; None for triton's own and for anything else."""
    held: Any = None
    if isinstance(node, ast.Name):
        held = function.__globals__.get(node.id)
        if held is None and function.__closure__:
            held = inspect.getclosurevars(function).nonlocals.get(node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = function.__globals__.get(node.value.id)
        held = getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
    if not hasattr(held, "fn") or not inspect.isfunction(innermost(held)):
        return None
    return None if innermost(held).__module__.startswith("triton.language") else held


def _shapes_in(call: ast.Call) -> list[ast.expr]:
    """The arguments of a call that say how large a block is."""
    name = _called(call)
    if name not in _SHAPES:
        return []
    if name == "full":
        return call.args[:1]
    if name not in _SHAPE_ARGUMENTS:
        return [*call.args, *(one.value for one in call.keywords if one.arg in {"shape", "start", "end"})]
    place = _SHAPE_ARGUMENTS[name]
    return [*call.args[place : place + 1], *(one.value for one in call.keywords if one.arg == "block_shape")]


def _assignments(definition: ast.FunctionDef) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                found.extend((one.id, node.value) for one in ast.walk(target) if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.append((node.target.id, node.value))
    return found


def _called(node: ast.AST) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
