"""Every text of a report that comes from a file, in every form of the report: it is shown, and does nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from report_examples import FILES, KEPT, REVERTED, measured_run, run_with_a_library, with_libraries, write_run
from rich.console import Console

from fusetune.cli.compare import compare
from fusetune.cli.report import report as report_command
from fusetune.core.text import no_command
from fusetune.report.formats import to_csv, to_json, to_markdown
from fusetune.report.html.data import run_data
from fusetune.report.html.program import CaseTold, KernelTold, ProgramTold, render_program
from fusetune.report.html.render import render_html, render_run
from fusetune.report.model import DamagedFile, Report, rows_from_files, summarize_run
from fusetune.report.other_tuners import to_cachefile, to_t4, to_vllm
from fusetune.report.terminal import render
from fusetune.store.journal import RunStart, read_journal
from fusetune.store.yaml_files import dump_config_file
from tests.support.hostile import TEXTS, assert_harmless, planted
from tests.support.sample import BASELINE, FILE, OP

anything = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def _report(text: str) -> Report:
    rows = planted(tuple(rows_from_files([*FILES, *with_libraries()])), text)
    runs = (planted(summarize_run(run_with_a_library()), text), planted(summarize_run(measured_run()), text))
    return Report(rows=rows, runs=runs, missing_runs=(text,), problems=(DamagedFile(text, text),))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@anything
@pytest.mark.parametrize("width", [40, 80, 200])
def test_on_a_terminal(text: str, width: int) -> None:
    shown = io.StringIO()
    render(_report(text), Console(file=shown, width=width))
    assert_harmless(no_command(shown.getvalue()))
    if text == TEXTS["markup of rich"]:
        assert "[bold" in shown.getvalue(), "square brackets are text, not markup"


@anything
def test_in_markdown(text: str) -> None:
    made = to_markdown(_report(text))
    assert_harmless(made)
    assert "<script" not in made
    assert "<img" not in made
    assert not re.search(r"\]\(|://|www\.|@\w", made)
    for line in made.splitlines():
        if line.startswith(f"| {OP}") or text in line:
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) in {0, 3, 4, 7, 8, 9, 10, 15}, line


@anything
def test_in_csv(text: str) -> None:
    made = to_csv(_report(text))
    assert_harmless(made)
    rows = list(csv.DictReader(io.StringIO(made)))
    assert len(rows) == len(_report(text).rows)
    for row in rows:
        assert not row["gpu"].lstrip().startswith(("=", "+", "-", "@"))
        assert row["gain_median"] == "" or float(row["gain_median"]) is not None
    negative = next(row for row in rows if row["gain_over_library_median"].startswith("-"))
    assert float(negative["gain_over_library_median"]) < 0, "a figure stays one"


@anything
def test_in_json_where_it_stays_what_it_is(text: str) -> None:
    made = to_json(_report(text))
    assert_harmless(made)
    assert json.loads(made)["rows"][0]["gpu"] == _encodable(text)


@anything
def test_in_a_page(text: str, tmp_path: Path) -> None:
    path = write_run(tmp_path, KEPT.run, [planted(record, _encodable(text)) for record in measured_run()])
    told = _report(text)
    for made in (render_html(told, {}), render_run(run_data(list(read_journal(path))), told.rows[0])):
        assert "<img src=x" not in made
        assert "alert(1)</script>" not in made
        made.encode()
        assert not re.search("[\u202e\u2028\x9b\x1b\ufffe]", made.partition("<main>")[2].partition("</main>")[0])


@anything
def test_in_the_page_of_a_program(text: str) -> None:
    rows = rows_from_files([*FILES, *with_libraries()])
    cases = tuple(CaseTold("x", "w4 s2", row.verdict, 1, 1.0, ("x",), ("x",), ("x",), row, row.run) for row in rows)
    kernel = KernelTold("x", "x", 1, 1.0, 0.5, cases)
    told = ProgramTold("x", "x", 1.0, "x", (kernel,), said=("x",), notes=("x",), diff="-x\n+x", failed="x")
    made = render_program(planted(told, text), {text: text})
    assert "<img src=x" not in made
    assert "alert(1)</script>" not in made
    made.encode()
    assert not re.search("[\u202e\u2028\x9b\x1b\ufffe]", made.partition("<main>")[2].partition("</main>")[0])


@anything
def test_in_the_forms_of_other_tuners(text: str) -> None:
    records = [planted(r, text) if isinstance(r, RunStart) else r for r in measured_run()]
    for make in (to_t4, to_cachefile):
        assert_harmless(make(records))
    rows = planted(tuple(rows_from_files(FILES)), text)
    with_tiled = [
        msgspec.structs.replace(row, config=msgspec.structs.replace(row.config, variant=BASELINE.variant))
        for row in rows
    ]
    for name in to_vllm(with_tiled):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._,=-]{0,240}", name)


def test_no_gpu_leads_a_file_out_of_the_folder_that_was_named(tmp_path: Path) -> None:
    for number, gpu in enumerate(["x/../../victim/NAME", "/etc/passwd", "..", "a\x00b", "N\\..\\x", "w" * 3000]):
        configs, out = tmp_path / f"configs{number}", tmp_path / f"out{number}" / "deep"
        configs.mkdir()
        file = FILES[0][1]
        named = msgspec.structs.replace(file, target=msgspec.structs.replace(file.target, name=gpu))
        (configs / FILE).write_text(dump_config_file(named), encoding="utf-8")
        (tmp_path / "victim").mkdir(exist_ok=True)
        done = CliRunner().invoke(report_command, ["--configs", str(configs), "--format", "vllm", "-o", str(out)])
        assert done.exit_code == 0, (gpu, done.exception)
        assert list(out.iterdir())
        assert list((tmp_path / "victim").iterdir()) == []
        assert {path.parent for path in tmp_path.rglob("*.json")} == {
            tmp_path / f"out{n}" / "deep" for n in range(number + 1)
        }


def test_a_comparison_and_its_json(tmp_path: Path) -> None:
    for text in TEXTS.values():
        file = FILES[0][1]
        entries = (planted(KEPT, _encodable(text)), REVERTED)
        for name, held in (("one.yaml", (KEPT, REVERTED)), ("two.yaml", entries)):
            (tmp_path / name).write_text(
                dump_config_file(msgspec.structs.replace(file, entries=held)), encoding="utf-8"
            )
        for form in ("table", "json"):
            done = CliRunner().invoke(
                compare, [str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml"), "--format", form]
            )
            if done.exit_code == 0:
                assert_harmless(done.output)


@pytest.mark.parametrize("option", [("--html", "page.html"), ("--format", "json"), ("--format", "t4"), ()])
def test_a_journal_names_an_op_and_never_a_module(
    option: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unasked.py").write_text("open('imported', 'w')\nSPEC = None\n", encoding="utf-8")
    records = [msgspec.structs.replace(r, op="unasked:SPEC") if isinstance(r, RunStart) else r for r in measured_run()]
    write_run(tmp_path / "runs", KEPT.run, records)
    done = CliRunner().invoke(report_command, ["--runs", str(tmp_path / "runs"), "--run", KEPT.run, *option])
    assert done.exit_code == 0, done.exception
    assert "unasked" not in sys.modules
    assert not (tmp_path / "imported").exists()
    if "--html" in option:
        assert "op &#39;unasked:SPEC&#39; is not known" in (tmp_path / "page.html").read_text(encoding="utf-8")
