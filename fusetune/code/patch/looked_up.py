"""An autotuner that times its list becomes one that looks its config up: `@fusetune.autotune`, and the import of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import libcst as cst

from fusetune.code.patch.edits import Edit
from fusetune.code.patch.source_file import SourceFile, shown

_OURS: Final = "fusetune"
_AUTOTUNE: Final = f"{_OURS}.autotune"
_TRITON_S: Final = frozenset({"triton.autotune", "triton.runtime.autotune", "triton.runtime.autotuner.autotune"})
"""What Triton's decorator is called where it comes from, whatever a file calls it."""


def is_looked_up(source: SourceFile, autotune: cst.Call) -> bool:
    """Whether a decorator looks its config up: what is decided is in the YAML, and its list stays as it is."""
    return _imports(source, source.text(autotune.func)) == _AUTOTUNE


def lookup_edits(source: SourceFile, autotune: cst.Call) -> list[Edit]:
    """The edits that put `@fusetune.autotune` in the place of `@triton.autotune`; none where it stands there.

    Its arguments stay as they are. Raises NotWritableError for another decorator of that name.
    """
    if is_looked_up(source, autotune):
        return []
    name = source.text(autotune.func)
    if _imports(source, name) not in _TRITON_S:
        raise source.refused(autotune, f"its autotuner is `{shown(name)}`, and none of Triton's own")
    return [source.replaced(autotune.func, _AUTOTUNE, f"{name} -> {_AUTOTUNE}"), *_import(source, autotune)]


def _imports(source: SourceFile, name: str) -> str:
    """A dotted name as it is called where it comes from; empty where it was not imported."""
    first, _, rest = name.partition(".")
    for node, alias in _aliases(source):
        bound = alias.evaluated_alias or alias.evaluated_name
        if bound.partition(".")[0] != first:
            continue
        whole = alias.evaluated_name if alias.evaluated_alias else first
        if isinstance(node, cst.ImportFrom):
            module = cst.Module([]).code_for_node(node.module) if node.module is not None else ""
            whole = f"{'.' * len(node.relative)}{module}.{alias.evaluated_name}"
        return f"{whole}.{rest}".rstrip(".")
    return ""


def _aliases(source: SourceFile) -> Iterator[tuple[cst.Import | cst.ImportFrom, cst.ImportAlias]]:
    for kind in (cst.Import, cst.ImportFrom):
        for node in source.all(kind):
            assert isinstance(node, cst.Import | cst.ImportFrom), "of these kinds"
            yield from ((node, one) for one in source.all(cst.ImportAlias, node))


def _import(source: SourceFile, autotune: cst.Call) -> list[Edit]:
    """The edit that imports the package above what brings Triton in; none where the file has it."""
    scope = source.scope(source.module.body[0])
    held = scope[_OURS] if scope is not None else ()
    if any(type(one).__name__ == "ImportAssignment" for one in held):
        return []
    if held:
        raise source.refused(autotune, f"{_OURS} is the name of something else in the file")
    for node, alias in _aliases(source):
        module = node.module if isinstance(node, cst.ImportFrom) else alias.name
        if module is None or cst.Module([]).code_for_node(module).partition(".")[0] != "triton":
            continue
        top = next((one for one in source.above(node) if source.parent(one) is source.module), None)
        if top is not None:
            return [source.inserted(source.start(top), f"import {_OURS}{source.newline}", f"import {_OURS}")]
    raise source.refused(autotune, f"there is no import of triton to put `import {_OURS}` beside")
