"""The list of configs of `@triton.autotune`: replaced by the one chosen, or cut to the few that are left to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import libcst as cst
from libcst.metadata import ImportAssignment

from fusetune.code.patch.assignments import assignment_of, named, value_assigned
from fusetune.code.patch.change import OPTIONS, Change
from fusetune.code.patch.edits import Edit, distinct, spliced
from fusetune.code.patch.literals import literal, same
from fusetune.code.patch.source_file import SourceFile, last_name, shown

MOST_TRIED: Final = 3
"""Configs that an autotuner is left with: each takes a compilation where the program first runs."""
_LONGEST_LINE: Final = 100
_BY_POSITION: Final = ("kwargs", "num_warps", "num_stages", "num_ctas", "maxnreg", "pre_hook")


def kernel_definition(source: SourceFile, line: int, name: str) -> cst.FunctionDef:
    """The kernel of a name whose first decorator or `def` stands on a line. Raises NotWritableError."""
    for one in source.all(cst.FunctionDef):
        first = one.decorators[0] if one.decorators else one
        if one.name.value == name.rpartition(".")[2] and source.line(first) <= line <= source.line(one.name):
            return one
    raise source.refused(source.module, f"the kernel {name} is not to be found at line {line}")


def decorator(kernel: cst.FunctionDef, name: str) -> cst.Call | None:
    """The call in `@triton.autotune(...)` or another decorator of a name; None where the kernel has none."""
    for one in kernel.decorators:
        if isinstance(one.decorator, cst.Call) and last_name(one.decorator.func) == name:
            return one.decorator
    return None


def configs_of(autotune: cst.Call) -> cst.BaseExpression | None:
    """What an autotuner is given for its list."""
    for number, one in enumerate(autotune.args):
        if (one.keyword is None and number == 0) or (one.keyword is not None and one.keyword.value == "configs"):
            return one.value
    return None


def list_edits(source: SourceFile, autotune: cst.Call, change: Change) -> list[Edit]:
    """The edits that leave an autotuner with what is wanted: `tried`, or the chosen one alone.

    A list of another name is changed where it stands if nothing else reads it, and else written here. Raises
    NotWritableError.
    """
    given = configs_of(autotune)
    if given is None:
        raise source.refused(autotune, "the autotuner's list of configs is not to be found")
    values = list(change.tried[:MOST_TRIED]) or [change.wanted]
    written = given
    if isinstance(given, cst.Name):
        assignment = assignment_of(source, given)
        target = getattr(assignment, "node", None)
        value = value_assigned(source, target) if isinstance(target, cst.Name) else None
        if isinstance(value, cst.List) and len(named(source, assignment).read) == 1:
            written = value
    return _Configs(source, autotune, written, change).edits(values, given)


class _Configs:
    """An autotuner's configs as they are written."""

    def __init__(self, source: SourceFile, autotune: cst.Call, written: cst.BaseExpression, change: Change) -> None:
        self._source, self._autotune, self._change = source, autotune, change
        self._written = written
        elements = [one.value for one in written.elements] if isinstance(written, cst.List) else []
        self._calls = [one for one in elements if isinstance(one, cst.Call) and _is_config(one)]
        self._is_list = bool(elements) and len(self._calls) == len(elements)
        # Of those with `**options` what they are given is not to be seen, so that they are no pattern for others.
        self._patterns = [one for one in self._calls if not _is_spread(one)]
        held = written.elt if isinstance(written, cst.ListComp) else None
        self._pattern = held if isinstance(held, cst.Call) and _is_config(held) and not _is_spread(held) else None

    def edits(self, values: Sequence[Mapping[str, Any]], given: cst.BaseExpression) -> list[Edit]:
        source, told = self._source, f"configs: {self._change.describe()}"
        texts = list(dict.fromkeys(self._text(one) for one in values))
        if not self._is_list:
            # One that the program computes is not touched: other kernels may be given it, too.
            where = self._written if isinstance(self._written, cst.ListComp) else given
            made = self._bracketed(texts)
            return [] if source.text(where) == made else [source.replaced(where, made, told)]
        if texts == [source.text(one) for one in self._calls]:
            return []
        start, end = source.start(self._calls[0]), source.end(self._calls[-1])
        separator = ", "
        if source.line(self._calls[0]) != source.line(self._written):
            separator = f",{source.newline}{source.indent(self._calls[0])}"
        made = separator.join(texts)
        if separator == ", " and len(texts) > 1 and source.column(self._calls[0]) + len(made) > _LONGEST_LINE:
            begin, stop = source.start(self._written), source.end(self._written)
            return [Edit(source.file, begin, stop - begin, self._bracketed(texts), source.line(self._written), told)]
        return [Edit(source.file, start, end - start, made, source.line(self._calls[0]), told)]

    def _bracketed(self, texts: Sequence[str]) -> str:
        if len(texts) == 1:
            return f"[{texts[0]}]"
        inner = self._source.indent(self._autotune) + "        "
        lines = "".join(f"{inner}{text},{self._source.newline}" for text in texts)
        return f"[{self._source.newline}{lines}{inner[:-4]}]"

    def _text(self, values: Mapping[str, Any]) -> str:
        """A config as its author wrote it where it is there, else as the nearest one with its values changed."""
        for wanted in (values, self._change.before):
            for one in self._patterns:
                if self._is(one, wanted):
                    return changed_config(self._source, one, values)
        if self._patterns:
            return changed_config(self._source, self._patterns[0], values)
        if self._pattern is not None:
            return changed_config(self._source, self._pattern, values)
        if self._change.launch.hooked:
            raise self._source.refused(self._autotune, "its configs are computed, and have a pre_hook")
        if not self._change.launch.listed:
            raise self._source.refused(self._autotune, f"`{shown(self._source.text(self._written))}` is computed")
        constants = {name: values[name] for name in self._change.launch.listed if name not in OPTIONS}
        return new_config(config_name(self._source, self._autotune), constants, values)

    def _is(self, call: cst.Call, wanted: Mapping[str, Any]) -> bool:
        return changed_config(self._source, call, wanted) == self._source.text(call)


def changed_config(source: SourceFile, call: cst.Call, values: Mapping[str, Any]) -> str:
    """The source of a Config with these constants and options, else as it is. Raises NotWritableError."""
    edits = []
    options = dict(OPTIONS)
    for number, one in enumerate(call.args):
        name = one.keyword.value if one.keyword is not None else _BY_POSITION[number]
        if name == "kwargs":
            edits += _changed_constants(source, one.value, values)
        elif name in options:
            del options[name]
            edits += _changed(source, one.value, name, values.get(name, OPTIONS[name]))
    more = [f", {name}={values[name]!r}" for name, usual in options.items() if values.get(name, usual) != usual]
    if more:
        at = source.end(call.args[-1].value) if call.args else source.end(call) - 1
        edits.append(source.inserted(at, "".join(more), "options"))
    start = source.start(call)
    moved = [Edit(one.file, one.start - start, one.length, one.text, one.line, one.what) for one in distinct(edits)]
    return spliced(source.text(call).encode(), moved).decode()


def _changed_constants(source: SourceFile, table: cst.BaseExpression, values: Mapping[str, Any]) -> list[Edit]:
    """The edits of a Config's constants; an option among them, which Config's own would win over, follows it."""
    pairs: list[tuple[Any, cst.BaseExpression]] = []
    if isinstance(table, cst.Dict):
        for element in table.elements:
            if not isinstance(element, cst.DictElement):
                raise source.refused(table, f"`{shown(source.text(table))}` is made of others")
            pairs.append((literal(element.key)[1], element.value))
    elif isinstance(table, cst.Call) and last_name(table.func) == "dict":
        pairs = [(one.keyword.value if one.keyword is not None else None, one.value) for one in table.args]
    else:
        raise source.refused(table, f"`{shown(source.text(table))}` is no table of constants")
    edits = []
    for name, value in pairs:
        if name in values:
            edits += _changed(source, value, name, values[name])
        elif not literal(value)[0]:
            raise source.refused(value, f"what {name or 'a constant'} is worth in this Config is not known")
    return edits


def _changed(source: SourceFile, node: cst.BaseExpression, name: str, value: Any) -> list[Edit]:
    is_written, held = literal(node)
    if is_written and same(held, value):
        return []
    return [source.replaced(node, repr(value), f"{name} -> {value}")]


def new_config(name: str, constants: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """`triton.Config({"BLOCK": 64}, num_warps=4, num_stages=2)`; other options where they are not the usual."""
    table = ", ".join(f'"{one}": {value!r}' for one, value in constants.items())
    given = [f"{one}={options.get(one, OPTIONS[one])!r}" for one in ("num_warps", "num_stages")]
    given += [
        f"{one}={options[one]!r}" for one in ("num_ctas", "maxnreg") if options.get(one, OPTIONS[one]) != OPTIONS[one]
    ]
    return f"{name}({{{table}}}, {', '.join(given)})"


def config_name(source: SourceFile, autotune: cst.CSTNode) -> str:
    """What Config is called beside a decorator: `triton.Config` beside `triton.autotune`. Raises NotWritableError."""
    if isinstance(autotune, cst.Call):
        autotune = autotune.func
    if isinstance(autotune, cst.Attribute) and source.text(autotune.value) == "triton":
        return "triton.Config"
    if is_imported(source, "triton"):
        return "triton.Config"
    for statement in source.all(cst.Import):
        for one in statement.names:
            if one.evaluated_name == "triton" and one.evaluated_alias and is_imported(source, one.evaluated_alias):
                return f"{one.evaluated_alias}.Config"
    if is_imported(source, "Config"):
        return "Config"
    raise source.refused(autotune, "there is no name for triton.Config in the file")


def is_imported(source: SourceFile, name: str) -> bool:
    """Whether a file imports something by a name at its top."""
    scope = source.scope(source.module.body[0]) if source.module.body else None
    return scope is not None and any(isinstance(one, ImportAssignment) for one in scope[name])


def _is_config(call: cst.Call) -> bool:
    return last_name(call.func) == "Config"


def _is_spread(call: cst.Call) -> bool:
    return any(one.star for one in call.args)
