"""Numbers in the program's source that only running it again can tell of: where they stand, and what they feed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import structs

from fusetune.capture.cases import Case, KnobSeen
from fusetune.cli.wanted import before_of, launched_of, values_of
from fusetune.code.patch.change import Change
from fusetune.code.patch.comments import COMMENT
from fusetune.code.patch.edits import Edit, NotWritableError
from fusetune.code.patch.plan import Plan, change_edits
from fusetune.code.patch.source_file import Sources
from fusetune.tune.program import Tuned

Constants = tuple[str, ...]
_WRONG: Final = frozenset({"wrong_result", "nan"})
_ALONE: Final = "other kernels have the same value, and others were wrong for one of them alone"


class SourceKnob(NamedTuple):
    """One number, with the launches whose constants have it.

    `file` and `line` are where the first of these has it from; `why` is what keeps it at a launch alone. `fed` has each
    change that leaves all as it is, with the constants that the number is of.
    """

    value: int
    file: str
    line: int
    why: str
    fed: tuple[tuple[Change, Constants], ...]

    def label(self) -> str:
        """`BLOCK of quantise, dequantise`."""
        kernels = dict.fromkeys(change.launch.kernel for change, _ in self.fed)
        names = dict.fromkeys(name for _, constants in self.fed for name in constants)
        return f"{', '.join(names)} of {', '.join(kernels)}"

    def changes(self, value: int, comment: Sequence[str] = ()) -> list[Change]:
        """The changes that give it another value, each with a comment."""
        return [
            structs.replace(change, wanted={**change.wanted, **dict.fromkeys(constants, value)}, comment=tuple(comment))
            for change, constants in self.fed
        ]


def source_knobs(tuned: Sequence[Tuned], plan: Plan, sources: Sources) -> list[SourceKnob]:
    """The numbers to try other values for, those of the most time first; none that the plan writes.

    It is what the program alone keeps at a launch, and what may vary there and feeds something else as well. Numbers
    that cannot be changed apart are one. Last come tiles of one value that several kernels have, each by itself, where
    others were wrong for one of them alone: what one makes in blocks, the next may take in the same blocks.
    """
    written = [edit for patch in plan.files for edit in patch.edits if edit.what != COMMENT]
    groups: list[_Group] = []
    tied: dict[int, _Group] = {}
    for one in sorted(tuned, key=lambda each: -(each.case.us or 0.0)):
        for knob, change, edits, is_alone in _of_case(one.case, sources):
            group = _Group(knob, edits[0], {_place(edit) for edit in edits})
            if any(_meet(edit, other) for edit in edits for other in written):
                continue
            group.add(change, [knob.name])
            if is_alone:
                if _WRONG & one.failures.keys():
                    tied[knob.value] = tied[knob.value].with_all_of(group) if knob.value in tied else group
                continue
            for other in [each for each in groups if each.places & group.places]:
                groups.remove(other)
                group = other.with_all_of(group)
            groups.append(group)
    taken = {place for group in groups for place in group.places}
    together = [group for group in tied.values() if group.kernels() > 1 and not group.places & taken]
    return [group.knob() for group in [*groups, *together]]


class _Group:
    """What one number comes to be, on the way there."""

    def __init__(self, knob: KnobSeen, first: Edit, places: set[tuple[str, int]]) -> None:
        self._knob, self._first, self.places = knob, first, places
        self._fed: list[tuple[Change, list[str]]] = []

    def add(self, change: Change, names: Collection[str]) -> None:
        """A launch that it feeds, and the constants there."""
        for one, constants in self._fed:
            if one == change:
                constants += [name for name in names if name not in constants]
                return
        self._fed.append((change, list(names)))

    def with_all_of(self, other: _Group) -> _Group:
        """What both have, as one."""
        self.places |= other.places
        for change, names in other._fed:
            self.add(change, names)
        return self

    def kernels(self) -> int:
        """How many it feeds."""
        return len({(change.launch.kernel_file, change.launch.kernel) for change, _ in self._fed})

    def knob(self) -> SourceKnob:
        """What was found."""
        fed = tuple((change, tuple(names)) for change, names in self._fed)
        return SourceKnob(self._knob.value, self._first.file, self._first.line, self._knob.reason, fed)


def _of_case(case: Case, sources: Sources) -> Iterator[tuple[KnobSeen, Change, Sequence[Edit], bool]]:
    """The constants of a case that come from a number in the source, and whether that can be changed for it alone."""
    site = case.site
    if site is None:
        return
    before = before_of(case)
    change = Change(launched_of(case, site), before, before, us=case.us or 0.0)
    for knob in case.knobs:
        if knob.name not in case.constants or type(knob.value) is not int or knob.value < 2:
            continue
        elsewhere = {*site.listed, *site.computed, *site.following}
        if knob.name in elsewhere or not (knob.varies or knob.again):
            continue
        trial = structs.replace(change, wanted={**before, knob.name: 2 * knob.value})
        why = knob.reason if knob.again else _why_not_alone(trial, sources)
        try:
            edits = change_edits(trial, sources, everywhere=True)
        except NotWritableError:
            continue
        if edits:
            yield structs.replace(knob, reason=why or _ALONE), change, edits, why is None


def _why_not_alone(change: Change, sources: Sources) -> str | None:
    """Why a change cannot be written for its launch alone; None where it can."""
    try:
        change_edits(change, sources)
    except NotWritableError as error:
        return error.finding.text
    return None


def _place(edit: Edit) -> tuple[str, int]:
    return edit.file, edit.start


def _meet(one: Edit, other: Edit) -> bool:
    """Whether two edits change some byte both."""
    return one.file == other.file and one.start < max(other.end, other.start + 1) and other.start < one.end


def proposed_for(knob: SourceKnob, tuned: Sequence[Tuned]) -> list[int]:
    """The values that the kernels of a number were fastest with by themselves, the most time first."""
    kernels = {change.launch.kernel: constants for change, constants in knob.fed}
    found: dict[int, None] = {}
    for one in sorted(tuned, key=lambda each: -(each.case.us or 0.0)):
        if one.end == "keep" and one.result is not None and one.case.kernel.name in kernels:
            wanted = values_of(one, one.result.entry.config)
            values = {wanted[name] for name in kernels[one.case.kernel.name] if type(wanted.get(name)) is int}
            found |= dict.fromkeys(values - {knob.value} if len(values) == 1 else ())
    return list(found)


def values_told(values: Mapping[int, int], knobs: Sequence[SourceKnob]) -> str:
    """`BLOCK 32 -> 1024 of partial_sums`, each value that is another one."""
    return ", ".join(_change_told(knobs[number], value) for number, value in sorted(values.items()))


def _change_told(knob: SourceKnob, value: int) -> str:
    names, _, kernels = knob.label().partition(" of ")
    return f"{names} {knob.value} -> {value} of {kernels}"


def to_builtins(knob: SourceKnob) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "kernels": list(dict.fromkeys(change.launch.kernel for change, _ in knob.fed)),
        "constants": list(dict.fromkeys(name for _, constants in knob.fed for name in constants)),
        "file": knob.file,
        "line": knob.line,
        "value": knob.value,
        "why": knob.why,
    }
