"""The comments at the top of a module that is handed out: where it comes from, and what was decided of each kernel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import fusetune
from fusetune.core.text import printable

if TYPE_CHECKING:
    from fusetune.capture.cases import Looked
    from fusetune.capture.programs import Program
    from fusetune.cli.source_check import SourceCheck
    from fusetune.cli.source_trials import SourceTrials
    from fusetune.code.patch.plan import Plan
    from fusetune.tune.program import Tuned


def header_of(
    program: Program,
    plan: Plan,
    tuned: Sequence[Tuned],
    looked: Looked,
    check: SourceCheck | None = None,
    trials: SourceTrials | None = None,
) -> list[str]:
    """The comments at the top of a module: where it comes from, what the program said, and each kernel's verdict."""
    from fusetune.cli.wanted import verdict_of
    from fusetune.code.source import LINE_LENGTH

    gpu = looked.gpu or looked.compiled_for
    lines = [f"{Path(program.what).name} after fusetune {fusetune.__version__}, for {gpu}."]
    if looked.gpu is None:
        lines.append("Predicted: compiled for this GPU, and nothing was timed.")
    if check is not None:
        lines += [sentence[:1].upper() + sentence[1:] + "." for sentence in check.sentences()]
    elif not plan.made:
        lines.append("No launch is changed.")
    for verdict, reasons in dict.fromkeys((verdict_of(one), _reasons_of(one)) for one in tuned):
        lines += [verdict, *(f"  {reason}" for reason in reasons)]
    if trials is not None:
        lines += [f"In the source: {sentence}" for sentence in trials.sentences()]
    lines += [f"Not written back: {Path(one.file).name}:{one.line}: {one.text}" for one in plan.findings]
    wrapper = textwrap.TextWrapper(LINE_LENGTH - 2, subsequent_indent="  ", break_on_hyphens=False)
    return [part for line in lines for part in wrapper.wrap(printable(line))]


def _reasons_of(one: Tuned) -> tuple[str, ...]:
    """What a profile says of a case, and what a prediction goes by."""
    from fusetune.cli.explained import reasons

    if one.explanation is not None:
        return tuple(reasons(one.explanation))
    return (f"By the profile: {one.profile.sentence}",) if one.profile is not None else ()
