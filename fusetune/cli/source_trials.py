"""Other values for what only the source can vary: the trials of `fusetune tune`, for people, as JSON and as edits."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusetune.cli.source_knobs import SourceKnob, proposed_for, source_knobs, to_builtins, values_told
from fusetune.code.patch.edits import NotWritableError
from fusetune.code.patch.plan import Plan, joined, planned
from fusetune.code.patch.source_file import Sources
from fusetune.core.text import printable
from fusetune.errors import FusetuneError
from fusetune.units import format_gain, format_interval, format_us

if TYPE_CHECKING:
    from fusetune.capture.programs import Program
    from fusetune.tune.program import Tuned
    from fusetune.tune.source_again import Source
    from fusetune.tune.source_trials import Searched, Values

_TESTS: Final = frozenset({"pytest", "unittest"})
"""Modules that end well only where what they run is right."""
_WIDTH: Final = 90
"""Of a comment, behind its mark."""
_NOTHING: Final = Plan((), (), ())


class SourceTrials(NamedTuple):
    """The numbers that were tried, what came of it, and the edits with what is given out.

    `searched` is None where the program could not be run, and `failed` says why.
    """

    knobs: tuple[SourceKnob, ...]
    searched: Searched | None
    plan: Plan = _NOTHING
    failed: str | None = None

    def names(self) -> tuple[str, ...]:
        """What the edits change."""
        if self.searched is None or not self.plan.files:
            return ()
        return (values_told(self.searched.chosen, self.knobs),)

    def lines(self) -> list[str]:
        """Sentences for people."""
        return [f"In the source: {sentence}" for sentence in self.sentences()]

    def sentences(self) -> Iterator[str]:
        """The same without that, as at the top of a module."""
        searched = self.searched
        if searched is None or searched.why_not is not None:
            why = self.failed if searched is None else searched.why_not
            yield f"no other value was tried of {_labels(self.knobs)}: {why}"
            return
        if searched.chosen:
            yield " ".join(comment_of(searched, self.knobs))
        elif searched.best:
            yield f"{values_told(searched.best, self.knobs)} is left as before: {searched.not_kept}"
        tried = [knob for knob, trials in zip(self.knobs, searched.tried, strict=True) if trials]
        stay = [knob for number, knob in enumerate(self.knobs) if knob in tried and number not in searched.best]
        left = [knob for knob in self.knobs if knob not in tried]
        if stay:
            yield f"{_labels(stay)}: no other value that was tried is right and faster in the program"
        if left:
            yield f"no time was left to try {_labels(left)} (--source-budget)"

    def to_builtins(self) -> dict[str, Any]:
        """The same as JSON has it."""
        import msgspec

        found: dict[str, Any] = {"why_not": self.failed, "knobs": [to_builtins(knob) for knob in self.knobs]}
        if self.searched is None:
            return found
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.searched))
        for number, (knob, tried) in enumerate(zip(found["knobs"], plain.pop("tried"), strict=False)):
            chosen = self.searched.chosen.get(number)
            knob |= {"tried": tried, "chosen": knob["value"] if chosen is None else chosen}
        return {**found, **{name: value for name, value in plain.items() if name not in {"best", "chosen"}}}


def are_its_tests(program: Program) -> bool:
    """Whether a program ends well only where its results are right."""
    return program.kind == "module" and program.what in _TESTS


def try_sources(
    program: Program,
    tuned: Sequence[Tuned],
    plan: Plan,
    sources: Sources,
    source_of: Callable[[Plan], Source],
    *,
    budget_s: float,
    min_gain: float,
    limit_s: float | None,
    gpu: str | None,
) -> SourceTrials | None:
    """What runs of the program with other values in its source come to, beside the edits of `plan`.

    None where there is nothing to try. `source_of` gives what is run with some edits.
    """
    from fusetune.capture.changes import as_it_ran
    from fusetune.cli.progress import make_progress
    from fusetune.tune.again import tolerance_of
    from fusetune.tune.source_again import search_source

    knobs = tuple(source_knobs(tuned, plan, sources))
    if not knobs or budget_s <= 0:
        return None
    are_tests = are_its_tests(program)
    if program.kind in {"script", "module"} and not are_tests:
        return SourceTrials(knobs, None, failed="the program gives nothing to compare a trial with")

    def plan_with(values: Values, comment: Sequence[str] = ()) -> Plan:
        changes = [change for number, value in values.items() for change in knobs[number].changes(value, comment)]
        return planned(changes, sources, everywhere=True)

    def source_with(values: Values) -> Source:
        return source_of(joined(plan, plan_with(values), sources))

    try:
        searched = search_source(
            [knob.value for knob in knobs],
            source_with,
            make_progress(),
            budget_s=budget_s,
            min_gain=min_gain,
            tolerance=tolerance_of([as_it_ran(one.case) for one in tuned]),
            ends_tell=are_tests,
            proposed=[proposed_for(knob, tuned) for knob in knobs],
            limit_s=limit_s,
        )
        if not searched.chosen:
            return SourceTrials(knobs, searched)
        comment = [part for line in comment_of(searched, knobs, gpu) for part in textwrap.wrap(printable(line), _WIDTH)]
        chosen = plan_with(searched.chosen, comment)
        joined(plan, chosen, sources)
    except NotWritableError as error:
        return SourceTrials(knobs, None, failed=error.finding.told())
    except FusetuneError as error:
        return SourceTrials(knobs, None, failed=f"the program could not be run: {error}")
    return SourceTrials(knobs, searched, chosen)


def comment_of(searched: Searched, knobs: Sequence[SourceKnob], gpu: str | None = None) -> list[str]:
    """What was measured of what is given out, on which GPU, against what."""
    from fusetune.tune.request import today

    gain = searched.gain
    assert gain is not None, "what is given out was measured"
    assert searched.before_ms is not None, "so were the times"
    assert searched.after_ms is not None, "so were the times"
    lines = [
        f"{values_told(searched.chosen, knobs)}.",
        f"The program takes {format_us(1e3 * searched.after_ms)} with it, was {format_us(1e3 * searched.before_ms)}.",
        f"Gain {format_gain(gain.median)} in {format_interval(gain.low, gain.high)} at {gain.confidence * 100:g} %, "
        f"{gain.blocks} pairs of runs.",
    ]
    return [*lines, f"{gpu}, {today()}."] if gpu else lines


def _labels(knobs: Sequence[SourceKnob]) -> str:
    return "; ".join(f"{knob.label()}, {knob.value}" for knob in knobs)
