"""What else a name feeds: where it is read beside the launch, so that a change there would change more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import libcst as cst
from libcst.metadata import Assignment

from fusetune.code.patch.assignments import Asked, Keys, Named, named, passed
from fusetune.code.patch.literals import literal
from fusetune.code.patch.places import attributes_like
from fusetune.code.patch.source_file import SourceFile, last_name, shown


def check_feeds(through: Sequence[Named], launches: Collection[cst.Call], what: str) -> list[cst.CSTNode]:
    """Raise NotWritableError where one of these names feeds more than the launches and their grids.

    `what` is what the value is called at the launch. Returns the places in the launches that it comes to.
    """
    check = _Check(launches, what)
    for one in through:
        check.all(one)
    return check.reached


class _Check:
    def __init__(self, launches: Collection[cst.Call], what: str) -> None:
        self._launches, self._what = launches, what
        self._seen: set[tuple[int, Keys]] = set()
        self.reached: list[cst.CSTNode] = []

    def all(self, one: Named) -> None:
        for node in one.read:
            if (id(node), one.keys) not in self._seen:
                self._seen.add((id(node), one.keys))
                self._reading(one.source, node, one.keys)

    def _reading(self, source: SourceFile, node: cst.CSTNode, keys: Keys) -> None:
        """One place where a name is read; what is asked of it has `keys` left."""
        asked = _asked(source, node, keys)
        if asked is None:
            return  # Another key of the same table.
        node, keys = asked
        if any(source.inside(node, call) for call in self._launches):
            self.reached.append(node)
            return
        if _asks_for_none(source, node):
            return
        function = next((one for one in source.above(node) if isinstance(one, cst.FunctionDef)), None)
        if function is not None and not any(source.inside(call, function) for call in self._launches):
            if not self._only_launches_read(source, function):
                raise self._refused(source, node)
            return
        follower = self._follower(source, node, keys)
        if follower is None:
            raise self._refused(source, node)
        self.all(follower)

    def _only_launches_read(self, source: SourceFile, function: cst.FunctionDef) -> bool:
        """Whether a function is a grid of the launches, and nothing else's."""
        scope = source.scope(function)
        held = [one for one in (scope[function.name.value] if scope is not None else ()) if _node(one) is function]
        read = [node for one in held for node in named(source, one).read]
        return bool(read) and all(any(source.inside(node, call) for call in self._launches) for node in read)

    def _follower(self, source: SourceFile, node: cst.CSTNode, keys: Keys) -> Named | None:
        """The name that takes over what is read here; None where something else does."""
        inner = node
        for above in source.above(node):
            left = keys if inner is node else ()
            target = _assigned_to(above)
            if target is not None:
                return _target(source, target, inner, left)
            if isinstance(above, cst.Call) and isinstance(inner, cst.Arg):
                found = self._parameter(source, above, inner)
                if found is not None or last_name(above.func) not in _ARITHMETIC:
                    return None if found is None else found._replace(keys=keys if inner.value is node else ())
            if isinstance(above, cst.BaseSmallStatement | cst.BaseCompoundStatement | cst.Comparison):
                break
            inner = above
        return None

    def _parameter(self, source: SourceFile, call: cst.Call, argument: cst.Arg) -> Named | None:
        """The parameter that a call gives a value to, of a function that the launches stand in."""
        for launch in self._launches:
            for function in (one for one in source.above(launch) if isinstance(one, cst.FunctionDef)):
                if function.name.value != last_name(call.func):
                    continue
                for one in (*function.params.posonly_params, *function.params.params, *function.params.kwonly_params):
                    if passed(call, function, one.name.value) is argument.value:
                        return _target(source, one.name, argument, ())
        return None

    def _refused(self, source: SourceFile, node: cst.CSTNode) -> Exception:
        statement = next(
            (one for one in source.above(node) if isinstance(one, cst.BaseSmallStatement | cst.BaseCompoundStatement)),
            node,
        )
        return source.refused(node, f"what {self._what} is given feeds `{shown(source.text(statement))}`, too")


_ARITHMETIC: Final = frozenset(
    {"cdiv", "ceil_div", "ceildiv", "div_up", "div_ceil", "ceil", "min", "max", "int", "abs", "next_power_of_2", "dict"}
)
"""Calls that give a number, or a table of such; any other one may make a tensor of that size."""


def _asks_for_none(source: SourceFile, node: cst.CSTNode) -> bool:
    """Whether `x is None` is all that is asked of a value."""
    above = source.parent(node)
    if not isinstance(above, cst.Comparison) or len(above.comparisons) != 1:
        return False
    asked = above.comparisons[0]
    is_none = isinstance(asked.comparator, cst.Name) and asked.comparator.value == "None"
    return is_none and isinstance(asked.operator, cst.Is | cst.IsNot)


def _asked(source: SourceFile, node: cst.CSTNode, keys: Keys) -> tuple[cst.CSTNode, Keys] | None:
    """The outermost part that asks keys of what is read, and the keys that are left; None where it asks for others."""
    while keys:
        above = source.parent(node)
        if isinstance(above, cst.Subscript) and above.value is node:
            index = above.slice[0].slice
            is_written, key = literal(index.value) if isinstance(index, cst.Index) else (False, None)
            node = above
        elif isinstance(above, cst.Attribute) and above.value is node and isinstance(keys[0], Asked):
            if above.attr.value != keys[0].attribute:
                return None
            node, is_written, key = above, False, None
        elif isinstance(above, cst.Attribute) and above.value is node and above.attr.value in {"get", "copy"}:
            call = source.parent(above)
            if not isinstance(call, cst.Call):
                break
            node = call
            if above.attr.value == "copy":
                continue
            is_written, key = literal(call.args[0].value) if call.args else (False, None)
        else:
            break
        if is_written and key != keys[0]:
            return None
        keys = keys[1:]
    return node, keys


def _assigned_to(node: cst.CSTNode) -> cst.CSTNode | None:
    """What a statement assigns to, or a default is of; None of anything else."""
    if isinstance(node, cst.Assign) and len(node.targets) == 1:
        return node.targets[0].target
    if isinstance(node, cst.AnnAssign | cst.NamedExpr):
        return node.target
    return node.name if isinstance(node, cst.Param) else None


def _target(source: SourceFile, target: cst.CSTNode, inner: cst.CSTNode, keys: Keys) -> Named | None:
    """The name that a value is assigned to, with the places that read it."""
    if isinstance(target, cst.Attribute):
        return Named(source, target.attr.value, tuple(attributes_like(source, target)), keys)
    if isinstance(target, cst.Tuple | cst.List) and isinstance(inner, cst.Tuple | cst.List):
        return None
    if not isinstance(target, cst.Name):
        return None
    scope = source.scope_of_target(target)
    read: list[cst.CSTNode] = []
    for one in scope[target.value] if scope is not None else ():
        node = _node(one)
        if node is target or (isinstance(node, cst.Param) and node.name is target):
            read += named(source, one).read
    return Named(source, target.value, tuple(read), keys)


def _node(assignment: object) -> cst.CSTNode | None:
    return assignment.node if isinstance(assignment, Assignment) else None
