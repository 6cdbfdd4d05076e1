"""Constants that `@triton.heuristics` gives, where they are numbers: `lambda args: 4`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import libcst as cst

from fusetune.code.patch.assignments import assignment_of, named, value_assigned
from fusetune.code.patch.edits import Edit
from fusetune.code.patch.literals import literal, same
from fusetune.code.patch.source_file import SourceFile, shown


def computed_by(source: SourceFile, heuristics: cst.Call) -> dict[str, cst.BaseExpression]:
    """What computes each constant, by its name."""
    table: cst.BaseExpression | None = heuristics.args[0].value if heuristics.args else None
    if isinstance(table, cst.Name):
        target = getattr(assignment_of(source, table), "node", None)
        table = value_assigned(source, target) if isinstance(target, cst.Name) else None
    if not isinstance(table, cst.Dict):
        return {}
    pairs = [(literal(one.key)[1], one.value) for one in table.elements if isinstance(one, cst.DictElement)]
    return {name: value for name, value in pairs if isinstance(name, str)}


def heuristic_edits(
    source: SourceFile, heuristics: cst.Call, values: Mapping[str, Any], before: Mapping[str, Any]
) -> list[Edit]:
    """The edits that make heuristics give these values. Raises NotWritableError where they compute them."""
    found = computed_by(source, heuristics)
    table = heuristics.args[0].value if heuristics.args else None
    others = len(named(source, assignment_of(source, table)).read) - 1 if isinstance(table, cst.Name) else 0
    edits = []
    for name, value in values.items():
        made = found.get(name)
        body = made.body if isinstance(made, cst.Lambda) else None
        is_written, held = literal(body) if body is not None else (False, None)
        if body is None or not is_written:
            text = shown(source.text(made)) if made is not None else "a table of another file"
            raise source.refused(made or heuristics, f"a heuristic computes {name}: `{text}`")
        if same(held, value):
            continue
        if others:
            raise source.refused(body, f"{source.text(heuristics.args[0].value)} gives {name} elsewhere, too")
        if not same(held, before.get(name)):
            raise source.refused(body, f"{name} is {held!r} there, and {before.get(name)!r} is what was launched")
        edits.append(source.replaced(body, repr(value), f"{name} {held} -> {value}"))
    return edits


def names_computed(source: SourceFile, heuristics: cst.Call | None, told: Collection[str]) -> set[str]:
    """The names that heuristics give: by the source, and by what was seen of the launch."""
    return {*told, *(computed_by(source, heuristics) if heuristics is not None else ())}
