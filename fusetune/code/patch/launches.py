"""The edits that give a launch other constants and options: at its own keywords, and where their values come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import libcst as cst

from fusetune.code.patch.assignments import Keys
from fusetune.code.patch.calls import added, launch_call
from fusetune.code.patch.change import OPTIONS, Change, Launched
from fusetune.code.patch.edits import Edit, NotWritableError
from fusetune.code.patch.feeds import check_feeds
from fusetune.code.patch.grid_text import follow_by_hand
from fusetune.code.patch.literals import same
from fusetune.code.patch.places import Resolver
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
    it, as in a trial of the whole program. Raises NotWritableError.
    """
    source = sources.file(change.launch.file)
    call = launch_call(source, change.launch)
    launches = (call, *together)
    edits: list[Edit] = []
    missing: dict[str, Any] = {}
    for name, value in values.items():
        fed = fed_by(source, call, change.launch, name, sources)
        if fed is None:
            missing[name] = value
            continue
        before = change.before.get(name, OPTIONS.get(name))
        place = Resolver(sources, change.launch, before, value).place(source, *fed)
        if same(place.value, value):
            continue
        if not same(place.value, before):
            raise NotWritableError(
                place.file, place.line, f"{name} is {place.value!r} there, and {before!r} is what was launched"
            )
        if name in OPTIONS and place.through:
            # A number of warps that others have, too, may be given here alone: nothing is computed from it.
            try:
                check_feeds(place.through, launches, name)
            except NotWritableError:
                edits.append(source.replaced(fed[0], repr(value), f"{name} {before} -> {value}"))
                continue
        elif not everywhere:
            check_feeds(place.through, launches, name)
        edits.append(place.written(value, name))
        if name in change.launch.follows:
            edits += follow_by_hand(source, call, name, place, change)
    return [*edits, *added(source, call, missing)]


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
