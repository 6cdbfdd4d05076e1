"""What the program said of its changed source before that is given out, for people, as JSON and for a module's top."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from fusetune.core.decision import KeepRule
from fusetune.errors import FusetuneError

if TYPE_CHECKING:
    from fusetune.cli.source_trials import SourceTrials
    from fusetune.code.patch.change import Change
    from fusetune.code.patch.plan import Plan
    from fusetune.code.patch.source_file import Sources
    from fusetune.tune.again import AsItIs
    from fusetune.tune.last_word import LastWord, Why
    from fusetune.tune.program import Tuned
    from fusetune.tune.source_again import Source, SourceQuestions

Form = Literal["module", "patch"]
Kernel = tuple[str, str]
"""Its file and its name."""
_WHY: dict[Why, str] = {
    "wrong": "the program's result is wrong with it: {}",
    "slower": "not faster in the program: {}",
    "whole": "the whole takes {}",
}
MOST_AGAIN_S: Final = 20.0
"""A program that takes longer where it runs on the CPU is not run there again with its changed source."""
NOT_ASKED = "the program was not run with it (--no-program-check)"
_TOLD: dict[Form, str] = {"module": "The module", "patch": "The changed files"}


class Question(NamedTuple):
    """How the program is asked: not at all where there is a reason `why_not`.

    `least_gain` is what it has to gain as a whole; None: each kernel's own verdict counts. `tolerance` is what its
    result may be off by beside what its dtype allows. Values that only its source can vary are tried for `budget_s`
    seconds, and have to gain `min_gain` each time.
    """

    why_not: str | None = None
    least_gain: float | None = None
    tolerance: float = 0.0
    limit_s: float | None = None
    budget_s: float = 0.0
    min_gain: float = KeepRule().min_gain


class Decided(NamedTuple):
    """What was decided, as changes that can be left out one by one: what each is of, and the edits of some of them."""

    changes: tuple[tuple[str, ...], ...]
    plan_with: Callable[[Collection[int]], Plan]

    def plan(self) -> Plan:
        """The edits of all of them."""
        return self.plan_with(range(len(self.changes)))


def question_of(
    tuned: Sequence[Tuned],
    *,
    on_gpu: bool,
    wanted: bool,
    least_gain: float | None,
    limit_s: float | None,
    budget_s: float = 0.0,
    min_gain: float = KeepRule().min_gain,
) -> Question | None:
    """What the program is asked of its changed source; None without a GPU, where nothing is timed."""
    from fusetune.tune.again import change_of, is_kept, tolerance_of

    if not on_gpu:
        return None
    if not wanted:
        return Question(why_not=NOT_ASKED)
    tolerance = tolerance_of([change_of(one) for one in tuned if is_kept(one)])
    return Question(None, least_gain, tolerance, limit_s, budget_s, min_gain)


class SourceCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The last word on one form of the changed source, or the sentence that says why there is none.

    `changes` names the kernels of each change that could be left out; those that depend on each other are one. What was
    found by trials of the source is one, too.
    `refused` is why nothing of it is given out, where the program could not say anything. `unlike` is what is wrong
    with the source though none of its launches is changed, as a module that leaves out what the program needs.
    """

    form: Form
    changes: tuple[tuple[str, ...], ...] = ()
    word: LastWord | None = None
    why_not: str | None = None
    refused: str | None = None
    unlike: str | None = None

    def left_out(self) -> set[int]:
        """The numbers of the changes that are not given out."""
        if self.refused is not None or (self.word is not None and self.word.failed is not None):
            return set(range(len(self.changes)))
        return {one.change for one in self.word.reverted} if self.word is not None else set()

    def lines(self) -> list[str]:
        """Sentences for people, each with the form of the source that it is about."""
        return [f"{_TOLD[self.form]}: {line}" for line in self.sentences()]

    def sentences(self) -> list[str]:
        """The same without that, as at the top of a module."""
        unlike = [] if self.unlike is None else [f"it does not give what the program gives: {self.unlike}"]
        if self.refused is not None:
            return [f"no launch is changed: {self.refused}"]
        if self.why_not is not None:
            return [self.why_not]
        return [*(["no launch is changed"] if self.word is None else self._sentences(self.word)), *unlike]

    def _sentences(self, word: LastWord) -> Iterator[str]:
        if word.failed is not None:
            yield f"no launch is changed: the program as it is does not end well when it is run again: {word.failed}"
            return
        if len(self.left_out()) < len(self.changes):
            yield "; ".join(_result_and_time(word))
        else:
            yield "no launch is changed"
        for why, names in self._reasons(word).items():
            yield f"left as before: {', '.join(names)}: {why}"

    def _reasons(self, word: LastWord) -> dict[str, list[str]]:
        """The kernels that are left out, by why."""
        found: dict[str, list[str]] = {}
        for one in word.reverted:
            found.setdefault(_WHY[one.why].format(one.detail), []).extend(self.changes[one.change])
        return found

    def to_builtins(self) -> dict[str, Any]:
        """The same as JSON has it."""
        told: dict[str, Any] = {"changes": [list(names) for names in self.changes]}
        if self.word is not None:
            plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.word))
            left = ("changes", "applied", "launches", "left", "others")  # Of launches, which are not told apart here.
            told |= {name: value for name, value in plain.items() if name not in left}
            told["ratio"] = self.word.ratio
        given_out = len(self.changes) - len(self.left_out())
        return {**told, "given_out": given_out, "why_not": self.refused or self.why_not, "unlike": self.unlike}


def _result_and_time(word: LastWord) -> Iterator[str]:
    if word.right is None:
        yield word.why or "the program's result could not be compared"
    elif word.difference is not None:
        yield f"the program's result is that of before ({word.difference.told()})"
    if word.before_ms and word.after_ms is not None and word.ratio is not None:
        yield f"{word.before_ms:.3g} ms -> {word.after_ms:.3g} ms ({word.ratio:.2f}x)"


@contextmanager
def asking(before: Source, question: Question | None, runs: AsItIs | None = None) -> Iterator[SourceQuestions | None]:
    """What the program, `before` as it is, is asked with of all forms of its source; None where it is asked nothing.

    `runs` are those that there are of it as it is.
    """
    if question is None or question.why_not is not None:
        yield None
        return
    from fusetune.cli.progress import make_progress
    from fusetune.tune.source_again import source_questions

    tolerance, limit_s = question.tolerance, question.limit_s
    with source_questions(before, make_progress(), tolerance=tolerance, limit_s=limit_s, runs=runs) as questions:
        yield questions


def checked(
    form: Form,
    questions: SourceQuestions | None,
    decided: Decided,
    source_of: Callable[[Plan], Source],
    question: Question | None,
) -> tuple[Plan, SourceCheck | None]:
    """What of the changes is given out, and what the program said; nothing without a question.

    `questions` are what `asking` gives for it, and `source_of` what is run with some edits. Where the program cannot be
    asked, nothing is given out. A module is another text than the program even where no launch is changed, and is asked
    about then, too.
    """
    if question is None:
        return decided.plan(), None
    changes = decided.changes
    check = SourceCheck(form=form, changes=changes, why_not=question.why_not)
    if questions is None:
        return decided.plan(), check if changes else None

    def with_changes(numbers: Collection[int]) -> Source:
        return source_of(decided.plan_with(numbers))

    try:
        if changes:
            word = questions.word(len(changes), with_changes, question.least_gain)
            check = msgspec.structs.replace(check, word=word)
        left = set(range(len(changes))) - check.left_out()
        if form == "module" and not left and (check.word is None or check.word.failed is None):
            check = msgspec.structs.replace(check, unlike=questions.unlike(with_changes(())))
    except FusetuneError as error:
        refused = f"the program could not be run with it: {error}"
        check = msgspec.structs.replace(check, refused=refused)
        left = set()
    return decided.plan_with(left), check if changes or form == "module" else None


def checked_by_compiling(
    form: Form, decided: Decided, source_of: Callable[[Plan], Source], target: str, took_s: float
) -> tuple[Plan, SourceCheck | None]:
    """What of predicted changes is given out: the program has to end well with them, its launches compiled alone.

    Nothing is said where it does. Where it does not, no launch is changed, and a module that fails for other reasons
    than these changes says so. One that `took_s` seconds as it is, which are too many, is not run once more.
    """
    from fusetune.tune.again import LEAST_LIMIT_S, LONGER
    from fusetune.tune.source_again import why_it_fails

    changes, plan = decided.changes, decided.plan()
    if form == "patch" and not changes:
        return plan, None
    check = SourceCheck(form=form, changes=changes)
    if took_s > MOST_AGAIN_S:
        why = f"the program was not run with it: without a GPU it takes {took_s:.0f} s"
        return plan, msgspec.structs.replace(check, why_not=why)
    left, limit_s = decided.plan_with(()), LEAST_LIMIT_S + LONGER * took_s
    try:
        failed = why_it_fails(source_of(plan), target, limit_s)
        if failed is None:
            return plan, None
        unlike = why_it_fails(source_of(left), target, limit_s) if form == "module" and changes else None
    except FusetuneError as error:
        return left, msgspec.structs.replace(check, refused=f"the program could not be run with it: {error}")
    if unlike is not None or not changes:
        return left, msgspec.structs.replace(check, changes=(), unlike=f"it fails: {unlike or failed}")
    return left, msgspec.structs.replace(check, refused=f"the program fails with it: {failed}")


def changes_apart(plan: Plan, plan_without: Callable[[Collection[Kernel]], Plan]) -> list[tuple[Kernel, ...]]:
    """The kernels of a plan, each by itself where all of its edits can be made alone; the others are one change.

    Such are kernels that one value feeds: none can have it without the others.
    """
    kernels = list(dict.fromkeys(_kernel(change) for change in plan.made))
    if len(kernels) < 2:
        return [tuple(kernels)] if kernels else []
    apart: list[Kernel] = []
    together: list[Kernel] = []
    for kernel in kernels:
        alone = plan_without([one for one in kernels if one != kernel])
        made = [sum(_kernel(change) == kernel for change in one.made) for one in (plan, alone)]
        (apart if made[0] == made[1] else together).append(kernel)
    return [*((kernel,) for kernel in apart), *([tuple(together)] if together else [])]


def decided_of(
    tuned: Sequence[Tuned], plan_of: Callable[[Sequence[Tuned]], Plan], trials: SourceTrials | None, sources: Sources
) -> Decided:
    """The verdicts, and what trials of the source found, as changes; `plan_of` gives the edits of verdicts."""
    from fusetune.code.patch.plan import joined

    plan = plan_of(tuned)
    kernels = changes_apart(plan, lambda gone: plan_of(without(gone, tuned)))
    names = tuple(tuple(name for _, name in one) for one in kernels)
    found = trials.names() if trials is not None else ()

    def plan_with(numbers: Collection[int]) -> Plan:
        gone = [kernel for number, one in enumerate(kernels) if number not in numbers for kernel in one]
        verdicts = plan if not gone else plan_of(without(gone, tuned))
        with_trials = trials is not None and found and len(kernels) in numbers
        return joined(verdicts, trials.plan, sources) if trials is not None and with_trials else verdicts

    return Decided((*names, *([found] if found else [])), plan_with)


def without(kernels: Collection[Kernel], tuned: Sequence[Tuned]) -> list[Tuned]:
    """The verdicts with those of some kernels as if what runs today stays."""
    return [
        msgspec.structs.replace(one, end="revert") if (one.case.kernel.file, one.case.kernel.name) in kernels else one
        for one in tuned
    ]


def _kernel(change: Change) -> Kernel:
    return (change.launch.kernel_file, change.launch.kernel)
