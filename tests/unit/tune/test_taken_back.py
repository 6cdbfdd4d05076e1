"""What the program does not bear out is `revert` in its file and in its journal, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from fusetune.capture.again import AgainRequest, Ran
from fusetune.capture.applying import Launched
from fusetune.capture.cases import Case, KernelSeen, TensorSeen
from fusetune.capture.programs import Program
from fusetune.capture.results import Difference
from fusetune.core.config import NamedConfig
from fusetune.core.progress import SilentProgress
from fusetune.store.journal import Note, read_run
from fusetune.store.yaml_files import read_config_file
from fusetune.tune import again as module
from fusetune.tune import source_again
from fusetune.tune.again import AsItIs, ask_program, change_of, is_kept, taken_back, tolerance_of
from fusetune.tune.program import Tuned
from fusetune.tune.source_again import Source, source_questions
from tests.support.kept_verdicts import GAIN, H200, kept

BEFORE = NamedConfig(BLOCK=1024, num_warps=8, num_stages=3)
CHOSEN = NamedConfig(BLOCK=256, num_warps=2, num_stages=3)


def case(name: str = "softmax", dtype: str = "float32") -> Case:
    tensor = TensorSeen(dtype, (4, 100), (100, 1), 0, 0, 1600, True)
    return Case(
        kernel=KernelSeen(name, "m", "m.py", 1, "abc"),
        grid=(4,),
        grid_kind="tuple",
        tensors={"x_ptr": tensor},
        values={"n": 100},
        constants={"_BLOCK": 1024, "EVEN": False},
        options={"num_warps": 8},
        before={"num_warps": 8, "num_stages": 3},
    )


def verdict(folder: Path, name: str = "softmax") -> Tuned:
    before, chosen = (NamedConfig(**{"BLOCK_": 1024, **dict(one)}) for one in ({"num_warps": 8}, {"num_warps": 2}))
    return kept(case(name), before, chosen, folder)


def test_a_change_has_the_kernel_s_own_names(tmp_path: Path) -> None:
    change = change_of(verdict(tmp_path))
    assert change.constants == {"_BLOCK": 1024}
    assert change.options == {"num_warps": 2, "num_stages": 2}
    assert change.told() == "softmax with _BLOCK=1024 num_warps=2 num_stages=2"


def test_the_file_and_the_journal_say_that_it_was_taken_back(tmp_path: Path) -> None:
    tuned = kept(case(), BEFORE, CHOSEN, tmp_path)
    assert is_kept(tuned)
    left = taken_back(tuned, "program_result_wrong", "relative error 3.0e-01")
    assert not is_kept(left)
    assert left.why == "the program's own result was wrong with it: relative error 3.0e-01"
    assert tuned.result is not None
    assert tuned.result.file is not None
    file = read_config_file(tuned.result.file)
    (entry,) = file.entries
    assert (entry.config, entry.verdict, entry.reason) == (BEFORE, "revert", "program_result_wrong")
    assert entry.time_us is not None
    assert (entry.time_us.before, entry.time_us.config) == (10.0, 10.0)
    assert entry.gain == GAIN
    assert (file.kernel, file.target) == ("m:softmax", H200)
    assert left.result is not None
    assert left.result.entry == entry
    notes = [record.text for record in read_run(tuned.result.journal) if isinstance(record, Note)]
    assert notes == [f"{BEFORE.label()} stays after all: {left.why}"]


@pytest.mark.parametrize(
    ("dtypes", "allowed"), [(["float32"], 1e-5), (["float32", "bfloat16"], 5e-3), (["int64"], 0.0)]
)
def test_the_tolerance_is_that_of_the_narrowest_floats(dtypes: list[str], allowed: float, tmp_path: Path) -> None:
    found = [change_of(kept(case(f"k{number}", one), BEFORE, CHOSEN, tmp_path)) for number, one in enumerate(dtypes)]
    assert tolerance_of(found) == allowed


class Processes:
    """Answers in the place of FreshProcesses: `second` spoils the result."""

    asked: ClassVar[list[tuple[AgainRequest, float | None]]] = []

    def __init__(self, *, ahead: bool) -> None:
        assert ahead

    def __enter__(self) -> Processes:
        self.asked.clear()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, asked: AgainRequest, limit_s: float | None) -> Ran:
        self.asked.append((asked, limit_s))
        names = {change.case.kernel.name for change in asked.changes}
        if asked.save is not None:
            Path(asked.save).write_text("results")
        wrong = asked.apply and "second" in names
        found = Difference(wrong="2 whole numbers differ in result") if wrong else Difference()
        launched = tuple(Launched(applied=int(asked.apply), us=8.0 if asked.apply else 10.0) for _ in asked.changes)
        difference = None if asked.against is None else found
        return Ran(launched=launched, gives=True, difference=difference, forward_ms=1.0, wall_s=3.0)


def test_only_those_go_that_the_program_objects_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FreshProcesses", Processes)
    reverted = taken_back(verdict(tmp_path, "third"), "program_not_faster", "before")
    tuned = [verdict(tmp_path, "first"), reverted, verdict(tmp_path, "second")]
    left, word = ask_program(Program("script", "a.py"), tuned, SilentProgress())
    assert [one.end for one in left] == ["keep", "revert", "revert"]
    assert left[0] is tuned[0]
    assert left[1] is reverted
    assert word is not None
    assert (word.changes, word.applied, word.right, word.runs) == (2, 1, True, 8)
    (first, first_limit), *others = Processes.asked
    assert (first.apply, first.against, first_limit) == (False, None, None)
    assert first.save is not None
    assert all(asked.against == first.save and asked.save is None for asked, _ in others)
    assert {limit_s for _, limit_s in others} == {75.0}, "another config may hang"
    assert not Path(first.save).exists(), "nothing is left behind"


def test_its_runs_as_it_is_serve_what_is_asked_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FreshProcesses", Processes)
    monkeypatch.setattr(source_again, "FreshProcesses", Processes)
    program, before = Program("script", "a.py"), AsItIs(tmp_path / "before.pt")
    ask_program(program, [verdict(tmp_path)], SilentProgress(), before=before)
    assert [asked.apply for asked, _ in Processes.asked] == [False, True, True, False]
    with source_questions(Source(program), SilentProgress(), runs=before) as questions:
        word = questions.word(1, lambda _: Source(program, {"a.py": b"changed"}))
    assert [bool(asked.texts) for asked, _ in Processes.asked] == [True, True, False], "one before is there already"
    assert {asked.against for asked, _ in Processes.asked} == {str(before.result)}
    assert {limit_s for _, limit_s in Processes.asked} == {75.0}, "of what the program took as it is"
    assert (word.right, word.runs, len(before.runs)) == (True, 3, 3)


def test_a_limit_that_is_given_holds_from_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FreshProcesses", Processes)
    ask_program(Program("script", "a.py"), [verdict(tmp_path)], SilentProgress(), limit_s=20.0)
    assert {limit_s for _, limit_s in Processes.asked} == {20.0}


def test_where_nothing_was_kept_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FreshProcesses", None)
    tuned = [taken_back(verdict(tmp_path), "program_not_faster", "slow")]
    assert ask_program(Program("script", "a.py"), tuned, SilentProgress()) == (tuned, None)
