"""The source of a @triton.jit function with its comments, as something that can be changed and written again."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

LINE_LENGTH: Final = 100
"""Of what is written, whatever it was where it comes from."""

_TOOLS: Final = re.compile(r"#\s*(?:type:|noqa|fmt:|pragma|ruff:).*$")
"""What only a linter reads."""
_SHAPE: Final = re.compile(r"# \[[^\]]*\](?: \w+)?(?:, contiguous)?")


class KernelSource:
    """A function's name, parameters and body; each statement has the full-line comments above it as `comment`."""

    def __init__(self, kernel: Any) -> None:
        function = getattr(kernel, "fn", kernel)
        text = textwrap.dedent(inspect.getsource(function))
        (definition,) = ast.parse(text).body
        assert isinstance(definition, ast.FunctionDef)
        self.name = definition.name
        self._globals: Mapping[str, Any] = function.__globals__
        comments = _comments(text)
        every = definition.args.args
        self.parameters = tuple(one.arg for one in every)
        self.notes = {one.arg: comments.get(one.lineno, "") for one in every}
        self.constexprs = frozenset(
            one.arg for one in every if one.annotation is not None and "constexpr" in ast.unparse(one.annotation)
        )
        self.docstring = ast.get_docstring(definition) or ""
        self.body: list[ast.stmt] = definition.body[1:] if self.docstring else definition.body
        lines = text.splitlines()
        for statement in definition.body:
            for node in ast.walk(statement):
                if isinstance(node, ast.stmt):
                    node.comment, node.gap = _above(lines, node.lineno)  # type: ignore[attr-defined]
        _Names(self._globals).visit(definition)

    def function(self, called: ast.expr) -> KernelSource | None:
        """The @triton.jit function of the project that a name means, if it means one."""
        held = self._globals.get(called.id) if isinstance(called, ast.Name) else None
        return source_of(held) if held is not None and hasattr(held, "fn") and hasattr(held, "arg_names") else None


_sources: dict[Any, KernelSource] = {}


def source_of(kernel: Any) -> KernelSource:
    """The source of a kernel, read once."""
    function = getattr(kernel, "fn", kernel)
    if function not in _sources:
        _sources[function] = KernelSource(kernel)
    return _sources[function]


def written(
    name: str,
    parameters: Sequence[str],
    body: Sequence[ast.stmt],
    source: KernelSource,
    *,
    docstring: str,
    decorators: Sequence[str] = ("@triton.jit",),
) -> str:
    """The function as text, not yet formatted: one parameter a line where one of them has a note."""
    annotated = {one: f"{one}: tl.constexpr" if one in source.constexprs else one for one in parameters}
    # A shape, and what is said of it in every variant; the rest of a note is about other variants.
    shapes = {one: _SHAPE.match(source.notes.get(one, "")) for one in parameters}
    notes = {one: shape.group() if shape else "" for one, shape in shapes.items()}
    if any(notes.values()):
        listed = [f"    {text},{f'  {notes[one]}' if notes[one] else ''}" for one, text in annotated.items()]
        lines = [*decorators, f"def {name}(", *listed, "):"]
    else:
        lines = [*decorators, f"def {name}({', '.join(annotated.values())}):"]
    if docstring:
        quoted = f'"""{docstring}\n"""' if "\n" in docstring else f'"""{docstring}"""'
        lines += textwrap.indent(quoted, "    ").splitlines()
    lines += _block(body, "    ") or ["    pass"]
    return "\n".join(lines)


def _block(body: Sequence[ast.stmt], indent: str) -> list[str]:
    lines: list[str] = []
    for statement in body:
        if getattr(statement, "gap", False) and lines:
            lines.append("")
        lines += [f"{indent}{line}" for line in _wrapped(getattr(statement, "comment", ""), LINE_LENGTH - len(indent))]
        lines += _statement(statement, indent)
    return lines


def _wrapped(comment: str, width: int) -> list[str]:
    """The lines of a comment, broken anew where one of them is too long for what is written here."""
    lines = comment.splitlines()
    if all(len(line) <= width for line in lines):
        return lines
    words = " ".join(line.lstrip("# ") for line in lines)
    return textwrap.wrap(words, width, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _statement(statement: ast.stmt, indent: str) -> list[str]:
    inner = indent + "    "
    if isinstance(statement, ast.If):
        lines = [f"{indent}if {ast.unparse(statement.test)}:", *_block(statement.body, inner)]
        if len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If):
            first, *rest = _statement(statement.orelse[0], indent)
            lines += [f"{indent}el{first.removeprefix(indent)}", *rest]
        elif statement.orelse:
            lines += [f"{indent}else:", *_block(statement.orelse, inner)]
        return lines
    if isinstance(statement, ast.For):
        header = f"{indent}for {ast.unparse(statement.target)} in {ast.unparse(statement.iter)}:"
        return [header, *_block(statement.body, inner)]
    if isinstance(statement, ast.While):
        return [f"{indent}while {ast.unparse(statement.test)}:", *_block(statement.body, inner)]
    text = ast.unparse(statement)
    if isinstance(statement, ast.Assign | ast.Return) and isinstance(statement.value, ast.Tuple):
        # unparse puts parentheses around every tuple.
        text = f"{text[: -len(ast.unparse(statement.value))]}{', '.join(map(ast.unparse, statement.value.elts))}"
    return [f"{indent}{line}" for line in text.splitlines()]


class _Names(ast.NodeTransformer):
    """Names that a module imports from triton.language, written out from `tl`."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        held = self._names.get(node.id)
        module = getattr(held, "__module__", "") or ""
        if held is None or isinstance(held, ModuleType) or not module.startswith("triton.language.extra.cuda"):
            return node
        return ast.copy_location(ast.parse(f"tl.extra.cuda.{node.id}", mode="eval").body, node)


def _comments(text: str) -> dict[int, str]:
    """Comments by line, those for linters left out."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comment = _TOOLS.sub("", token.string).rstrip()
            if comment:
                found[token.start[0]] = comment
    return found


def _above(lines: Sequence[str], lineno: int) -> tuple[str, bool]:
    """The full-line comments right above a line, as one text, and whether an empty line stands above them."""
    found: list[str] = []
    for line in reversed(lines[: lineno - 1]):
        stripped = line.strip()
        if not stripped.startswith("#"):
            return "\n".join(found), not stripped
        comment = _TOOLS.sub("", stripped).rstrip()
        if comment:
            found.insert(0, comment)
    return "\n".join(found), False
