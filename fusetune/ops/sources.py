"""The source of Triton functions without their decorators, the names that it uses, and the hash of all that it calls.

Relies on `JITCallable.src` of Triton 3.6 to 3.9, the source from `def` on; a function of the interpreter has none.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from fusetune.ops.hashing import hash_sources, innermost

_MOST_WRAPPED: Final = 20
"""Some objects have any attribute."""


def jitted(value: Any) -> Any:
    """The Triton function right around a Python function, below autotuners and heuristics; None for anything else."""
    for _ in range(_MOST_WRAPPED):
        held = getattr(value, "fn", None)
        if inspect.isfunction(held):
            return value if hasattr(value, "signature") or hasattr(value, "rewrite") else None
        if held is None:
            break
        value = held
    return None


def is_triton_s(function: Any) -> bool:
    """Whether a function or a class is one of Triton's own."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "triton"


def definition_of(function: Any) -> str:
    """The source from `def` on of a Triton function, or of a plain one; raises OSError where it is not to be had."""
    text = getattr(function, "src", None)
    if not isinstance(text, str):
        text = textwrap.dedent(inspect.getsource(innermost(function)))
    (node,) = ast.parse(text).body
    if not isinstance(node, ast.FunctionDef):
        raise OSError("it is no function in a file")
    lines = text.splitlines(keepends=True)
    return "".join(lines[node.lineno - 1 : node.end_lineno]).rstrip() + "\n"


def names_of(definition: str, *, annotations: bool = True) -> dict[str, set[tuple[str, ...]]]:
    """The names from outside that a function's source uses, each with the chains of attributes that it asks of it.

    An empty chain stands for the name by itself. Annotations of parameters count where they are evaluated.
    """
    (node,) = ast.parse(definition).body
    assert isinstance(node, ast.FunctionDef), "a definition"
    arguments = node.args
    own = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    own += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    found: dict[str, set[tuple[str, ...]]] = {}
    for statement in node.body:
        _note(statement, found)
    stored = {
        one.id
        for statement in node.body
        for one in ast.walk(statement)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    for name in stored | {one.arg for one in own}:
        found.pop(name, None)
    outside: list[ast.expr | None] = [*arguments.defaults, *arguments.kw_defaults]
    outside += [one.annotation for one in own] + [node.returns] if annotations else []
    for expression in outside:
        if expression is not None:
            _note(expression, found)
    return found


def _note(node: ast.AST, found: dict[str, set[tuple[str, ...]]]) -> None:
    chain: list[str] = []
    base = node
    while isinstance(base, ast.Attribute):
        chain.insert(0, base.attr)
        base = base.value
    if isinstance(base, ast.Name):
        if isinstance(base.ctx, ast.Load):
            found.setdefault(base.id, set()).add(tuple(chain))
        return
    for child in ast.iter_child_nodes(base):
        _note(child, found)


def scope_of(function: Any) -> Mapping[str, Any]:
    """What a Python function's code sees around it: its module's names, and those of functions that it stands in."""
    around = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            around[name] = cell.cell_contents
        except ValueError:  # nothing is assigned to it yet
            around.pop(name, None)
    return around


def functions_of(kernel: Any) -> tuple[Any, ...]:
    """A Triton function and those that it calls, and these, each once; Triton's own are none of them."""
    found: dict[int, Any] = {}
    waiting = [kernel]
    while waiting:
        one = jitted(waiting.pop(0))
        function = innermost(one)
        if one is None or id(function) in found or is_triton_s(function):
            continue
        found[id(function)] = one
        waiting += _called_by(function, definition_of(one))
    return tuple(found.values())


def _called_by(function: Any, definition: str) -> Iterator[Any]:
    for _, held in _held_by(function, definition):
        if jitted(held) is not None:
            yield held


def _held_by(function: Any, definition: str) -> Iterator[tuple[str, Any]]:
    """What a function's source names of what stands outside, also in modules: each as it is written, and its value."""
    around = scope_of(function)
    for name, chains in sorted(names_of(definition).items()):
        for chain in sorted(chains):
            held = around.get(name)
            for attribute in chain:
                held = getattr(held, attribute, None) if isinstance(held, ModuleType) else None
            if held is not None and not isinstance(held, ModuleType):
                yield ".".join((name, *chain)), held


def constants_of(kernel: Any) -> tuple[str, ...]:
    """What a Triton function and what it calls read from outside, as `NAME = value`, each once.

    Numbers, texts, and functions of the program that are constants, by their source.
    """
    found = set()
    for one in functions_of(kernel):
        for name, held in _held_by(innermost(one), definition_of(one)):
            value = getattr(held, "value", held)
            if _is_plain(value):
                found.add(f"{name} = {value!r}")
            elif value is not held and inspect.isfunction(value) and not is_installed(value.__module__):
                found.add(f"{name} = {definition_of(value)}")
    return tuple(sorted(found))


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, bool | int | float | str)


def source_hash_of(kernel: Any) -> str:
    """The hash of the code of a kernel and of what it calls, without decorators: that of its copy is the same.

    It is another where a constant of a module that these read has another value. Raises OSError, TypeError or
    SyntaxError where a source is not to be had.
    """
    return hash_sources(*map(definition_of, functions_of(kernel)), *constants_of(kernel))


def is_installed(module: str) -> bool:
    """Whether a module came with Python or was installed: any process of this Python can import it."""
    held = sys.modules.get(module)
    file = getattr(held, "__file__", None)
    if held is None:
        return False
    if file is None:
        return module.partition(".")[0] in sys.stdlib_module_names
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top == "triton" or "-packages/" in file.replace("\\", "/")
