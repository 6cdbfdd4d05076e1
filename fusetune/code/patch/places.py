"""Where a value that a launch is given is written: the one place in the source that it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import libcst as cst
from libcst.metadata import Assignment, BaseAssignment, ImportAssignment

from fusetune.code.patch.assignments import (
    Asked,
    Keys,
    Named,
    also_assigned,
    assignment_of,
    calls_of,
    named,
    passed,
    value_assigned,
)
from fusetune.code.patch.change import OPTIONS, Launched
from fusetune.code.patch.conditions import branch, condition
from fusetune.code.patch.edits import Edit, NotWritableError
from fusetune.code.patch.json_files import JsonValue, json_values
from fusetune.code.patch.literals import literal, unwrapped, worth
from fusetune.code.patch.source_file import SourceFile, Sources, last_name, shown

_JSON: Final = re.compile(r"""["']([^"'\n]+\.json)["']""")
_DEEPEST: Final = 12


class Place(NamedTuple):
    """A value's one place. `through` are the names on the way to it; none where it stands at the launch itself.

    A computed one has `around`: what stands before and behind its value, so that it counts under a condition alone.
    """

    file: str
    start: int
    length: int
    line: int
    value: Any
    through: tuple[Named, ...]
    around: tuple[str, str] | None = None

    def written(self, value: Any, name: str) -> Edit:
        """The edit that writes another value there."""
        text = json.dumps(value) if self.file.endswith(".json") else repr(value)
        if self.around is not None:
            text = text.join(self.around)
        return Edit(self.file, self.start, self.length, text, self.line, f"{name} {self.value} -> {value}")


class Resolver:
    """Follows expressions of one launch to where their values are written.

    `before` is what the value is, `wanted` what it is to be: a cap of it, as in `min(n, 64)`, is its place only where
    it stays what counts.
    """

    def __init__(self, sources: Sources, launch: Launched, before: Any = None, wanted: Any = None) -> None:
        self._sources, self._launch, self._before, self._wanted = sources, launch, before, wanted

    def place(self, source: SourceFile, node: cst.BaseExpression, keys: Keys = (), depth: int = 0) -> Place:
        """The place of what an expression is worth, or of what it has at `keys`. Raises NotWritableError."""
        node = unwrapped(node)
        if depth > _DEEPEST:
            raise source.refused(node, f"`{shown(source.text(node))}` comes from too many places")
        if not keys:
            is_written, value = literal(node)
            if is_written:
                start = source.start(node)
                return Place(source.file, start, source.end(node) - start, source.line(node), value, ())
        if isinstance(node, cst.Name):
            return self._of_name(source, node, keys, depth)
        if isinstance(node, cst.Subscript):
            return self.place(source, node.value, (self._key(source, node), *keys), depth + 1)
        return self._of_value(source, node, keys, depth)

    def _of_value(self, source: SourceFile, node: cst.BaseExpression, keys: Keys, depth: int) -> Place:
        if keys and isinstance(node, cst.Dict):
            return self._of_dict(source, node, keys, depth)
        if keys and isinstance(node, cst.List | cst.Tuple) and type(keys[0]) is int:
            return self._of_list(source, node, keys, depth)
        if isinstance(node, cst.Call):
            return self._of_call(source, node, keys, depth)
        if isinstance(node, cst.Attribute):
            return self._of_attribute(source, node, keys, depth)
        if isinstance(node, cst.IfExp) and (taken := branch(source, node, self._launch)) is not None:
            return self.place(source, taken, keys, depth + 1)
        return self._computed(source, node, keys)

    def _computed(self, source: SourceFile, node: cst.BaseExpression, keys: Keys) -> Place:
        """The whole expression, for the sizes that it was computed from."""
        holds = condition(source, node, self._launch, self._before) if not keys else None
        if holds is None:
            raise source.refused(node, f"`{shown(source.text(node))}` is computed, so there is no value to write")
        start, text = source.start(node), source.text(node)
        before, behind = "", f" if {holds} else {text}"
        above = source.parent(node)
        if isinstance(above, cst.IfExp) and above.orelse is not node and not node.lpar:
            # Else it would be asked first, and hold where the other side is meant.
            before, behind = "(", f"{behind})"
        return Place(source.file, start, len(text.encode()), source.line(node), self._before, (), (before, behind))

    def _of_name(self, source: SourceFile, node: cst.Name, keys: Keys, depth: int) -> Place:
        assignment = assignment_of(source, node)
        if isinstance(assignment, ImportAssignment):
            found = self._imported(source, node, assignment, keys, depth)
        else:
            found = self._assigned(source, node, assignment, keys, depth)
        return found._replace(through=(named(source, assignment, keys), *found.through))

    def _assigned(
        self, source: SourceFile, node: cst.Name, assignment: BaseAssignment, keys: Keys, depth: int
    ) -> Place:
        target = assignment.node if isinstance(assignment, Assignment) else None
        if isinstance(target, cst.Param):
            return self._of_parameter(source, target, keys, depth)
        value = value_assigned(source, target) if target is not None else None
        if value is None:
            raise source.refused(target or node, f"{node.value} is not assigned a value by itself")
        return self.place(source, value, keys, depth + 1)

    def _imported(
        self, source: SourceFile, node: cst.Name, assignment: ImportAssignment, keys: Keys, depth: int
    ) -> Place:
        statement = assignment.node
        other = None
        if isinstance(statement, cst.ImportFrom) and not isinstance(statement.names, cst.ImportStar):
            name = next(one.name for one in statement.names if _bound(one) == node.value)
            module = cst.Module([]).code_for_node(statement.module) if statement.module else ""
            matching = [name for name in self._launch.modules if f".{name}".endswith(f".{module}")]
            # Two that end alike, as `settings` and `program.settings`, would leave it to a guess.
            if len(matching) == 1 and isinstance(name, cst.Name):
                other = self._launch.modules[matching[0]]
        if other is None:
            raise source.refused(statement, f"{node.value} is imported from elsewhere")
        held = self._sources.file(other)
        found = [one for one in held.all(cst.Name) if one.value == last_name(name) and _is_top_target(held, one)]
        if len(found) != 1:
            raise source.refused(statement, f"{node.value} is assigned in {len(found)} places of {other}")
        inner = assignment_of(held, found[0])
        place = self._assigned(held, found[0], inner, keys, depth + 1)
        others = self._elsewhere(source, held, matching[0], found[0].value, keys)
        return place._replace(through=(named(held, inner, keys), *others, *place.through))

    def _elsewhere(self, source: SourceFile, held: SourceFile, module: str, name: str, keys: Keys) -> Iterator[Named]:
        """Where the program's other modules have a name of one of them, too, and `module.name` in the file itself."""
        for file in dict.fromkeys((source.file, *self._launch.modules.values())):
            if file == held.file:
                continue
            other = self._sources.file(file)
            asked = [one for one in other.all(cst.Attribute) if _is_of_module(one, module, name)]
            yield Named(other, name, tuple(asked), keys)
            if file != source.file:
                yield from _brought(other, module, name, keys)

    def _of_parameter(self, source: SourceFile, parameter: cst.Param, keys: Keys, depth: int) -> Place:
        """The default, where no call in the file gives another; else what the one call gives."""
        function = next(one for one in source.above(parameter) if isinstance(one, cst.FunctionDef | cst.Lambda))
        name = parameter.name.value
        calls = list(calls_of(source, function)) if isinstance(function, cst.FunctionDef) else []
        given = [(call, passed(call, function, name)) for call in calls if isinstance(function, cst.FunctionDef)]
        explicit = [(call, value) for call, value in given if value is not None]
        if explicit and len(explicit) == len(given) == 1:
            return self.place(source, explicit[0][1], keys, depth + 1)
        if parameter.default is not None and not explicit:
            return self.place(source, parameter.default, keys, depth + 1)
        lines = ", ".join(str(source.line(call)) for call, _ in given) or "none in the file"
        raise source.refused(parameter, f"its callers give {name}: line {lines}")

    def _of_dict(self, source: SourceFile, node: cst.Dict, keys: Keys, depth: int) -> Place:
        found = []
        for element in node.elements:
            if not isinstance(element, cst.DictElement):
                raise source.refused(node, f"`{shown(source.text(node))}` is made of others")
            is_written, key = literal(element.key)
            if is_written and key == keys[0]:
                found.append(element.value)
        if len(found) != 1:
            raise source.refused(node, f"`{shown(source.text(node))}` does not say {keys[0]!r} once")
        return self.place(source, found[0], keys[1:], depth + 1)

    def _of_list(self, source: SourceFile, node: cst.List | cst.Tuple, keys: Keys, depth: int) -> Place:
        elements = [one.value for one in node.elements]
        starred = any(isinstance(one, cst.StarredElement) for one in node.elements)
        if starred or not -len(elements) <= keys[0] < len(elements):
            raise source.refused(node, f"`{shown(source.text(node))}` has no element {keys[0]}")
        return self.place(source, elements[keys[0]], keys[1:], depth + 1)

    def _of_call(self, source: SourceFile, node: cst.Call, keys: Keys, depth: int) -> Place:
        if keys and isinstance(keys[0], Asked):
            return self._of_config(source, node, keys[0], keys[1:], depth)
        if not keys and last_name(node.func) in {"min", "max", "next_power_of_2"}:
            return self._of_bound(source, node, depth)
        if keys and isinstance(node.func, cst.Name) and node.func.value == "dict":
            given = [one.value for one in node.args if one.keyword is not None and one.keyword.value == keys[0]]
            if len(given) == 1:
                return self.place(source, given[0], keys[1:], depth + 1)
        called = node.func.attr.value if isinstance(node.func, cst.Attribute) else ""
        if called in {"get", "copy"} and bool(node.args) == (called == "get"):
            own = (self._folded(source, node.args[0].value),) if node.args else ()
            return self.place(source, cst.ensure_type(node.func, cst.Attribute).value, (*own, *keys), depth + 1)
        if keys and last_name(node.func) in {"load", "loads"} and source.text(node.func).startswith("json."):
            return self._of_json(source, node, keys)
        return self._computed(source, node, keys)

    def _of_config(self, source: SourceFile, node: cst.Call, asked: Asked, keys: Keys, depth: int) -> Place:
        """What `config.kwargs` and `config.num_warps` are of a Config that the program itself takes values from."""
        for name, one in zip(("kwargs", *OPTIONS), node.args, strict=False):
            given = one.keyword.value if one.keyword is not None else name
            if last_name(node.func) == "Config" and asked.attribute == given:
                return self.place(source, one.value, keys, depth + 1)
        raise source.refused(node, f"`{shown(source.text(node))}` does not say {asked.attribute}")

    def _of_bound(self, source: SourceFile, node: cst.Call, depth: int) -> Place:
        """The 64 in `min(n, 64)`, where it is what counts and would be after the change."""
        kind = last_name(node.func)
        for one in node.args:
            try:
                found = self.place(source, one.value, (), depth + 1)
            except NotWritableError:
                continue
            others = [worth(other.value, self._launch.names) for other in node.args if other is not one]
            if found.around is not None:
                continue
            if found.value in {self._before, self._wanted} and self._counts(kind, others):
                return found
        return self._computed(source, node, ())

    def _counts(self, kind: str, others: Sequence[int | None]) -> bool:
        """Whether a bound is what a value comes to, now and with what is wanted; what is not known counts for now."""
        if type(self._before) is not int or type(self._wanted) is not int:
            return False
        if kind == "next_power_of_2":
            return self._wanted > 0 and self._wanted & (self._wanted - 1) == 0
        if kind == "min":
            return self._wanted <= self._before or all(one is not None and one >= self._wanted for one in others)
        return self._wanted >= self._before or all(one is not None and one <= self._wanted for one in others)

    def _of_json(self, source: SourceFile, node: cst.Call, keys: Keys) -> Place:
        """The value in the one JSON file that is named in the file of Python."""
        names = dict.fromkeys(_JSON.findall(source.data.decode()))
        folders = (Path(source.file).parent, Path.cwd())
        files = list(
            dict.fromkeys(str(path) for name in names for folder in folders if (path := folder / name).is_file())
        )
        holding: list[tuple[str, JsonValue]] = []
        for file in files[:10]:
            value = json_values(file, self._sources.data(file)).get(keys)
            if value is not None:
                holding.append((file, value))
        if len(holding) != 1:
            raise source.refused(node, f"which JSON file has {'.'.join(map(str, keys))} is not clear")
        file, value = holding[0]
        return Place(file, *value, ())

    def _of_attribute(self, source: SourceFile, node: cst.Attribute, keys: Keys, depth: int) -> Place:
        """What the one `self.name = ...` of a class assigns, or its body; else what a Config has."""
        if node.attr.value in {"kwargs", *OPTIONS} and source.text(node.value) not in {"self", "cls"}:
            return self.place(source, node.value, (Asked(node.attr.value), *keys), depth + 1)
        targets = list(_assigned_attributes(source, node))
        if len(targets) != 1:
            text = source.text(node)
            raise source.refused(node, f"`{shown(text)}` is assigned in {len(targets)} places of its class")
        ((target, value),) = targets
        found = self.place(source, value, keys, depth + 1)
        read = (*attributes_like(source, node), *also_assigned(source, target))
        own = Named(source, node.attr.value, read, keys)
        return found._replace(through=(own, *found.through))

    def _key(self, source: SourceFile, node: cst.Subscript) -> Any:
        if len(node.slice) != 1 or not isinstance(node.slice[0].slice, cst.Index):
            raise source.refused(node, f"`{shown(source.text(node))}` is computed, so there is no value to write")
        return self._folded(source, node.slice[0].slice.value)

    def _folded(self, source: SourceFile, node: cst.BaseExpression) -> Any:
        """What a key is worth: written out, or a name that had a plain value at the launch."""
        is_written, value = literal(node)
        if is_written:
            return value
        if isinstance(node, cst.Name) and node.value in self._launch.names:
            return self._launch.names[node.value]
        raise source.refused(node, f"the key `{shown(source.text(node))}` is computed")


def _is_top_target(source: SourceFile, node: cst.Name) -> bool:
    assigned = value_assigned(source, node) is not None
    return assigned and not any(isinstance(one, cst.FunctionDef | cst.ClassDef) for one in source.above(node))


def _is_of_module(node: cst.Attribute, module: str, name: str) -> bool:
    return node.attr.value == name and last_name(node.value) == module.rpartition(".")[2]


def _brought(source: SourceFile, module: str, name: str, keys: Keys) -> Iterator[Named]:
    """What a file reads of a name that it imports from a module."""
    for statement in source.all(cst.ImportFrom):
        said = cst.Module([]).code_for_node(statement.module) if statement.module else ""
        if not f".{module}".endswith(f".{said}"):
            continue
        if isinstance(statement.names, cst.ImportStar):
            yield Named(source, name, tuple(one for one in source.all(cst.Name) if one.value == name), keys)
            continue
        scope = source.scope(statement)
        bound = [_bound(one) for one in statement.names if last_name(one.name) == name]
        assigned = (one for each in bound if scope is not None for one in scope[each])
        yield from (named(source, one, keys) for one in assigned)


def _bound(alias: cst.ImportAlias) -> str:
    held = alias.asname.name if alias.asname is not None else alias.name
    return last_name(held)


def _assigned_attributes(
    source: SourceFile, node: cst.Attribute
) -> Iterator[tuple[cst.AssignTarget, cst.BaseExpression]]:
    """Where `self.name` is assigned in the class that an expression stands in, or `name` in its body, and what."""
    owner = next((one for one in source.above(node) if isinstance(one, cst.ClassDef)), None)
    if owner is None or not isinstance(node.value, cst.Name) or node.value.value not in {"self", "cls"}:
        return
    for one in source.all(cst.AssignTarget, owner):
        target, statement = one.target, source.parent(one)
        at_self = isinstance(target, cst.Attribute) and source.text(target) == f"self.{node.attr.value}"
        in_body = isinstance(target, cst.Name) and target.value == node.attr.value
        in_body = in_body and next(_functions(source, one), None) is None
        if (at_self or in_body) and isinstance(statement, cst.Assign):
            yield one, statement.value


def _functions(source: SourceFile, node: cst.CSTNode) -> Iterator[cst.FunctionDef]:
    """The functions around a part, up to its class."""
    for one in source.above(node):
        if isinstance(one, cst.ClassDef):
            return
        if isinstance(one, cst.FunctionDef):
            yield one


def attributes_like(source: SourceFile, node: cst.Attribute) -> Sequence[cst.Attribute]:
    """The places of a file that read an attribute of one name, whoever has it."""
    return [
        one
        for one in source.all(cst.Attribute)
        if one.attr.value == node.attr.value and not isinstance(source.parent(one), cst.AssignTarget)
    ]
