"""The types of the YAML files as a page: each struct that a file may hold, its fields, what they take and mean."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from msgspec import inspect as types

from fusetune.core.config import NamedConfig
from fusetune.core.decision import REASON_TEXT
from fusetune.core.problem import NamedProblem
from fusetune.gate.pins import PinFile
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.types import types_of
from fusetune.store.schema import ConfigFile

SHOWN: Final = Path(__file__).parents[1] / "configs" / "nvidia-h200"
"""The folder of the file whose first entry is the example."""
_ROOTS: Final[dict[str, tuple[type, str]]] = {
    "A file of configs": (ConfigFile, "`configs/<gpu>/<op>.yaml`, written by `sweep` and `tune`, read by a look-up."),
    "A file of pins": (PinFile, "`configs/<gpu>/pins/<op>.yaml`, written by `tune` and `gate --pin`, read by `gate`."),
}
_NO_DEFAULT: Final = (msgspec.NODEFAULT, msgspec.UNSET)


def files_page(made: str) -> Iterator[str]:
    """The page; `made` says what it is made of."""
    yield "# Files"
    yield ""
    yield made
    yield ""
    yield "Files are read strictly: an unknown key, a value of another type or a newer schema is an error that names"
    yield "file, line and key, with exit code 2. At run time a broken file is a miss, with one warning."
    yield ""
    seen: set[type] = set()
    for title, (root, about) in _ROOTS.items():
        yield f"## {title}"
        yield ""
        yield about
        yield ""
        if root is ConfigFile:
            yield from _example()
        for found in _below(root, seen):
            yield from _struct(found)
        if root is ConfigFile:
            yield from _named()
            yield from _reasons()


def structs() -> list[type]:
    """Each struct that a file may hold."""
    seen: set[type] = set()
    return [found for root, _ in _ROOTS.values() for found in _below(root, seen)]


def field_meaning(struct: type, field: str) -> str:
    """What stands as a string below a field; empty where nothing does."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(body, ast.ClassDef)
    for node, below in itertools.pairwise(body.body):
        named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == field
        if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            return " ".join(str(below.value.value).split())
    return ""


def _example() -> Iterator[str]:
    path = min(SHOWN.glob("*.yaml"))
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    whole["entries"] = whole["entries"][:1]
    yield f"The begin of `configs/{SHOWN.name}/{path.name}`:"
    yield ""
    yield "```yaml"
    yield yaml.safe_dump(whole, sort_keys=False, width=72, default_flow_style=None).rstrip()
    yield "```"
    yield ""


def _below(root: type, seen: set[type]) -> Iterator[type]:
    """A struct and all that its fields lead to, each once, in the order in which a reader meets them."""
    if root in seen:
        return
    seen.add(root)
    yield root
    for field in types.type_info(root).fields:  # type: ignore[attr-defined]  # a struct's
        for inner in _inner(field.type):
            yield from _below(inner, seen)


def _inner(kind: Any) -> Iterator[type]:
    if isinstance(kind, types.StructType):
        yield kind.cls
    for name in ("types", "item_types"):
        for part in getattr(kind, name, ()):
            yield from _inner(part)
    for name in ("item_type", "key_type", "value_type"):
        part = getattr(kind, name, None)
        if part is not None:
            yield from _inner(part)


def _struct(struct: type, name: str | None = None) -> Iterator[str]:
    yield f"### {name or struct.__name__}"
    yield ""
    for paragraph in (inspect.getdoc(struct) or "").split("\n\n"):
        yield prose(paragraph)
        yield ""
    fields = types.type_info(struct).fields  # type: ignore[attr-defined]  # a struct's
    told = [field_meaning(struct, field.encode_name) for field in fields]
    yield "| field | value | meaning |" if any(told) else "| field | value |"
    yield "|---|---|---|" if any(told) else "|---|---|"
    for field, meaning in zip(fields, told, strict=True):
        row = f"| `{field.encode_name}` | {_kind(field.type)}{_default(field)} |"
        yield f"{row} {prose(meaning)} |" if any(told) else row
    yield ""


def _named() -> Iterator[str]:
    """What stands for a problem and a config, which each op has of its own kind."""
    yield "### Problem"
    yield ""
    yield "What an op computes; each op has its own. One that brings no type has any named values, as its sizes:"
    yield "numbers, flags, words, null, and lists of whole numbers. A program's kernel has the arguments of its launch."
    yield ""
    yield "### Config"
    yield ""
    yield "How to launch. One of an op that brings no type has the options of a launch, and its constants by name:"
    yield ""
    yield "| field | value |"
    yield "|---|---|"
    for name, parameter in inspect.signature(NamedConfig).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield f"| `{name}` | whole number, at least 1; {parameter.default if parameter.default else 'left out'} |"
    yield ""
    told: set[type] = {NamedProblem, NamedConfig}
    for op in built_in_ops():
        for kind, found in (("Problem", types_of(op).problem), ("Config", types_of(op).config)):
            if found not in told:
                told.add(found)
                yield from _struct(found, f"{kind} of {op}")


def _reasons() -> Iterator[str]:
    yield "### Reasons"
    yield ""
    yield "The words of `reason`, with what `report` says for them."
    yield ""
    yield "| word | meaning |"
    yield "|---|---|"
    for word, meaning in REASON_TEXT.items():
        yield f"| `{word}` | {prose(meaning)} |"
    yield ""


def _default(field: Any) -> str:
    if field.required:
        return ""
    if field.default in _NO_DEFAULT or field.default in (None, (), ""):
        return "; may be left out"
    return f"; else `{field.default}`"


def _kind(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, types.UnionType):
        parts = [_kind(part) for part in kind.types if not isinstance(part, types.NoneType)]
        return " or ".join(dict.fromkeys(parts))
    if isinstance(kind, types.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(
        kind, types.StructType | types.CustomType
    ):  # Custom are Problem and Config, of which each op has its own.
        return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
    if isinstance(kind, types.VarTupleType | types.ListType):
        return f"list of {_kind(kind.item_type)}"
    if isinstance(kind, types.DictType):
        return f"map of {_kind(kind.key_type)} to {_kind(kind.value_type)}"
    return _plain(kind)


def _plain(kind: Any) -> str:
    words = {types.StrType: "text", types.IntType: "whole number", types.FloatType: "number", types.BoolType: "flag"}
    text = words[type(kind)]
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    told = [f"{word} {getattr(kind, name):g}" for name, word in bounds.items() if _bounded(getattr(kind, name, None))]
    return ", ".join([text, *told])


def _bounded(limit: Any) -> bool:
    """Whether a bound is one that a reader has to know: not that a number is finite."""
    return limit is not None and abs(limit) < 1e9


def prose(text: str) -> str:
    """Text as Markdown that shows just that, on one line, in a table too: what is code there already stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|])", r"\\\1", part) for part in parts)
