"""The hash of kernels' code, which ties an entry to what was tuned, and which kernels a function launches."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any


def hash_kernels(*kernels: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the kernels' code, blind to comments, blank lines and indentation width."""
    return hash_sources(*(inspect.getsource(innermost(kernel)) for kernel in kernels))


def hash_sources(*sources: str) -> str:
    """The same of the source of each, with its decorators."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update("\x1f".join(_code_tokens(textwrap.dedent(source))).encode())
    return digest.hexdigest()[:16]


def functions_in(text: str) -> dict[str, str]:
    """The source of each function of a module by its name, with its decorators, as `inspect.getsource` has it."""
    lines = text.splitlines(keepends=True)
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return found


def innermost(kernel: Any) -> Any:
    """The Python function in an autotuner, heuristics and a JITFunction, of which each holds the next one."""
    while hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel


def kernels_named_by(function: Any) -> tuple[Any, ...]:
    """The Triton functions that a function's code names, and those that these call, each once, in order of names."""
    found: dict[int, Any] = {}
    waiting = [function]
    while waiting:
        code, names = _unwrapped(waiting.pop())
        for name in sorted(_names_in(code.__code__)):
            value = names.get(name)
            kernel = getattr(value, "fn", None)
            if kernel is not None and id(value) not in found:
                found[id(value)] = value
                waiting.append(value)
    return tuple(found.values())


def _unwrapped(function: Any) -> tuple[Any, Mapping[str, Any]]:
    """The Python function in an autotuner, heuristics and a JITFunction, and the names that its code can see."""
    function = innermost(function)
    return function, {**function.__globals__, **inspect.getclosurevars(function).nonlocals}


def _names_in(code: Any) -> set[str]:
    names = {*code.co_names, *code.co_freevars}
    return names.union(*(_names_in(inner) for inner in code.co_consts if inspect.iscode(inner)))


def _code_tokens(source: str) -> list[str]:
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
    structure = {tokenize.INDENT: "<indent>", tokenize.DEDENT: "<dedent>", tokenize.NEWLINE: "<newline>"}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [structure.get(token.type, token.string) for token in tokens if token.type not in skipped]
