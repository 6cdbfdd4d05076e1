"""The hash of kernels' code, which ties an entry to what was tuned, and which kernels a function launches."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any


def hash_kernels(*kernels: Any, without: str | None = None) -> str:
    """Sixteen hex digits of the SHA-256 of the kernels' code, blind to comments, blank lines and indentation width.

    `without` a constant: of the code as it is where that is False, and as if no function had it.
    """
    return hash_sources(*(inspect.getsource(innermost(kernel)) for kernel in kernels), without=without)


def hash_sources(*sources: str, without: str | None = None) -> str:
    """The same of the source of each, with its decorators."""
    digest = hashlib.sha256()
    for source in sources:
        tokens = _code_tokens(textwrap.dedent(source))
        digest.update("\x1f".join(tokens if without is None else _without(tokens, without)).encode())
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


def _without(tokens: Sequence[str], constant: str) -> list[str]:
    """The tokens of code in which a constexpr parameter is False: neither it nor what it guards is left.

    The constant is a parameter `NAME: tl.constexpr,`, an argument in its place, and the condition of an `if` of which
    the `else`, where there is one, stays.
    """
    kept: list[str] = []
    place = 0
    while place < len(tokens):
        if tokens[place : place + 3] == ["if", constant, ":"]:
            place = _after_suite(tokens, place + 3)
            if tokens[place : place + 2] == ["else", ":"]:
                end = _after_suite(tokens, place + 2)
                kept += _without(tokens[place + 4 : end - 1], constant)
                place = end
        elif tokens[place] == constant:
            declared = tokens[place + 1] == ":"
            place += 5 if declared else 1
            if tokens[place] == ",":
                place += 1
            elif kept[-1] == ",":
                kept.pop()
        else:
            kept.append(tokens[place])
            place += 1
    return kept


def _after_suite(tokens: Sequence[str], start: int) -> int:
    """Where an indented suite ends that begins with the end of its line, at `start`."""
    depth, place = 1, start + 2
    while depth:
        depth += {"<indent>": 1, "<dedent>": -1}.get(tokens[place], 0)
        place += 1
    return place
