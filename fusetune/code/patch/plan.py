"""Changes of launches as edits of files: each whole or not at all, with a sentence where it is not."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import libcst as cst
import msgspec

from fusetune.code.patch.autotuned import autotune_edits
from fusetune.code.patch.calls import launch_call
from fusetune.code.patch.change import OPTIONS, Change, Launched
from fusetune.code.patch.comments import COMMENT, comment_edit
from fusetune.code.patch.config_lists import MOST_TRIED, decorator, kernel_definition, list_edits
from fusetune.code.patch.edits import Edit, Finding, NotWritableError, distinct, spliced
from fusetune.code.patch.heuristics import heuristic_edits, names_computed
from fusetune.code.patch.launches import launch_edits
from fusetune.code.patch.looked_up import is_looked_up, lookup_edits
from fusetune.code.patch.source_file import SourceFile, Sources
from fusetune.units import format_us

WORTH: Final = 0.98
"""What suits several cases, and is the best of none, has to leave so much of their time at most."""


class FilePatch(msgspec.Struct, frozen=True):
    """One file before and after its edits."""

    file: str
    before: bytes
    after: bytes
    edits: tuple[Edit, ...]


class Plan(msgspec.Struct, frozen=True):
    """What is written where. `made` are the changes that are in it, `findings` say what is not, and why."""

    files: tuple[FilePatch, ...]
    made: tuple[Change, ...]
    findings: tuple[Finding, ...]


def planned(
    changes: Sequence[Change], sources: Sources | None = None, *, everywhere: bool = False, asked: bool = True
) -> Plan:
    """The edits of the changes, those of the most time first. A change that cannot be written whole is a finding.

    With `everywhere` a value is changed at its place whatever else it feeds, for a trial of the whole program. Unless
    the program is to be `asked` for its time, nothing is in them that no verdict has chosen.
    """
    sources = sources or Sources()
    findings: list[Finding] = []
    made: list[Change] = []
    edits: list[Edit] = []
    found = _of_each_place(changes, findings, asked=asked)
    wanted = [one for one in found if one.changed() or one.tried or one.looks_up]
    for change in wanted:
        alike = [one.launch for one in wanted if one.chosen() == change.chosen() and one is not change]
        try:
            own = change_edits(change, sources, alike, everywhere=everywhere)
            edits = _together(edits, own, sources)
        except NotWritableError as error:
            findings.append(_of_whole(change, error.finding))
        else:
            made += [change] if own else []
    files = dict.fromkeys(edit.file for edit in edits)
    patches = [_patched(file, [edit for edit in edits if edit.file == file], sources) for file in files]
    return Plan(tuple(patches), tuple(made), tuple(dict.fromkeys(findings)))


def joined(plan: Plan, more: Plan, sources: Sources) -> Plan:
    """Two plans as one; where both comment on a statement, one comment follows the other.

    Raises NotWritableError where they want different things of a place.
    """
    edits = [edit for one in plan.files for edit in one.edits]
    for edit in (edit for one in more.files for edit in one.edits):
        same = [one for one in edits if (one.file, one.start, one.length) == (edit.file, edit.start, edit.length)]
        if edit.what == COMMENT and same and same[0].what == COMMENT and same[0].text != edit.text:
            edits[edits.index(same[0])] = msgspec.structs.replace(edit, text=same[0].text + edit.text)
        else:
            edits = _together(edits, [edit], sources)
    files = dict.fromkeys(edit.file for edit in edits)
    patches = [_patched(file, distinct([edit for edit in edits if edit.file == file]), sources) for file in files]
    findings = dict.fromkeys((*plan.findings, *more.findings))
    return Plan(tuple(patches), (*plan.made, *more.made), tuple(findings))


def change_edits(
    change: Change, sources: Sources, alike: Sequence[Launched] = (), *, everywhere: bool = False
) -> list[Edit]:
    """The edits of one change, its comment among them; none where the source says what is wanted already.

    `alike` are launches that are to have the same values. Raises NotWritableError.
    """
    changed = change.changed()
    together = _calls(alike, change.launch.file, sources)
    held, kernel = _kernel(change.launch, sources)
    autotune = decorator(kernel, "autotune") if kernel is not None else None
    heuristics = decorator(kernel, "heuristics") if kernel is not None else None
    edits: list[Edit] = []
    computed = names_computed(held, heuristics, change.launch.computed) if held is not None else set()
    given = {name: value for name, value in changed.items() if name in computed}
    if given:
        if held is None or heuristics is None:
            raise _not_there(change.launch, f"the heuristics of {', '.join(given)}")
        edits += heuristic_edits(held, heuristics, given, change.before)
    rest = {name: value for name, value in changed.items() if name not in computed}
    listed = {*change.launch.listed, *OPTIONS}
    if autotune is not None and held is not None:
        if change.looks_up or is_looked_up(held, autotune):
            edits += lookup_edits(held, autotune)
        elif change.tried or rest.keys() & listed:
            edits += list_edits(held, autotune, change)
        rest = {name: value for name, value in rest.items() if name not in listed}
    elif change.launch.listed:
        raise _not_there(change.launch, "the list of configs")
    elif change.tried:
        if held is None or kernel is None:
            raise _not_there(change.launch, "the kernel's source")
        edits += autotune_edits(held, kernel, change, sources)
        alone = {name for name in rest if len({repr(one.get(name)) for one in change.tried}) == 1}
        rest = {name: value for name, value in rest.items() if name in alone and name not in OPTIONS}
    edits += launch_edits(change, rest, sources, together, everywhere=everywhere)
    if edits and change.comment:
        comment = _comment(change, held, kernel, edits, sources)
        here = next((one for one in edits if (one.file, one.start) == (comment.file, comment.end)), None)
        if here is None:
            edits.append(comment)
        else:  # Two edits cannot begin at one byte.
            both = msgspec.structs.replace(
                here, start=comment.start, length=comment.length + here.length, text=comment.text + here.text
            )
            edits[edits.index(here)] = both
    return edits


def _of_whole(change: Change, finding: Finding) -> Finding:
    """The finding, with all that goes with it: a part of a config was measured with the rest, and never alone."""
    if len(change.chosen()) < 2:
        return finding
    told = f"{finding.text}; a config is written whole or not at all, here {change.describe()}"
    return msgspec.structs.replace(finding, text=told)


def _comment(
    change: Change, held: SourceFile | None, kernel: cst.FunctionDef | None, edits: Sequence[Edit], sources: Sources
) -> Edit:
    """Above the decorators, where these say what is launched; else above the launch."""
    if held is not None and kernel is not None and kernel.decorators:
        begin, end = held.start(kernel.decorators[0]), held.start(kernel.name)
        above = [edit for edit in edits if edit.file == held.file and begin <= edit.start < end]
        if above:
            return comment_edit(held, kernel.decorators[0], change.comment)
    source = sources.file(change.launch.file)
    return comment_edit(source, launch_call(source, change.launch), change.comment)


def _kernel(launch: Launched, sources: Sources) -> tuple[SourceFile | None, cst.FunctionDef | None]:
    """The kernel's definition; none where its file is not to be edited or does not have it, as a generated one."""
    try:
        held = sources.file(launch.kernel_file)
        return held, kernel_definition(held, launch.kernel_line, launch.kernel)
    except NotWritableError:
        if launch.listed or launch.computed:
            raise
        return None, None


def _not_there(launch: Launched, what: str) -> NotWritableError:
    return NotWritableError(
        launch.kernel_file, launch.kernel_line, f"{what} does not stand above {launch.kernel}: give it there"
    )


def _calls(alike: Sequence[Launched], file: str, sources: Sources) -> list[cst.Call]:
    source = sources.file(file)
    return [launch_call(source, one) for one in alike if one.file == file]


def _of_each_place(changes: Sequence[Change], findings: list[Finding], *, asked: bool) -> list[Change]:
    """One change for each place; none where there is none that suits all cases that are launched there."""
    places: dict[Any, list[Change]] = {}
    for change in sorted(changes, key=lambda one: -one.us):
        launch = change.launch
        listed = (launch.kernel_file, launch.kernel_line)
        places.setdefault(listed if launch.listed else (launch.file, launch.line, launch.column), []).append(change)
    found = []
    for group in places.values():
        heaviest = next((one for one in group if one.changed()), group[0])
        looking = next((one for one in group if one.looks_up), None)
        if looking is not None:  # each case then has its own
            found.append(looking)
            continue
        if heaviest.launch.listed and any(one.tried for one in group):
            found.append(_to_choose_from(heaviest, group))
            continue
        if len(group) > 1 and _choose_among_options(group):
            several = _options_of_all(group)
            if several is not None:
                found.append(several)
                continue
            launch = heaviest.launch
            why = "run more configs than an autotuner is given"
            if len({one.restored for one in group}) > 1:
                why = "change other tensors in place"
            told = f"{launch.kernel} is left as it is: its {len(group)} cases {why}"
            findings.append(Finding(launch.file, launch.line, told))
            continue
        values = _values_at_place(heaviest)
        against = next((one for one in group if _share(one, values) is None), None)
        written: Change | None = heaviest
        if against is not None:
            written = (_for_all(heaviest, group) or _chosen_by_each(heaviest, group)) if asked else None
        if against is None or written is not None:
            found.append(written or heaviest)
            continue
        launch = heaviest.launch
        told = against.describe() or "what runs"
        if against.untuned:
            told = "was not tuned, so that nothing says what is right there; --share 1 tunes more of them"
        findings.append(
            Finding(
                launch.file,
                launch.line,
                f"{launch.kernel} is left as it is: one case wants {heaviest.describe()}, and another one {told}",
            )
        )
    return found


def _to_choose_from(heaviest: Change, group: Sequence[Change]) -> Change:
    """One list for all cases of an autotuned kernel: what each wants, those of the most time first, and BASELINE."""
    best = [one.tried[0] if one.tried else one.before for one in group]
    others = [values for one in group for values in one.tried]
    safe = next(one.tried[-1] for one in group if one.tried)
    names = [name for name in heaviest.launch.listed if name in heaviest.wanted]
    kept = _distinct([*best, *others], safe, names)[: MOST_TRIED - 1]
    return msgspec.structs.replace(heaviest, tried=(*kept, safe))


def _choose_among_options(group: Sequence[Change]) -> bool:
    """Whether cases of a place are to choose, as predicted, and among options alone: constants stay each case's own."""
    constants = [
        one.get(name) == value
        for change in group
        for one in change.tried
        for name, value in change.before.items()
        if name not in OPTIONS
    ]
    return any(one.tried for one in group) and all(constants) and not any(one.changed() for one in group)


def _options_of_all(group: Sequence[Change]) -> Change | None:
    """One list for all cases of a kernel that has none: what each runs with, what is to be tried, and BASELINE.

    None where what they run with is more than an autotuner is left with: one of them would lose it. Nor is there one
    where another of them has no tensor that a trial would have to give back.
    """
    if len({one.restored for one in group}) > 1:
        return None
    first = next(one for one in group if one.tried)
    safe = first.tried[-1]
    needed = _distinct([one.before for one in group if not one.stays], safe, OPTIONS)
    if len(needed) > MOST_TRIED - 1:
        return None
    kept = _distinct([*needed, *(values for one in group for values in one.tried)], safe, OPTIONS)[: MOST_TRIED - 1]
    own = [{**first.before, **{name: values.get(name, usual) for name, usual in OPTIONS.items()}} for values in kept]
    return msgspec.structs.replace(first, tried=(*own, safe))


def _distinct(
    configs: Sequence[Mapping[str, Any]], safe: Mapping[str, Any], names: Collection[str]
) -> list[Mapping[str, Any]]:
    """The configs that differ in these names, from one another and from the safe one."""
    kept: list[Mapping[str, Any]] = []
    for values in configs:
        if not any(all(one.get(name) == values.get(name) for name in names) for one in (*kept, safe)):
            kept.append(values)
    return kept


def _values_at_place(change: Change) -> dict[str, Any]:
    """What every launch of a place gets with a change: all that a list of configs gives, else what is changed."""
    listed = {name: change.wanted[name] for name in change.launch.listed if name in change.wanted}
    return {**(listed if change.changed() else {}), **change.chosen()}


def _share(change: Change, values: Mapping[str, Any]) -> float | None:
    """The time of a case with values over what it is; None where they are not what it wants nor found right for it."""
    merged, following = {**change.before, **values}, change.launch.following
    for one in change.accepts:
        if all(merged.get(name) == value for name, value in one.values.items() if name not in following):
            return one.share
    wants = all(change.wanted.get(name) == value for name, value in values.items())
    return 1.0 if wants and change.chosen().keys() <= values.keys() else None


def _for_all(heaviest: Change, group: Sequence[Change]) -> Change | None:
    """What takes the cases of a place the least time together, of all that is right and no slower in each of them.

    None where that gains too little, or where each case is to choose among configs by itself. It rests on short
    samples: whoever writes it asks the program.
    """
    if any(one.tried for one in group):
        return None
    now = sum(one.us for one in group)
    best, least = None, WORTH * now
    for accepted in heaviest.accepts:
        change = msgspec.structs.replace(heaviest, wanted={**heaviest.wanted, **accepted.values})
        values = _values_at_place(change)
        shares = [_share(one, values) for one in group] if change.chosen() else [None]
        total = sum(one.us * share for one, share in zip(group, shares, strict=False) if share is not None)
        if None not in shares and total < least:
            best, least = change, total
    if best is None:
        return None
    comment = (
        f"{best.describe()}: for the {len(group)} cases of this launch, whose best ones differ.",
        f"By short samples {format_us(least)} together, was {format_us(now)}; none is slower.",
        *heaviest.comment[-1:],
    )
    return msgspec.structs.replace(best, comment=comment if heaviest.comment else ())


def _chosen_by_each(heaviest: Change, group: Sequence[Change]) -> Change | None:
    """The autotuner's list with what each case is to have, and BASELINE, where no config is right for all of them.

    None where its kernel has no list, where one of the cases is not known well enough, or wants what no list gives, and
    where they want more than an autotuner is left with. Whoever writes it asks the program.
    """
    listed = heaviest.launch.listed
    if not listed or any(not one.choice for one in group):
        return None
    names, safe = [name for name in (*listed, *OPTIONS) if name in heaviest.wanted], heaviest.choice[-1]
    if any(set(one.chosen()) - set(names) for one in group):
        return None
    kept = _distinct([one.choice[0] for one in group], safe, names)
    if not 1 <= len(kept) < MOST_TRIED:
        return None
    own = [{**heaviest.wanted, **{name: values.get(name) for name in names}} for values in kept]
    comment = (f"for the {len(group)} cases of this kernel, whose best ones differ; the first of them:",)
    return msgspec.structs.replace(
        heaviest, tried=(*own, safe), comment=(*comment, *heaviest.comment) if heaviest.comment else ()
    )


def _together(edits: Collection[Edit], more: Collection[Edit], sources: Sources) -> list[Edit]:
    """All edits, where the files are Python with them. Raises NotWritableError."""
    found = distinct([*edits, *more])
    for file in {edit.file for edit in more if edit.file.endswith(".py")}:
        own = [edit for edit in found if edit.file == file]
        try:
            ast.parse(spliced(sources.data(file), own))
        except SyntaxError as error:
            raise NotWritableError(
                file, error.lineno or 1, "the change would be no Python; write it by hand"
            ) from error
    return found


def _patched(file: str, edits: list[Edit], sources: Sources) -> FilePatch:
    data = sources.data(file)
    return FilePatch(file, data, spliced(data, edits), tuple(edits))
