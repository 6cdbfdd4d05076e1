"""The edits that give a launch other constants and options: at its own keywords, and where their values come from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import libcst as cst

from fusetune.code.patch.assignments import Keys
from fusetune.code.patch.calls import added, launch_call
from fusetune.code.patch.change import OPTIONS, Change, Launched
from fusetune.code.patch.edits import Edit, NotWritableError
from fusetune.code.patch.feeds import check_feeds
from fusetune.code.patch.grid_text import follow_by_hand, written_numbers
from fusetune.code.patch.literals import same
from fusetune.code.patch.places import Place, Resolver
from fusetune.code.patch.source_file import SourceFile, Sources, shown

Fed = tuple[cst.BaseExpression, Keys]


def launch_edits(
    change: Change,
    values: Mapping[str, Any],
    sources: Sources,
    together: Collection[cst.Call] = (),
    *,
    everywhere: bool = False,
) -> list[Edit]:
    """The edits that launch with these values instead of the change's `before`.

    `together` are launches that are to have the same values. With `everywhere` what else a value feeds is changed with
    it, and the numbers that may be it in the grid, as in a trial of the whole program. Raises NotWritableError.
    """
    return _Launch(change, sources, together, everywhere=everywhere).edits(values)


class _Launch:
    """One launch whose values are written: first those that were chosen, then it is seen that the others follow."""

    def __init__(self, change: Change, sources: Sources, together: Collection[cst.Call], *, everywhere: bool) -> None:
        self._change, self._launch, self._sources, self._everywhere = change, change.launch, sources, everywhere
        self._source = sources.file(change.launch.file)
        self._call = launch_call(self._source, change.launch)
        self._launches = (self._call, *together)
        self._written: set[str] = set()
        self._fed: set[str] = set()
        self._edits: list[Edit] = []

    def edits(self, values: Mapping[str, Any]) -> list[Edit]:
        following = self._launch.following
        missing = {
            name: value for name, value in values.items() if name not in following and not self._write(name, value)
        }
        for name in following if not self._everywhere else ():
            if self._launch.leads(name) & self._written and name not in {*self._fed, *self._launch.listed}:
                self._follow(name, values.get(name))
        return [*self._edits, *added(self._source, self._call, missing)]

    def _write(self, name: str, value: Any) -> bool:
        """Write a value at its place; False where the launch gives none."""
        fed = fed_by(self._source, self._call, self._launch, name, self._sources)
        if fed is None:
            return False
        before = self._change.before.get(name, OPTIONS.get(name))
        place = Resolver(self._sources, self._launch, before, value).place(self._source, *fed)
        if same(place.value, value):
            return True
        if not same(place.value, before):
            raise NotWritableError(
                place.file, place.line, f"{name} is {place.value!r} there, and {before!r} is what was launched"
            )
        try:
            self._check(name, place)
        except NotWritableError:
            if name not in OPTIONS or not place.through or fed[1]:
                raise
            # A number of warps that others have, too, may be given here alone: nothing is computed from it.
            self._edits.append(self._source.replaced(fed[0], repr(value), f"{name} {before} -> {value}"))
            return True
        self._written.add(name)
        self._edits.append(place.written(value, name))
        if self._everywhere and name not in OPTIONS:
            self._edits += written_numbers(self._source, self._call, name, place, value)
        elif name in self._launch.follows:
            self._edits += follow_by_hand(self._source, self._call, name, place, self._change)
        return True

    def _follow(self, name: str, value: Any) -> None:
        """Write a constant that follows where the source has a number of its own; None where it is no constant."""
        if value is None or not self._write(name, value):
            leads = ", ".join(sorted(self._launch.leads(name)))
            raise self._source.refused(self._call, f"{name} follows {leads}, and where it is computed is not clear")

    def _check(self, name: str, place: Place) -> None:
        """Raise NotWritableError where a place feeds more than this value and what follows it."""
        if self._everywhere and name not in OPTIONS:
            return
        reached = check_feeds(place.through, self._launches, name)
        for given in dict.fromkeys(one for node in reached for one in self._given(node)):
            if name in self._launch.leads(given):
                self._fed.add(given)
            elif given != name and not self._is_alike(given, name):
                told = f"what {name} is given feeds {given}, too, which is to stay as it is"
                raise self._source.refused(self._call, told)

    def _given(self, node: cst.CSTNode) -> Iterator[str]:
        """The parameter or option of the launch that an expression is part of; none of its grid."""
        for number, argument in enumerate(self._call.args):
            if argument.star or not self._source.inside(node, argument):
                continue
            names = self._launch.parameters[number : number + 1]
            name = argument.keyword.value if argument.keyword is not None else "".join(names)
            if name not in {"grid", "warmup"}:
                yield name

    def _is_alike(self, one: str, other: str) -> bool:
        """Whether two constants were one number, and are to be one again."""
        change = self._change
        both = one in change.wanted and other in change.wanted
        was = same(change.before.get(one), change.before.get(other))
        return both and was and same(change.wanted[one], change.wanted[other])


def fed_by(source: SourceFile, call: cst.Call, launch: Launched, name: str, sources: Sources) -> Fed | None:
    """The expression that a launch gives a parameter or an option, and the keys asked of it; None where there is none.

    Raises NotWritableError where that is not clear.
    """
    spread: list[cst.BaseExpression] = []
    for number, argument in enumerate(call.args):
        if argument.keyword is not None and argument.keyword.value == name:
            return argument.value, ()
        if argument.star == "**":
            spread.append(argument.value)
        elif argument.star == "*":
            if name in launch.parameters[number:]:
                raise source.refused(argument, f"{name} may be one of `{shown(source.text(argument))}`")
        elif argument.keyword is None and launch.parameters[number : number + 1] == (name,):
            return argument.value, ()
    refusals = []
    for table in spread:
        try:
            Resolver(sources, launch).place(source, table, (name,))
        except NotWritableError as error:
            refusals.append(error)
        else:
            return table, (name,)
    if refusals and (name not in OPTIONS or name in launch.given):
        raise refusals[0]
    return None
