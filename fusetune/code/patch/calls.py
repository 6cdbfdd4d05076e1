"""The call that launches a kernel: where it stands, its grid, and its keywords given and taken."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import libcst as cst

from fusetune.code.patch.change import Launched
from fusetune.code.patch.edits import Edit, NotWritableError
from fusetune.code.patch.source_file import SourceFile

_LAST_LINE: Final = re.compile(r"\n[ \t]*\Z")


def launch_call(source: SourceFile, launch: Launched) -> cst.Call:
    """The call that launches, by where it stands. Raises NotWritableError where it is not to be found."""
    calls = [call for call in source.all(cst.Call) if grid_of(call) is not None]
    found = [call for call in calls if source.line(call) == launch.line]
    if launch.column >= 0:
        found = [call for call in found if source.column(call) == launch.column]
    if len(found) != 1:
        raise NotWritableError(source.file, launch.line, f"the launch of {launch.kernel} is not to be found there")
    return found[0]


def grid_of(call: cst.Call) -> cst.CSTNode | None:
    """The grid in `kernel[grid](...)` and in `kernel.run(..., grid=grid)`; None of any other call."""
    if isinstance(call.func, cst.Subscript):
        return call.func.slice[0].slice if len(call.func.slice) == 1 else call.func
    if isinstance(call.func, cst.Attribute) and call.func.attr.value == "run":
        return next((one.value for one in call.args if one.keyword is not None and one.keyword.value == "grid"), None)
    return None


def added(source: SourceFile, call: cst.Call, values: Mapping[str, Any]) -> list[Edit]:
    """The edit that gives a launch further keywords, on a line of their own where its arguments are."""
    if not values:
        return []
    texts = [f"{name}={value!r}" for name, value in values.items()]
    what = ", ".join(f"{name} -> {value}" for name, value in values.items())
    if not call.args:
        return [source.inserted(source.end(call) - 1, ", ".join(texts), what)]
    last = call.args[-1]
    at = source.end(last.value)
    behind = source.between(at, source.end(call) - 1)
    separator = ", "
    if _LAST_LINE.search(behind.replace("\r\n", "\n")):
        separator = f",{source.newline}{source.indent(last.value)}"
    return [source.inserted(at, "".join(f"{separator}{text}" for text in texts), what)]


def removed(source: SourceFile, call: cst.Call, names: Collection[str]) -> list[Edit]:
    """The edits that take keywords from a launch; those that it does not have are none."""
    gone = [one.keyword is not None and one.keyword.value in names for one in call.args]
    edits = []
    for first, last in _runs(gone):
        begins = [source.start(one.keyword or one.value) - len(one.star) for one in call.args]
        if last + 1 < len(call.args):
            start, end = begins[first], begins[last + 1]
        elif first:
            start, end = source.end(call.args[first - 1].value), source.end(call.args[last].value)
        else:
            start, end = begins[0], source.end(call.args[last].value)
        told = ", ".join(source.text(one.value) for one in call.args[first : last + 1])
        edits.append(Edit(source.file, start, end - start, "", source.line_at(start), f"{told} removed"))
    return edits


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    first = None
    for number, flag in enumerate([*flags, False]):
        if flag and first is None:
            first = number
        elif not flag and first is not None:
            yield first, number - 1
            first = None
