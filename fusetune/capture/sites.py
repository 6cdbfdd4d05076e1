"""Where a launch stands in the program's own source, and what is needed to write other values back there."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import linecache
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from fusetune.capture.call_sites import call_site, parsed
from fusetune.capture.cases import Site
from fusetune.capture.grids import GridRule
from fusetune.ops.hashing import innermost
from fusetune.ops.sources import is_installed

_JSON: Final = re.compile(r"""["']([^"'\n]+\.json)["']""")
_LONGEST: Final = 200
"""Characters of a word that a name had."""


def site_of(
    frame: FrameType | None,
    kernel: Any,
    constants: Mapping[str, Any],
    rule: GridRule,
    proposals: Sequence[Mapping[str, Any]],
    heuristics: Collection[str],
) -> Site | None:
    """The place of the launch that a frame is in the middle of; None where its source is not to be read, or not clear.

    Files are hashed as they are now, once in a process.
    """
    found = call_site(frame, kernel, constants) if frame is not None else None
    if found is None:
        return None
    tree = parsed(found.file, "".join(linecache.getlines(found.file)))
    modules = dict(_modules(tree, str(found.names.get("__package__") or ""))) if tree is not None else {}
    files = [found.file, innermost(kernel).__code__.co_filename, *modules.values(), *_json_files(found.file)]
    hashes = {file: hashed for file in files if (hashed := _hash(file)) is not None}
    return Site(
        file=found.file,
        line=found.line,
        column=found.column,
        parameters=tuple(kernel.arg_names),
        names={name: value for name, value in found.names_read().items() if _is_plain(value)},
        listed=tuple(dict.fromkeys(name for one in proposals for name in one)),
        computed=tuple(heuristics),
        follows=tuple(sorted(rule.reads)),
        following={name: one.text for name, one in rule.derived.items() if name not in heuristics},
        modules=modules,
        files=hashes,
    )


def _modules(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """The program's own modules that a file imports names from, with their files."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        name = "." * node.level + (node.module or "")
        try:
            name = importlib.util.resolve_name(name, package) if node.level else name
        except ImportError:
            continue
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and not is_installed(name):
            yield name, file


def _json_files(file: str) -> Iterator[str]:
    """The JSON files that a file of Python names, beside it or in the current folder."""
    for name in dict.fromkeys(_JSON.findall("".join(linecache.getlines(file)))):
        for folder in dict.fromkeys((Path(file).parent, Path.cwd())):
            if (folder / name).is_file():
                yield str(folder / name)


@functools.cache
def _hash(file: str) -> str | None:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:  # code that a program made: it is in no file
        return None


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < _LONGEST)
