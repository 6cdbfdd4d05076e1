"""The place in a program that launched a kernel: how its source computes the grid, and what it passes for constants."""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType
from typing import Any, NamedTuple

from fusetune.capture.expressions import FUNCTIONS, Folder, NotPureError, Open, key_of
from fusetune.capture.launches import not_the_program_s
from fusetune.ops.hashing import innermost

_ALLOCATES = frozenset(
    (
        *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "empty_strided", "arange"),
        *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
        *("view", "reshape", "expand", "pad", "resize_"),
    )
)
"""Calls that make a tensor of the shape that they are given."""
_ARITHMETIC = FUNCTIONS.keys() | {"ceil_div", "ceildiv", "div_up", "div_ceil", "dict", "list", "numel", "size"}
LAUNCHERS = frozenset({"run", "<lambda>", "__call__"})
"""What functions are called that launch a kernel for a program, which is the `self` of them."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Buffer(NamedTuple):
    """A tensor that a program makes, sized by a constant of a kernel: its line, and the source that makes it."""

    line: int
    text: str


class Names(dict[str, Any]):
    """What names meant at a launch; `read` are those that were asked for."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__(names)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's."""
        self.read.add(name)
        return super().get(name, default)


class CallSite:
    """One launch in a program's source, with what the names there meant when it was made.

    `arguments` has the expression that the caller gives for each argument, `passed` those of the kernel's constants,
    and `grid` is the grid's.
    """

    def __init__(
        self, call: ast.Call, scope: ast.AST, frame: FrameType, kernel: Any, constants: Mapping[str, Any]
    ) -> None:
        self.line, self.column = call.lineno, call.col_offset
        self.file = frame.f_code.co_filename
        self._scope = scope
        self.names = Names({**frame.f_globals, **dict(frame.f_locals)})
        self.grid = _grid_of(call)
        self.arguments = self._passed(call, kernel)
        self._switches = frozenset(name for name, value in constants.items() if isinstance(value, bool))
        self.passed = {name: one for name, one in self.arguments.items() if name in constants}

    def value(self, node: ast.expr) -> Any:
        """What an expression is worth there. Raises NotPureError."""
        return Folder(self.names.__getitem__).fold(node)

    def names_read(self) -> dict[str, Any]:
        """What the names were worth that the launching function reads."""
        read = {one.id for one in ast.walk(self._scope) if isinstance(one, ast.Name)}
        return {name: self.names[name] for name in sorted(read) if name in self.names}

    def assigned(self, name: str) -> ast.expr | None:
        """The expression last assigned to a name before the launch that gives the value that it had, if any."""
        for node, value in reversed(self._assignments()):
            if node == name and value is not None:
                try:
                    if _same(self.value(value), self.names.get(name)):
                        return value
                except NotPureError:
                    if isinstance(value, ast.Lambda):
                        return value
        return None

    def left_open(self) -> dict[str, str]:
        """By the source of what is passed for a constant, and of what that was copied from, the constant's name.

        A number written at the launch itself is none: nothing tells it from the same number elsewhere. Two constants
        that are given the same expression share it, and it stands for the first.
        """
        found: dict[str, str] = {}
        for name, node in self.passed.items():
            given: ast.expr | None = node if name not in self._switches else None  # Which may be computed from a tile.
            while given is not None and not isinstance(given, ast.Constant):
                if key_of(given) in found:
                    break
                found[key_of(given)] = name
                given = self.assigned(given.id) if isinstance(given, ast.Name) else None
                if not isinstance(given, ast.Name | ast.Attribute | ast.Subscript):
                    break
        return found

    def literals(self) -> dict[str, int]:
        """The constants that are given as a number, at the launch itself."""
        return {
            name: node.value
            for name, node in self.passed.items()
            if isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool)
        }

    def sources(self) -> dict[str, str]:
        """What the caller computes each constant from, as it is written; none of a number, or of a name of its own.

        A name that is also passed as an argument is the program's own word for a size, and stands for itself.
        """
        words = {
            one.id for name, one in self.arguments.items() if name not in self.passed and isinstance(one, ast.Name)
        }
        found: dict[str, str] = {}
        for name, node in self.passed.items():
            given: ast.expr | None = node
            while isinstance(given, ast.Name) and given.id not in words:
                given = self.assigned(given.id)
            if given is not None and not isinstance(given, ast.Constant):
                found[name] = ast.unparse(given)
        return found

    def tied(self) -> dict[str, tuple[str, ...]]:
        """The constants that the caller gives the value of another: each with all of those."""
        groups: dict[str, list[str]] = {}
        for name, node in self.passed.items():
            if not isinstance(node, ast.Constant):
                groups.setdefault(key_of(node), []).append(name)
        return {name: tuple(group) for group in groups.values() if len(group) > 1 for name in group}

    def computed(self, left_open: Mapping[str, str]) -> frozenset[str]:
        """The local names that were computed from what stands for a constant."""
        return frozenset(self._tainted(left_open))

    def derived(self, left_open: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """The arguments that the caller computes from what stands for a constant, each with the constants."""
        tainted = self._tainted(left_open)
        found = {}
        for name, given in self.arguments.items():
            inner = ast.walk(given) if key_of(given) not in left_open else ()
            if names := frozenset(one for node in inner for one in _constants_of(node, left_open, tainted, {})):
                found[name] = names
        return found

    def buffers(self, left_open: Mapping[str, str], literals: Mapping[str, int]) -> dict[str, Buffer]:
        """The constants that size a tensor in the same function, each with the first place where one does."""
        tainted = self._tainted(left_open)
        found: dict[str, Buffer] = {}
        for call in (node for node in ast.walk(self._scope) if isinstance(node, ast.Call)):
            if _called(call.func) not in _ALLOCATES:
                continue
            shape = (*call.args, *(one.value for one in call.keywords if one.arg in {None, "size", "shape"}))
            for node in (inner for one in shape for inner in ast.walk(one)):
                for name in _constants_of(node, left_open, tainted, literals):
                    found.setdefault(name, Buffer(call.lineno, ast.unparse(call)))
        return found

    def _tainted(self, left_open: Mapping[str, str]) -> dict[str, set[str]]:
        """The local names computed from what stands for a constant, each with the constants."""
        found: dict[str, set[str]] = {}
        before = -1
        while before != sum(map(len, found.values())):
            before = sum(map(len, found.values()))
            for name, value in self._assignments(whole=True):
                if value is None or key_of(ast.Name(name, ast.Load())) in left_open or not _is_arithmetic(value):
                    continue
                for node in ast.walk(value):
                    if names := _constants_of(node, left_open, found, {}):
                        found.setdefault(name, set()).update(names)
        return found

    def _assignments(self, *, whole: bool = False) -> list[tuple[str, ast.expr | None]]:
        """The names assigned to before the launch, or anywhere, with what; None for what is not understood."""
        found = [
            (node.lineno, name, value)
            for node in _statements(self._scope)
            if whole or node.lineno < self.line
            for name, value in _targets(node)
        ]
        return [(name, value) for _, name, value in sorted(found, key=lambda one: one[0])]

    def _passed(self, call: ast.Call, kernel: Any) -> dict[str, ast.expr]:
        found: dict[str, ast.expr] = {}
        for name, node in zip(getattr(kernel, "arg_names", ()), call.args, strict=False):
            if isinstance(node, ast.Starred):
                break
            found[name] = node
        for keyword in call.keywords:
            if keyword.arg is not None:
                found[keyword.arg] = keyword.value
                continue
            try:
                held = self.value(keyword.value)
            except NotPureError:
                continue
            if isinstance(held, dict):
                for name in held:
                    found[name] = ast.Subscript(keyword.value, ast.Constant(name), ast.Load())
        return found


def call_site(frame: FrameType, kernel: Any, constants: Mapping[str, Any]) -> CallSite | None:
    """The launch of `kernel` that a frame is in the middle of; None where its source cannot be read or is not clear.

    The frame may be of what stands between the program and the kernel: an autotuner, heuristics, what derives from one.
    """
    frame = program_frame(frame)
    tree = parsed(frame.f_code.co_filename, "".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    if tree is None:
        return None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _grid_of(node, check=True) is not None]
    where = _position(frame)
    found = [node for node in calls if where is not None and _span(node) == where]
    if not found:
        found = [node for node in calls if node.lineno <= frame.f_lineno <= (node.end_lineno or 0)]
        found = [node for node in found if _launches(node, frame, kernel)]
    if len(found) != 1:
        return None
    return CallSite(found[0], _scope_of(tree, frame.f_code), frame, innermost_jit(kernel), constants)


def program_frame(frame: FrameType) -> FrameType:
    """The first frame from this one on that is neither Triton's, nor ours, nor of a launcher that holds a kernel."""
    found: FrameType | None = frame
    while found is not None:
        code = found.f_code
        held = found.f_locals.get("self") if code.co_name in LAUNCHERS else None
        if not code.co_filename.startswith(not_the_program_s()) and not hasattr(held, "fn"):
            return found
        found = found.f_back
    return frame


def innermost_jit(kernel: Any) -> Any:
    """The JITFunction in an autotuner or heuristics; itself, of one."""
    while hasattr(getattr(kernel, "fn", None), "fn"):
        kernel = kernel.fn
    return kernel


@functools.lru_cache(maxsize=64)
def parsed(name: str, text: str) -> ast.Module | None:
    """The tree of a source file; None where there is no text, or none that Python reads."""
    try:
        return ast.parse(text, name) if text else None
    except (SyntaxError, ValueError):
        return None


def _position(frame: FrameType) -> tuple[int | None, ...] | None:
    """Where the expression stands that a frame is evaluating: Python 3.11 and later tell."""
    if sys.version_info >= (3, 11) and frame.f_lasti >= 0:
        for index, span in enumerate(frame.f_code.co_positions()):
            if index == frame.f_lasti // 2:
                return span
    return None


def _span(node: ast.expr) -> tuple[int | None, ...]:
    return (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)


def _grid_of(call: ast.Call, *, check: bool = False) -> Any:
    """The grid in `kernel[grid](...)` and in `kernel.run(..., grid=grid, ...)`."""
    if isinstance(call.func, ast.Subscript):
        return call.func.slice
    if isinstance(call.func, ast.Attribute) and call.func.attr == "run":
        for keyword in call.keywords:
            if keyword.arg == "grid":
                return keyword.value
    assert check, "a call that launches"
    return None


def _launches(call: ast.Call, frame: FrameType, kernel: Any) -> bool:
    """Whether a call is of this kernel; so far as its name can be read."""
    assert isinstance(call.func, ast.Subscript | ast.Attribute)
    names = {**frame.f_globals, **dict(frame.f_locals)}
    try:
        return innermost(Folder(names.__getitem__).fold(call.func.value)) is innermost(kernel)
    except NotPureError:
        return True


def _scope_of(tree: ast.Module, code: CodeType) -> ast.AST:
    """The function that some code is of: the innermost one at its first line, or the module."""
    found: ast.AST = tree
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS) and node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first <= code.co_firstlineno <= node.lineno:
                found = node
    return found


def _statements(scope: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a function or a module, without those of the functions and classes in it."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            yield from _statements(child)


def _targets(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    """The names that a statement assigns to, each with its expression, or None where that is not one by itself."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _paired(target, node.value)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield from _paired(node.target, node.value)
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, None
    elif isinstance(node, _FUNCTIONS):
        yield node.name, None


def _paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List):
        for index, one in enumerate(target.elts):
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                yield from _paired(one, value.elts[index])
            else:
                yield from _paired(one, ast.Subscript(value, ast.Constant(index), ast.Load()))


def _called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_arithmetic(node: ast.expr) -> bool:
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return not isinstance(node, ast.Lambda) and all(_called(call.func) in _ARITHMETIC for call in calls)


def _constants_of(
    node: ast.AST, left_open: Mapping[str, str], tainted: Mapping[str, set[str]], literals: Mapping[str, int]
) -> set[str]:
    if isinstance(node, ast.Constant):
        return {name for name, value in literals.items() if type(node.value) is int and value == node.value}
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        return set()
    names = {left_open[key_of(node)]} if key_of(node) in left_open else set()
    return names | (tainted.get(node.id, set()) if isinstance(node, ast.Name) else set())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Open) or not isinstance(one, int | float | str | bool | tuple | list):
        return one is other
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001 - somebody's class
        return False
