"""What the program says of its changed source decides what is given out, and is told on top of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.cases import KernelSeen, Looked
from fusetune.capture.programs import Program
from fusetune.capture.results import Difference
from fusetune.cli import source_check
from fusetune.cli.program_check import ProgramCheck
from fusetune.cli.source_check import NOT_ASKED, Question, SourceCheck, changes_apart, question_of
from fusetune.cli.tune import exit_code
from fusetune.cli.tuned_code import Code, Outputs, code_of, hand_out, plan_of
from fusetune.code.patch.plan import Plan
from fusetune.core.config import NamedConfig
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_WRONG_RESULT, MachineError
from fusetune.tune import source_again
from fusetune.tune.last_word import LastWord, Reverted
from fusetune.tune.request import Ranked
from fusetune.tune.source_again import Source
from tests.unit.cli.test_wanted import BEFORE, BEST, SOURCE, case_of, tuned_of

ASKED = Question(least_gain=0.02)


def word(*reverted: Reverted, count: int = 1, **fields: Any) -> LastWord:
    usual: dict[str, Any] = {"right": True, "difference": Difference(), "before_ms": 2.0, "after_ms": 1.0, "runs": 4}
    return LastWord(**{"changes": count, **usual, "reverted": reverted, **fields})


class Asked:
    """Stands in for `source_questions`: says what it is given, and notes the sources that it is asked about.

    `unchanged` is said of what is to change nothing.
    """

    def __init__(self, said: LastWord | Exception, unchanged: str | None = None) -> None:
        self.said, self.unchanged = said, unchanged
        self.sources: list[Source] = []
        self.least_gains: list[float | None] = []

    @contextmanager
    def __call__(self, before: Source, progress: Any, **_: Any) -> Iterator[Asked]:
        self.before = before
        yield self

    def word(
        self, count: int, source_with: Callable[[Collection[int]], Source], least_gain: float | None = None
    ) -> LastWord:
        self.sources.append(source_with(range(count)))
        self.least_gains.append(least_gain)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def unlike(self, source: Source) -> str | None:
        self.sources.append(source)
        return self.unchanged


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "current.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def given_out(
    monkeypatch: pytest.MonkeyPatch, file: Path, said: LastWord | Exception, question: Question | None = ASKED
) -> tuple[Code, str, str, Asked]:
    """The code of one kernel's kept config, its diff and its module."""
    asked = Asked(said)
    monkeypatch.setattr(source_again, "source_questions", asked)
    tuned = [tuned_of(case_of(file))]
    looked, program = Looked((tuned[0].case,), gpu="NVIDIA H200"), Program("model", str(file), reference="ref.py")
    outputs = Outputs(file.with_name("optimized.py"), Path("configs"), diff=True, apply=True, autotune=False)
    code = code_of(outputs, program, tuned, looked, question)
    diff = hand_out(outputs, program, tuned, looked, code, quiet=True)
    return code, diff, file.with_name("optimized.py").read_text(encoding="utf-8"), asked


def test_a_module_that_is_there_stays_whole_where_another_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    made = file.with_name("optimized.py")
    made.write_text("# of yesterday\n", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MachineError, match=r"optimized\.py could not be written"):
        given_out(monkeypatch, file, word())
    assert made.read_text(encoding="utf-8") == "# of yesterday\n"
    assert sorted(path.name for path in file.parent.iterdir()) == ["current.py", "optimized.py"]


def test_what_is_run_is_the_module_beside_the_inputs_and_the_files_as_they_would_be(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    code, diff, module, asked = given_out(monkeypatch, file, word())
    of_module, of_patch = asked.sources
    made = str(file.with_name("optimized.py"))
    assert of_module.program == Program("model", made, reference="ref.py")
    code_alone = [line for line in module.splitlines() if not line.startswith("#")]
    assert [line for line in of_module.texts[made].decode().splitlines() if not line.startswith("#")] == code_alone
    assert of_patch.program == Program("model", str(file), reference="ref.py")
    assert of_patch.texts == {str(file): file.read_bytes()}, "by now it is applied"
    assert asked.least_gains == [0.02, 0.02]
    assert "num_warps=8" in module
    assert "num_warps=8" in diff
    assert "# The program's result is that of before (max error 0); 2 ms -> 1 ms (0.50x).\n" in module
    assert code.lines()[1] == "The changed files: the program's result is that of before (max error 0); " + (
        "2 ms -> 1 ms (0.50x)"
    )
    told = code.to_builtins()
    assert (told["patch"]["given_out"], told["module"]["ratio"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            word(Reverted(0, "whole", "2 ms as it is, 1.99 ms with it: +0.5 %, and it has to gain 2 %")),
            "left as before: double: the whole takes 2 ms as it is, 1.99 ms with it: +0.5 %, and it has to gain 2 %",
        ),
        (
            word(Reverted(0, "wrong", "relative error 3.0e-01")),
            "left as before: double: the program's result is wrong with it: relative error 3.0e-01",
        ),
        (LastWord(changes=1, failed="OSError: gone"), "does not end well when it is run again: OSError: gone"),
        (MachineError("no process could be started"), "could not be run with it: no process could be started"),
    ],
)
def test_what_the_program_does_not_bear_out_comes_out_as_it_was_and_says_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, file: Path, said: LastWord | Exception, why: str
) -> None:
    code, diff, module, _ = given_out(monkeypatch, file, said)
    assert diff == ""
    assert file.read_text(encoding="utf-8") == SOURCE
    flat = module.replace("\n#  ", "")
    assert module[module.index("import torch") :] == SOURCE
    assert "# No launch is changed" in flat
    assert why in flat.replace("# Left", "# left")
    assert "# double: BLOCK=2048 w8 s3: 6.90 us, was 10.0 us" in flat
    assert any(why in line for line in code.lines())
    assert code.to_builtins()["module"]["given_out"] == 0
    asked_in_vain = isinstance(said, MachineError)
    assert exit_code(Looked(()), [], ProgramCheck(), code) == (EXIT_INCONCLUSIVE if asked_in_vain else EXIT_OK)


def test_a_module_without_a_change_that_gives_something_else_says_so(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    asked = Asked(word(), "the program fails: NameError: rows")
    monkeypatch.setattr(source_again, "source_questions", asked)
    tuned = [tuned_of(case_of(file), "revert", BEFORE)]
    looked, program = Looked((tuned[0].case,), gpu="NVIDIA H200"), Program("model", str(file))
    outputs = Outputs(file.with_name("optimized.py"), Path("configs"), diff=True, apply=False, autotune=False)
    code = code_of(outputs, program, tuned, looked, ASKED)
    assert asked.least_gains == [], "it is asked for the result alone, and once"
    assert len(asked.sources) == 1
    assert code.patch is not None
    assert code.patch.check is None
    assert code.lines() == [
        "The module: no launch is changed",
        "The module: it does not give what the program gives: the program fails: NameError: rows",
    ]
    assert exit_code(looked, tuned, ProgramCheck(), code) == EXIT_WRONG_RESULT
    assert exit_code(looked, tuned, ProgramCheck(), Code(None, None)) == EXIT_OK
    assert exit_code(looked, tuned, ProgramCheck(troubled=True), Code(None, None)) == EXIT_INCONCLUSIVE


def test_an_autotuner_of_a_kernel_that_is_as_before_takes_what_it_took_where_the_kernel_then_stands(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    asked = Asked(word())
    monkeypatch.setattr(source_again, "source_questions", asked)
    tuned = [tuned_of(case_of(file))]
    own = case_of(file, site=None)
    listed = structs.replace(own, proposals=({"BLOCK": 1024},), kernel=KernelSeen("add", "m", str(file), 20))
    tuned.append(tuned_of(listed, "revert", BEFORE))
    looked, program = Looked(tuple(one.case for one in tuned)), Program("model", str(file))
    outputs = Outputs(file.with_name("optimized.py"), Path("configs"), diff=True, apply=False, autotune=False)
    code_of(outputs, program, tuned, looked, ASKED)
    of_module, of_patch = asked.sources
    assert [case.kernel.file for case in of_module.held] == [str(file.with_name("optimized.py"))]
    assert [case.kernel.file for case in of_patch.held] == [str(file)]
    changed = structs.replace(listed, kernel=tuned[0].case.kernel)
    code_of(outputs, program, [tuned[0], tuned_of(changed, "revert", BEFORE)], looked, ASKED)
    assert asked.sources[-1].held == []


def test_without_a_gpu_nothing_is_asked_and_with_the_option_that_is_said(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    code, _, module, asked = given_out(monkeypatch, file, word(), Question(NOT_ASKED))
    assert asked.sources == []
    assert "# The program was not run with it (--no-program-check).\n" in module
    assert "num_warps=8" in module
    assert code.to_builtins()["module"]["why_not"] == NOT_ASKED
    assert code.to_builtins()["module"]["given_out"] == 1
    options = {"least_gain": 0.02, "limit_s": None}
    assert question_of([], on_gpu=False, wanted=True, **options) is None
    assert question_of([], on_gpu=True, wanted=False, **options) == Question(NOT_ASKED)
    assert question_of([], on_gpu=True, wanted=True, **options) == Question(None, 0.02, 0.0, None)


@pytest.mark.parametrize("question", [ASKED, Question(least_gain=None), Question(NOT_ASKED)])
def test_what_no_verdict_has_chosen_is_written_only_where_the_program_is_asked_for_its_time(
    question: Question, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(source_again, "source_questions", Asked(word()))
    middle, other = (NamedConfig(num_warps=8, num_stages=3, BLOCK=block) for block in (512, 4096))
    short, long = case_of(file), case_of(file, values={"n": 5001})
    tuned = [
        tuned_of(short, "keep", BEST, (Ranked(BEST, 7.0), Ranked(middle, 8.0), Ranked(BEFORE, 10.0))),
        tuned_of(long, "keep", other, (Ranked(other, 7.0), Ranked(middle, 8.0), Ranked(BEFORE, 10.0))),
    ]
    looked, program = Looked((short, long), gpu="NVIDIA H200"), Program("model", str(file))
    outputs = Outputs(None, Path("configs"), diff=True, apply=False, autotune=False)
    code = code_of(outputs, program, tuned, looked, question)
    assert ("BLOCK=512" in (code.diff() or "")) == (question is ASKED)
    assert bool(code.findings()) == (question is not ASKED)


def test_kernels_whose_edits_can_be_made_alone_are_apart_and_the_others_one_change(file: Path) -> None:
    tuned = [tuned_of(case_of(file))]
    (one,) = plan_of(tuned, Looked((tuned[0].case,)), autotune=False).made

    def named(name: str) -> Any:
        return structs.replace(one, launch=structs.replace(one.launch, kernel=name))

    plan = Plan((), tuple(map(named, "abc")), ())

    def plan_without(kernels: Collection[tuple[str, str]]) -> Plan:
        left = [name for name in "abc" if (one.launch.kernel_file, name) not in kernels]
        # b and c are fed by one value, which neither has alone.
        return Plan((), tuple(named(name) for name in left if name == "a" or {"b", "c"} <= set(left)), ())

    kernels = changes_apart(plan, plan_without)
    assert [tuple(name for _, name in group) for group in kernels] == [("a",), ("b", "c")]


def test_of_several_kernels_only_those_that_are_borne_out_are_given_out() -> None:
    check = SourceCheck(
        form="patch",
        changes=(("a",), ("b", "c")),
        word=word(Reverted(1, "wrong", "NaN"), count=2),
    )
    assert check.left_out() == {1}
    assert check.lines() == [
        "The changed files: the program's result is that of before (max error 0); 2 ms -> 1 ms (0.50x)",
        "The changed files: left as before: b, c: the program's result is wrong with it: NaN",
    ]


def test_verdicts_without_a_kernel_are_as_if_it_stayed(file: Path) -> None:
    tuned = [tuned_of(case_of(file))]
    assert source_check.without([(str(file), "other")], tuned) == tuned
    (left,) = source_check.without([(str(file), "double")], tuned)
    assert plan_of([left], Looked((left.case,)), autotune=False).files == ()
