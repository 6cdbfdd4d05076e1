"""Values that only the source can vary are tried by runs of the program, on the CPU, with times made up for each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from msgspec import structs

from fusetune.capture.again import AgainRequest, FreshProcesses, Ran
from fusetune.capture.again_child import ran_of
from fusetune.capture.cases import KnobSeen, Looked, Site
from fusetune.capture.programs import Program, run_program
from fusetune.cli.source_check import Question
from fusetune.cli.tuned_code import Code, Outputs, code_of, hand_out
from fusetune.code.patch.written import sha256_of
from fusetune.core.config import NamedConfig
from tests.support.kept_verdicts import kept
from tests.support.launch_cases import launches_of

FILE = Path(__file__).parents[1] / "support" / "programs" / "only_by_source.py"
ASKED = Question(least_gain=0.02, budget_s=1000.0)
BUFFER = KnobSeen("BLOCK", 32, False, "a buffer of the program is sized by it", (32,), True)
VARIES = KnobSeen("BLOCK", 32, True, "the grid follows it", (16, 32, 64))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / FILE.name
    path.write_bytes(FILE.read_bytes())
    return path


def numbers(text: str) -> tuple[int, int]:
    """What `block` and GROUP are in a text of the program."""
    block, group = (re.search(rf"\b{name} = (\d+)", text) for name in ("block", "GROUP"))
    assert block is not None
    assert group is not None
    return int(block[1]), int(group[1])


def stand_in(monkeypatch: pytest.MonkeyPatch, file: Path) -> list[tuple[int, int]]:
    """Runs in this process that take the longer, the smaller the numbers are; what they were, run by run."""
    seen: list[tuple[int, int]] = []

    def run(_: FreshProcesses, asked: AgainRequest, limit_s: float | None = None) -> Ran:
        text = next(iter(asked.texts.values()), file.read_bytes()).decode()
        block, group = numbers(text)
        seen.append((block, group))
        ran = ran_of(asked)
        return structs.replace(ran, forward_ms=100 / min(block, 128) + 100 / min(group, 128))

    monkeypatch.setattr(FreshProcesses, "run", run)
    return seen


def code(file: Path, folder: Path, question: Question = ASKED) -> tuple[Code, Outputs, Program, list, Looked]:
    """What is given out of the program, none of whose kernels has a config of its own that was kept."""
    program = Program("model", str(file), reference=str(file))
    text = file.read_text(encoding="utf-8")
    functions = {one.name: one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)}
    found, _ = launches_of(lambda: run_program(program))
    tuned = []
    for case in found:
        name = case.kernel.name
        line = next(number for number, one in enumerate(text.splitlines(), start=1) if f" {name}[" in one)
        parameters = tuple(one.arg for one in functions[name].args.args)
        files = {str(file): sha256_of(text.encode())}
        follows = () if name == "partial_sums" else ("BLOCK",)
        site = Site(str(file), line, 4, parameters, follows=follows, files=files)
        knobs = (BUFFER if name == "partial_sums" else VARIES,)
        before = NamedConfig(**case.constants, **{"num_warps": 4, **case.options})
        one = kept(structs.replace(case, site=site, knobs=knobs), before, before, folder)
        tuned.append(structs.replace(one, end="revert"))
    looked = Looked(tuple(one.case for one in tuned), gpu="NVIDIA H200")
    outputs = Outputs(folder / "optimized.py", folder / "configs", diff=True, apply=True, autotune=False)
    return code_of(outputs, program, tuned, looked, question), outputs, program, tuned, looked


def test_a_tile_that_sizes_a_buffer_and_one_of_two_kernels_are_varied_in_the_source(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stand_in(monkeypatch, file)
    made, *others = code(file, tmp_path)
    assert made.trials is not None
    assert [knob.label() for knob in made.trials.knobs] == [
        "BLOCK of into_groups, out_of_groups",
        "BLOCK of partial_sums",
    ]
    assert seen[2:8] == [(32, 64), (32, 128), (32, 256), (64, 128), (128, 128), (256, 128)]
    searched = made.trials.searched
    assert searched is not None
    assert searched.chosen == {0: 128, 1: 128}
    assert searched.gain is not None
    assert searched.gain.low == pytest.approx(1 - 32 / 128)
    diff = hand_out(others[0], *others[1:], made, quiet=True)
    assert numbers(file.read_text(encoding="utf-8")) == (128, 128), "applied"
    assert "+GROUP = 128\n" in diff
    assert "+    block = 128\n" in diff
    told = "BLOCK 32 -> 128 of into_groups, out_of_groups, BLOCK 32 -> 128 of partial_sums"
    times = "The program takes 1.56 ms with it, was 6.25 ms."
    assert diff.count(f"+    # fusetune: {told}.\n+    # fusetune: {times}\n") == 3
    assert diff.count("+    # fusetune: NVIDIA H200, 20") == 3
    module = others[0].module.read_text(encoding="utf-8")
    flat = module.replace("\n#  ", "")
    assert numbers(module) == (128, 128)
    assert f"# In the source: {told}. The program takes 1.56 ms with it, was 6.25 ms. Gain +75.0 %" in flat
    assert made.to_builtins()["patch"]["changes"] == [[told]]
    (groups, sums) = made.trials.to_builtins()["knobs"]
    assert (groups["kernels"], groups["value"], groups["chosen"]) == (["into_groups", "out_of_groups"], 32, 128)
    assert [one["value"] for one in sums["tried"]] == [64, 128, 256]
    assert sums["why"] == "a buffer of the program is sized by it"
    assert groups["why"].startswith("what BLOCK is given feeds `out_of_groups[(programs(n, GROUP),)](")


def test_a_value_with_which_the_program_is_wrong_or_fails_stays_as_it_was(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = file.read_text(encoding="utf-8")
    # The sum is of every other block, unless these are as large as they are.
    text = text.replace("return partial.sum()", "return partial[:: block // 32].sum()")
    text = text.replace("scales = torch", "assert GROUP == 32\n    scales = torch")
    file.write_text(text, encoding="utf-8")
    seen = stand_in(monkeypatch, file)
    made, *others = code(file, tmp_path)
    assert made.trials is not None
    assert made.trials.searched is not None
    assert made.trials.searched.chosen == {}
    assert seen[:6] == [(32, 32), (32, 32), (32, 64), (32, 16), (64, 32), (16, 32)]
    (group, sums) = made.trials.searched.tried
    assert [one.wrong for one in group] == ["the program fails: AssertionError: "] * 2
    assert (sums[0].wrong or "").startswith("beside its reference: relative error 4.9e-01, ")
    assert sums[1].wrong == "the program fails: ValueError: slice step cannot be zero"
    assert hand_out(others[0], *others[1:], made, quiet=True) == ""
    assert file.read_text(encoding="utf-8") == text


def test_without_a_budget_nothing_is_tried(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stand_in(monkeypatch, file)
    made, *_ = code(file, tmp_path, ASKED._replace(budget_s=0.0))
    assert made.trials is None
    assert set(seen) == {(32, 32)}
