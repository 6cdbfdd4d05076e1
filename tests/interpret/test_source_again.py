"""A program runs with its changed source, on the CPU: a right one is given out, a wrong one comes out unchanged."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.again import AgainRequest, FreshProcesses, Ran
from fusetune.capture.again_child import ran_of
from fusetune.capture.cases import Looked, Site
from fusetune.capture.programs import Program, run_program
from fusetune.cli.source_check import Question
from fusetune.cli.tuned_code import Outputs, code_of, hand_out
from fusetune.code.patch.written import sha256_of
from fusetune.core.config import NamedConfig
from tests.support.kept_verdicts import kept
from tests.support.launch_cases import launches_of

pytestmark = pytest.mark.usefixtures("programs_are_forked")
FILE = Path(__file__).parents[1] / "support" / "programs" / "rows_and_points.py"
EACH_ITS_OWN = Question(least_gain=None)
"""Nothing is timed on a CPU."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows_and_points.py"
    text = FILE.read_text(encoding="utf-8")
    # A grid that follows the tile, so that both may be written.
    path.write_text(text.replace("[(triton.cdiv(n, 256),)]", '[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)]'))
    return path


def verdicts(file: Path, folder: Path, **blocks: int) -> tuple[Program, list[Any], Looked]:
    """The program, and each kernel's config kept with another tile."""
    program = Program("model", str(file), reference=str(file))
    text = file.read_text(encoding="utf-8")
    found, _ = launches_of(lambda: run_program(program))
    tuned = []
    for case in found:
        name = case.kernel.name
        if name not in blocks:
            continue
        line = next(number for number, one in enumerate(text.splitlines(), start=1) if f"{name}[" in one)
        parameters = next(
            tuple(one.arg for one in node.args.args)
            for node in ast.parse(text).body
            if isinstance(node, ast.FunctionDef) and node.name == name
        )
        follows = ("BLOCK",) if name == "twice" else ()
        site = Site(str(file), line, 8, parameters, follows=follows, files={str(file): sha256_of(text.encode())})
        before = NamedConfig(**case.constants, **{"num_warps": 4, **case.options})
        chosen = NamedConfig(BLOCK=blocks[name], num_warps=8)
        tuned.append(kept(structs.replace(case, site=site), before, chosen, folder))
    return program, tuned, Looked(tuple(one.case for one in tuned), gpu="NVIDIA H200")


def test_of_a_right_and_a_wrong_tile_the_module_has_the_right_one_alone(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight runs, in this process. A row of 100 does not fit into 64.
    monkeypatch.setattr(FreshProcesses, "run", lambda _, asked, limit_s=None: ran_of(asked))
    program, tuned, looked = verdicts(file, tmp_path, twice=64, row_softmax=64)
    made = tmp_path / "optimized.py"
    outputs = Outputs(made, tmp_path / "configs", diff=False, apply=False, autotune=False)
    code = code_of(outputs, program, tuned, looked, EACH_ITS_OWN)
    assert not made.exists()
    assert code.module is not None
    assert code.module.plan.findings == ()
    check = code.module.check
    assert check is not None
    assert check.word is not None
    assert sorted(check.changes) == [("row_softmax",), ("twice",)]
    assert [check.changes[one] for one in check.left_out()] == [("row_softmax",)]
    assert ([one.why for one in check.word.reverted], check.word.right) == (["wrong"], True)
    hand_out(outputs, program, tuned, looked, code)
    text = made.read_text(encoding="utf-8")
    assert "n, BLOCK=64, num_warps=8" in text
    assert "columns, BLOCK=128)" in text
    assert "# Left as before: row_softmax: the program's result is wrong with it" in text


def test_a_patch_with_which_the_result_is_wrong_is_not_applied(file: Path, tmp_path: Path) -> None:
    program, tuned, looked = verdicts(file, tmp_path, row_softmax=64)
    outputs = Outputs(None, tmp_path / "configs", diff=True, apply=True, autotune=False)
    before = file.read_text(encoding="utf-8")
    code = code_of(outputs, program, tuned, looked, EACH_ITS_OWN)
    assert hand_out(outputs, program, tuned, looked, code, quiet=True) == ""
    assert file.read_text(encoding="utf-8") == before
    first, second = code.lines()
    assert first == "The changed files: no launch is changed"
    assert second.startswith("The changed files: left as before: row_softmax: the program's result is wrong with it: ")


def test_the_program_as_it_is_is_not_run_again_for_the_next_form_or_for_a_module_without_a_change(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def run(_: FreshProcesses, asked: AgainRequest, limit_s: float | None = None) -> Ran:
        of_module = asked.program.what != str(file)
        text = next(iter(asked.texts.values()), b"").decode()
        with_it = "n, BLOCK=64" in text or "columns, BLOCK=64" in text
        runs.append(f"{'module' if of_module else 'program'}{' with it' if with_it else ''}")
        return ran_of(asked)

    monkeypatch.setattr(FreshProcesses, "run", run)
    outputs = Outputs(tmp_path / "optimized.py", tmp_path / "configs", diff=True, apply=False, autotune=False)
    turns = ["program", *["module with it"] * 2, "program", *["program with it"] * 2, "program"]
    program, tuned, looked = verdicts(file, tmp_path, twice=64)
    code = code_of(outputs, program, tuned, looked, EACH_ITS_OWN)
    assert runs == turns
    assert [form.check.left_out() for form in code.forms() if form.check is not None] == [set(), set()]
    runs.clear()
    program, tuned, looked = verdicts(file, tmp_path, row_softmax=64)
    code = code_of(outputs, program, tuned, looked, EACH_ITS_OWN)
    assert runs == [*turns[:4], "module", *turns[4:]], "of the module without a change the result alone is asked"
    assert [form.check.left_out() for form in code.forms() if form.check is not None] == [{0}, {0}]
    assert code.module is not None
    assert code.module.check is not None
    assert code.module.check.unlike is None
