"""The page of `fusetune tune`: kernels by share of time, verdicts, findings, the diff, and a page for each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fusetune.capture.cases import Case, KernelSeen, Looked, TensorSeen
from fusetune.capture.gpu_share import GpuTime
from fusetune.capture.programs import Program
from fusetune.cli import tuned_code
from fusetune.cli.program_check import ProgramCheck
from fusetune.cli.tuned_code import Code, Form
from fusetune.cli.tuned_page import Outcome, write_program_page
from fusetune.code.patch.edits import Finding
from fusetune.code.patch.plan import Plan
from fusetune.errors import UsageError
from fusetune.store import journal
from fusetune.store.regular import read_regular
from fusetune.tune.last_word import LastWord
from fusetune.tune.program import End, Tuned
from fusetune.tune.request import SweepResult
from tests.unit.tune.test_before import BASELINE, BEFORE, FAST, SAFE, swept

SCRIPT = Program("script", "net.py", ("--name", "a b"))
EVIL = "<script>alert(1)</script>"


def case_of(name: str, us: float | None, launches: int = 4, **more: Any) -> Case:
    tensor = TensorSeen("float32", (64, 1000), (1000, 1), 0, 0, 256000, aligned=True)
    kernel = KernelSeen(name, "net", "/home/me/net.py", 7)
    return Case(
        kernel, (64,), "tuple", {"x": tensor}, {}, {}, {}, {"num_warps": 8, "num_stages": 3}, launches, us, **more
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return swept(tmp_path_factory.mktemp("swept"), {BEFORE: 20, BASELINE: 16, SAFE: 10, FAST: 8})


def tuned_of(case: Case, end: End, **more: Any) -> Tuned:
    given = {"problem": None, "before": None, "baseline": None, **more}
    return Tuned(case=case, op=case.kernel.name, end=end, **given)


@pytest.fixture
def outcome(result: SweepResult) -> Outcome:
    slow, quick = case_of("softmax", 900.0), case_of("scale", 100.0, findings=("it asks for what it does not get",))
    tuned = [
        tuned_of(
            slow,
            "keep",
            before=BEFORE,
            baseline=BASELINE,
            result=result,
            findings=("what runs today spills",),
            tried=3,
            failures={"wrong_result": 2},
        ),
        tuned_of(quick, "skipped", why="each run gives another result", ended_by="not_checkable"),
    ]
    looked = Looked((quick, slow), gpu="NVIDIA H200", gpu_time=GpuTime(2000.0, 1000.0))
    word = LastWord(changes=1, applied=1, launches=4, right=True, before_ms=1.34, after_ms=0.91)
    return Outcome(looked, [slow, quick], tuned, ProgramCheck(word), Code(None, None), Path("my configs"))


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned_code, "plan_of", lambda *given, **more: Plan((), (), ()))


def written(folder: Path, outcome: Outcome, program: Program = SCRIPT) -> str:
    assert write_program_page(folder / "page.html", program, 12.0, outcome)
    return (folder / "page.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


def test_it_reads_a_run_s_journal_once_for_both_pages(
    tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counting(path: Path, most: int) -> bytes:
        read.append(path)
        return read_regular(path, most)

    monkeypatch.setattr(journal, "read_regular", counting)
    written(tmp_path, outcome)
    (one,) = [tuned.result for tuned in outcome.tuned if tuned.result is not None]
    assert read == [one.journal]
    assert (tmp_path / "page-runs" / f"{one.run}.html").exists()


def test_its_headline_is_what_the_program_gained(tmp_path: Path, outcome: Outcome) -> None:
    page = written(tmp_path, outcome)
    assert "<h1>1.47x faster (910 us, was 1.34 ms); 2 cases: 1 keep, 1 skipped</h1>" in page
    assert "1 of 1 kept config applied to 4 launches" in page


@pytest.mark.parametrize(
    ("after_ms", "told"), [(1.337, "As fast as before (1.34 ms, was"), (1.41, "1.05x slower (1.41 ms, was 1.34 ms)")]
)
def test_a_program_that_gained_nothing_is_not_called_faster(
    tmp_path: Path, outcome: Outcome, after_ms: float, told: str
) -> None:
    word = LastWord(changes=1, applied=1, launches=4, right=True, before_ms=1.34, after_ms=after_ms)
    assert f"<h1>{told}" in written(tmp_path, outcome._replace(checked=ProgramCheck(word)))


def test_where_all_was_taken_back_the_headline_has_no_gain(tmp_path: Path, outcome: Outcome) -> None:
    taken = [replace(one, end="revert") if one.end == "keep" else one for one in outcome.tuned]
    word = LastWord(changes=1, before_ms=1.34, after_ms=1.34, why="none of them stays")
    page = written(tmp_path, outcome._replace(tuned=taken, checked=ProgramCheck(word)))
    assert "<h1>2 cases: 1 revert, 1 skipped</h1>" in page


def test_kernels_stand_by_their_share_of_the_gpu_s_time_with_verdict_and_findings(
    tmp_path: Path, outcome: Outcome
) -> None:
    page = written(tmp_path, outcome)
    table = page.partition("<table")[2].partition("</table>")[0]
    assert table.index("softmax") < table.index("scale")
    assert "45 %<span" in table, "0.9 of the half of the program's time that is Triton's"
    assert "2.5x faster than Before (8.00 us, was 20.0 us), kept with 95 % confidence" in table
    assert "skipped: each run gives another result" in table
    assert "Found: what runs today spills" in page
    assert "Found: it asks for what it does not get" in page
    assert "of 3 candidates 2 wrong_result" in page


def test_each_run_has_its_page_beside_it(tmp_path: Path, outcome: Outcome) -> None:
    page = written(tmp_path, outcome)
    (run,) = [one.result.run for one in outcome.tuned if one.result is not None]
    assert f'href="page-runs/{run}.html"' in page
    beside = (tmp_path / "page-runs" / f"{run}.html").read_text(encoding="utf-8")
    assert "2.5x faster than Before" in beside
    assert "../page.html" in beside


def test_what_the_program_took_back_is_taken_back_on_the_pages_of_runs_too(tmp_path: Path, outcome: Outcome) -> None:
    first, *others = outcome.tuned
    assert first.result is not None
    entry = replace(first.result.entry, config=BEFORE, verdict="revert", reason="program_not_faster")
    reverted = replace(first, end="revert", result=replace(first.result, entry=entry))
    page = written(tmp_path, outcome._replace(tuned=[reverted, *others]))
    beside = next((tmp_path / "page-runs").iterdir()).read_text(encoding="utf-8")
    for told in (page, beside):
        assert "Nothing proved faster: Before stays" in told
        assert "In the program itself, run again, its launches were not faster with it." in told


def test_the_diff_is_coloured_escaped_and_says_what_it_is(
    tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusetune.code.patch import written as patch

    monkeypatch.setattr(patch, "diff_of", lambda plan: f"--- a\n+++ b\n-{EVIL}\n+two\n")
    page = written(tmp_path, outcome)
    assert '<span class="cut">-&lt;script&gt;alert(1)&lt;/script&gt;</span>\n<span class="add">+two</span>' in page
    assert "--diff runs the program with it first" in page
    asked = Plan((), (), (Finding("net.py", 3, "its list is computed"),))
    page = written(tmp_path, outcome._replace(code=Code(None, Form(asked, None))))
    assert "the program was run with this very text" in page
    assert "Not written back: net.py:3: its list is computed" in page


def test_a_source_that_has_changed_has_no_diff_and_the_page_says_why(
    tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*given: Any, **more: Any) -> Plan:
        raise UsageError("net.py has changed since it ran")

    monkeypatch.setattr(tuned_code, "plan_of", changed)
    assert "There is none: net.py has changed since it ran" in written(tmp_path, outcome)


def test_the_next_commands_are_the_program_s_as_a_shell_takes_them(tmp_path: Path, outcome: Outcome) -> None:
    page = written(tmp_path, outcome)
    assert "fusetune tune --apply net.py --name &#39;a b&#39;" in page
    assert "fusetune gate --static &#39;my configs&#39;" in page
    of_model = written(tmp_path, outcome, Program("model", "model.py", reference="ref.py"))
    assert "fusetune tune --apply --reference ref.py model.py" in of_model
    assert "fusetune run" not in of_model


def test_without_a_gpu_it_is_a_prediction_and_kernels_stand_by_launches(tmp_path: Path, outcome: Outcome) -> None:
    cases = (case_of("softmax", None, 2), case_of("scale", None, 5))
    tuned = [tuned_of(case, "unverified") for case in cases]
    looked = Looked(cases, compiled_for="NVIDIA GeForce RTX 4090")
    page = written(tmp_path, Outcome(looked, cases, tuned, ProgramCheck(), Code(None, None), Path("configs")))
    assert "<h1>Predicted only: 2 cases; nothing was timed</h1>" in page
    table = page.partition("<table")[2].partition("</table>")[0]
    assert table.index("scale") < table.index("softmax")
    assert "fusetune tune net.py" in page
    assert "--apply" not in page.partition('id="next"')[2]


def test_a_program_that_failed_says_so_first(tmp_path: Path, outcome: Outcome) -> None:
    failed = replace(outcome.looked, failed=f"ValueError: {EVIL}")
    page = written(tmp_path, outcome._replace(looked=failed, checked=ProgramCheck(why_not="no")))
    assert "<h1>The program failed by itself; 2 cases: 1 keep, 1 skipped</h1>" in page
    assert EVIL not in page
    assert 'id="next"' not in page
