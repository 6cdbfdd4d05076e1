"""After the cases of a program: the program again with what was kept, and what it does not bear out is taken back."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from msgspec import structs

from fusetune.capture.again import FreshProcesses, Ran, request_of
from fusetune.capture.cases import Case
from fusetune.capture.changes import Change
from fusetune.capture.oracle import FROBENIUS, TENSOR_CORES, multiplies
from fusetune.capture.programs import Program
from fusetune.capture.results import Difference
from fusetune.core.decision import REASON_TEXT, Reason
from fusetune.core.progress import Progress
from fusetune.ops.naming import value_name
from fusetune.store.journal import JournalWriter, Note
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file, write_entry
from fusetune.tune.last_word import LastWord, Why, last_word
from fusetune.tune.program import Tuned

LEAST_LIMIT_S: Final = 60.0
LONGER: Final = 5.0
"""A run may take so many seconds and so many times as long as the program as it is, where no limit is given."""
Texts = Mapping[str, bytes]
"""Of files, by their paths."""
_REASONS: Final[dict[Why, Reason]] = {
    "wrong": "program_result_wrong",
    "slower": "program_not_faster",
    "whole": "program_not_faster",
}


class AsItIs:
    """A program's runs as it is, in their order: they serve all that is asked about it, since each costs seconds.

    The first one ended well; what it gave lies in the file `result`, and all other runs are compared with that.
    """

    def __init__(self, result: Path) -> None:
        self.result = result
        self.runs: list[Ran] = []

    def add(self, ran: Ran) -> None:
        """One more; a first one that failed is none."""
        if self.runs or ran.failed is None:
            self.runs.append(ran)

    def limit_s(self, least_s: float) -> float | None:
        """How long another run may take, by how long the first one took; None before there is one."""
        return least_s + LONGER * self.runs[0].wall_s if self.runs else None

    def reference(self) -> Difference | None:
        """How far the program as it is lies off its own reference, where that is known."""
        return self.runs[0].reference if self.runs else None


@contextmanager
def as_it_is() -> Iterator[AsItIs]:
    """With a place for the first one's result, which is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="fusetune-result-") as folder:
        yield AsItIs(Path(folder, "before.pt"))


@contextmanager
def all_asked() -> Iterator[AsItIs]:
    """While it lasts, what a program is asked shares its runs as it is, and the process that waits for the next one."""
    with FreshProcesses.handed_on(), as_it_is() as before:
        yield before


def ask_program(
    program: Program,
    tuned: Sequence[Tuned],
    progress: Progress,
    *,
    limit_s: float | None = None,
    before: AsItIs | None = None,
) -> tuple[list[Tuned], LastWord | None]:
    """What is left of the verdicts once the program was run again with all configs that were kept, and what it said.

    Its runs as it is go into `before`, for what it is asked later. An entry that it does not bear out becomes `revert`
    in its file, and its journal says why. Without a kept config nothing is run, and there is nothing said. Raises
    MachineError where no process could be started, and ConfigFileError where a file cannot be written.
    """
    kept = [number for number, one in enumerate(tuned) if is_kept(one)]
    if not kept:
        return list(tuned), None
    changes = [change_of(tuned[number]) for number in kept]
    with (
        as_it_is() if before is None else nullcontext(before) as own,
        progress.phase("Running the program again, as it is and with the new configs"),
        FreshProcesses(ahead=True) as processes,
    ):
        runner = _ProgramRunner(ProgramRuns(processes, own, limit_s), program, changes, held_of(tuned))
        word = last_word(len(changes), runner, tolerance_of(changes))
    left = list(tuned)
    for one in word.reverted:
        number = kept[one.change]
        left[number] = taken_back(tuned[number], _REASONS[one.why], one.detail)
    return left, word


def is_kept(tuned: Tuned) -> bool:
    """Whether a case is to run with another config than today."""
    return tuned.end == "keep" and tuned.result is not None and tuned.result.entry.config != tuned.before


def change_of(tuned: Tuned) -> Change:
    """The kept config of a case, constants by the kernel's own names."""
    assert tuned.result is not None, "what was kept has a result"
    config = tuned.result.entry.config
    names = {value_name(name): name for name in tuned.case.constants}
    constants = {names[name]: value for name, value in config.constants().items() if name in names}
    return Change(tuned.case, constants, config.options())


def held_of(tuned: Sequence[Tuned]) -> tuple[Case, ...]:
    """The cases that an autotuner launched, whose choice is not made again."""
    return tuple(one.case for one in tuned if one.case.proposals)


def tolerance_of(changes: Sequence[Change]) -> float:
    """The relative error that another order of the kernels' sums may come to, by the dtypes of their tensors."""
    found = [0.0]
    for change in changes:
        found += [FROBENIUS[one.dtype] for one in change.case.tensors.values() if one.dtype in FROBENIUS]
        if change.case.kept is not None and multiplies(Path(change.case.kept)):
            found.append(TENSOR_CORES)
    return max(found)


class ProgramRuns:
    """Runs of one program in fresh processes; all but the first one as it is are compared with that one's result.

    Without a limit, that follows from how long that one takes, and is `least_s` at least: with another config a program
    may hang.
    """

    def __init__(
        self, processes: FreshProcesses, before: AsItIs, limit_s: float | None, *, least_s: float = LEAST_LIMIT_S
    ) -> None:
        self._processes, self._before, self._limit_s, self._least_s = processes, before, limit_s, least_s

    @property
    def befores(self) -> Sequence[Ran]:
        """Those of the program as it is, whoever asked for them."""
        return self._before.runs

    def as_it_is(
        self, program: Program, changes: Sequence[Change] = (), *, held: Sequence[Case] = (), texts: Texts | None = None
    ) -> Ran:
        """Run it as it is, and look at the launches that changes are of; autotuners take what the held ran."""
        ran = self._run(program, changes, apply=False, held=held, texts=texts)
        self._before.add(ran)
        return ran

    def changed(
        self, program: Program, changes: Sequence[Change] = (), *, held: Sequence[Case] = (), texts: Texts | None = None
    ) -> Ran:
        """Run it with changes of its launches, or with other texts of its files."""
        return self._run(program, changes, apply=bool(changes), held=held, texts=texts)

    def _run(
        self, program: Program, changes: Sequence[Change], *, apply: bool, held: Sequence[Case], texts: Texts | None
    ) -> Ran:
        there = self._before.result.exists()
        save, against = (None, self._before.result) if there else (self._before.result, None)
        known = self._before.reference() if there else None
        asked = request_of(
            program, changes, apply=apply, save=save, against=against, held=held, texts=texts, reference=known
        )
        limit_s = self._before.limit_s(self._least_s) if self._limit_s is None else self._limit_s
        return self._processes.run(asked, limit_s)


class _ProgramRunner:
    """Runs a program with configs in the place of its launches' own."""

    def __init__(self, runs: ProgramRuns, program: Program, changes: Sequence[Change], held: Sequence[Case]) -> None:
        self._runs, self._program, self._changes, self._held = runs, program, tuple(changes), held

    def before(self) -> Ran:
        """See Runner."""
        return self._runs.as_it_is(self._program, self._changes, held=self._held)

    def after(self, changes: Collection[int]) -> Ran:
        """See Runner."""
        asked = [self._changes[number] for number in changes]
        return self._runs.changed(self._program, asked, held=self._held)


def taken_back(tuned: Tuned, reason: Reason, detail: str) -> Tuned:
    """The case with what ran before as its verdict, in its file and in its run's journal, too."""
    result = tuned.result
    assert result is not None, "what was kept has a result"
    entry, why = reverted_entry(result.entry, tuned, reason), f"{REASON_TEXT[reason]}: {detail}"
    if result.file is not None:
        file = read_config_file(result.file)
        write_entry(result.file, file.op, file.target, entry)
    if result.journal.is_file():
        with JournalWriter(result.journal, resume=True) as journal:
            journal.write(Note(f"{entry.config.label()} stays after all: {why}"))
    return structs.replace(tuned, end="revert", why=why, result=structs.replace(result, entry=entry))


def reverted_entry(entry: Entry, tuned: Tuned, reason: Reason) -> Entry:
    """The entry with Before as its config, the gains those of what was kept at first."""
    times = entry.time_us
    before = tuned.before
    assert times is not None, "a measured entry has times"
    assert before is not None, "what was tuned ran before"
    stays = times.reference
    return structs.replace(
        entry,
        config=before,
        verdict="revert",
        reason=reason,
        time_us=structs.replace(times, config=stays) if stays is not None else times,
        library=None,
    )
