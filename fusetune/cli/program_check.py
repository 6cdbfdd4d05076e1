"""What the program itself said of the configs that were kept, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from fusetune.errors import FusetuneError

if TYPE_CHECKING:
    from fusetune.capture.programs import Program
    from fusetune.tune.again import AsItIs
    from fusetune.tune.last_word import LastWord
    from fusetune.tune.program import Tuned

NOT_ASKED = "The program was not run again with the new configs (--no-program-check)"
FAILED = "The program was not run again: it failed by itself"
NO_GPU = "The program was not run again: without a GPU nothing was kept"
_SAID_ELSEWHERE = frozenset({FAILED, NO_GPU})
"""Beside the table it is said that no GPU was used, and last of all how the program failed."""


class ProgramCheck(msgspec.Struct, frozen=True):
    """The last word, or the sentence that says why there is none; neither where nothing was kept.

    `troubled`: it was asked, and the machine did not let it answer.
    """

    word: LastWord | None = None
    why_not: str | None = None
    troubled: bool = False

    def says_right(self, program: Program) -> bool:
        """Whether the program itself tells that a launch which nobody tuned is wrong: by its result, or as a test."""
        from fusetune.cli.source_trials import are_its_tests

        word = self.word
        return word is not None and word.failed is None and (word.right is not None or are_its_tests(program))

    def lines(self) -> list[str]:
        """Sentences for people, the first one `The program: ...`."""
        if self.word is None:
            return [] if self.why_not in {None, *_SAID_ELSEWHERE} else [str(self.why_not)]
        return lines_of(self.word)

    def to_builtins(self) -> dict[str, Any] | None:
        """The same as JSON has it; None where nothing was asked."""
        if self.word is None:
            return None if self.why_not is None else {"why_not": self.why_not}
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.word))
        return {**plain, "ratio": self.word.ratio}


def run_again(
    program: Program,
    tuned: Sequence[Tuned],
    *,
    why_not: str | None,
    limit_s: float | None,
    before: AsItIs | None = None,
) -> tuple[list[Tuned], ProgramCheck]:
    """Run the program again with what was kept, unless there is a reason `why_not`; the cases with what is left of it.

    Its runs as it is go into `before`. Trouble in that is told and changes no verdict: what was found out for each
    kernel is written already.
    """
    from fusetune.cli.progress import make_progress
    from fusetune.tune.again import ask_program

    if why_not is not None:
        return list(tuned), ProgramCheck(why_not=why_not)
    try:
        left, word = ask_program(program, tuned, make_progress(), limit_s=limit_s, before=before)
    except FusetuneError as error:
        return list(tuned), ProgramCheck(why_not=f"The program could not be run again: {error}", troubled=True)
    return left, ProgramCheck(word)


def why_not_asked(*, on_gpu: bool, wanted: bool, failed: str | None) -> str | None:
    """The sentence that says why the program is not asked; None where it is."""
    if not on_gpu:
        return NO_GPU
    if failed is not None:
        return FAILED
    return None if wanted else NOT_ASKED


def lines_of(word: LastWord) -> list[str]:
    """`The program: 3 of 3 kept configs applied to 12 launches; result equal ...; 1.34 ms -> 0.91 ms (0.68x)`."""
    if word.failed is not None:
        return [f"The program could not be asked again: as it is, {word.failed}; the verdicts are those of its kernels"]
    kept = word.changes - len(word.reverted)
    parts = [f"{word.applied} of {kept} kept config{'' if kept == 1 else 's'} applied to {_launches(word.launches)}"]
    if not kept:
        parts = ["none of the kept configs stays"]
    elif word.right is None:
        parts.append(word.why or "its result could not be compared")
    elif word.difference is not None:
        parts.append(f"result equal to Before's ({word.difference.told()})")
    if kept and word.before_ms and word.after_ms is not None and word.ratio is not None:
        parts.append(f"{word.before_ms:.3g} ms -> {word.after_ms:.3g} ms ({word.ratio:.2f}x)")
    lines = [f"The program: {'; '.join(parts)}"]
    if word.reverted:
        lines[0] += f"; {len(word.reverted)} of {word.changes} taken back"
    if word.unlike_reference:
        lines.append(f"The program: as it is, its result is not its reference's: {word.unlike_reference}")
    lines += [f"The program: {_launches(count)} ran as they are: {why}" for why, count in word.left.items()]
    if word.others:
        lines.append(
            f"The program: {_launches(word.others)} of the same kernels, with other arguments, ran as they are"
        )
    return lines


def _launches(count: int) -> str:
    from fusetune.report.wording import plural

    return plural(count, "launch")
