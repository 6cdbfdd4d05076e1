"""Every text of a gate's finding that comes from a file, in everything that a build server reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner
from junitparser import JUnitXml

from fusetune.cli import gate as gate_command
from fusetune.cli.shown import echo
from fusetune.gate.findings import Finding
from fusetune.gate.outputs import MAX_SUMMARY, to_annotations, to_json, to_junit, to_markdown, write_outputs
from tests.support.hostile import TEXTS, assert_harmless, planted
from tests.support.sample import OP
from tests.unit.gate.test_gate import kept

anything = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def _findings(text: str) -> list[Finding]:
    entry = planted(kept(), text)
    plain = {"file": Path(text), "op": text, "entry": entry, "detail": f"why: {text}", "journal": text}
    return [Finding(status=status, **plain) for status in ("regression", "holds", "not_gated", "inconclusive")]


@anything
def test_what_the_gate_prints_is_one_line_a_finding(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    printed: list[str] = []
    monkeypatch.setattr("click.echo", lambda line="", **_: printed.append(line))
    gate_command._tell(_findings(text), {})
    assert len(printed) == 5
    assert_harmless("\n".join(printed))
    assert not any("\n" in line for line in printed)


@anything
def test_an_annotation_is_one_command_and_that_is_ours(text: str) -> None:
    lines = to_annotations(_findings(text))
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"::error file=[^:,]*,title=fusetune gate%3A [A-Z]+::", line)
        assert not re.search("[\r\n\x00\x1b\x9b\u202e]", line)
        assert len(line) < 20_000
        line.encode()


@anything
def test_junit_can_be_parsed_and_has_every_case(text: str) -> None:
    made = to_junit(_findings(text))
    assert len(ElementTree.fromstring(made).findall("testsuite/testcase")) == 4
    xml = JUnitXml.fromstring(made.encode())
    assert (xml.tests, xml.failures, xml.errors, xml.skipped) == (4, 1, 1, 1)


@anything
def test_markdown_has_a_row_a_finding_and_no_markup_of_theirs(text: str) -> None:
    made = to_markdown(_findings(text))
    assert_harmless(made)
    rows = made.splitlines()[4:]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 7 for row in rows)
    assert not re.search(r"\]\(|://|www\.|@\w|<(?!!-- -->)", made)


@anything
def test_json_stays_what_it_is(text: str) -> None:
    made = to_json(_findings(text))
    assert_harmless(made)
    told = text.encode("utf-8", "backslashreplace").decode()
    assert json.loads(made)["findings"][0]["detail"] == f"why: {told}"


def test_a_terminal_that_cannot_show_a_letter_gets_its_number() -> None:
    done = CliRunner(charset="ascii").invoke(_command())
    assert done.exit_code == 0, done.exception
    assert done.output == "\\xb5s \\u4e2d\n"


def _command():  # type: ignore[no-untyped-def]
    import click

    return click.command()(lambda: echo("\u00b5s \u4e2d"))


def _many(count: int, detail: str = "slower than it was") -> list[Finding]:
    worst = Finding(file=Path("a"), op=OP, entry=kept(), status="wrong_result", detail="the worst")
    other = msgspec.structs.replace(worst, status="regression", detail=detail)
    return [*[other] * (count - 1), worst]


@pytest.mark.parametrize(
    ("before", "count", "detail"),
    [
        (0, 9000, "slower than it was"),
        (1_000_000, 1000, "slower than it was"),
        (500_000, 1200, "w" * 5000),
        (0, 1200, "\u4e2d|" * 300),
        (MAX_SUMMARY - 1, 20, "x"),
        (MAX_SUMMARY + 5, 20, "x"),
    ],
)
def test_a_summary_keeps_below_what_github_drops_with_the_worst_first_and_the_rest_counted(
    before: int, count: int, detail: str, tmp_path: Path
) -> None:
    summary, whole = tmp_path / "summary", tmp_path / "whole.md"
    summary.write_text("x" * before)
    findings = _many(count, detail)
    write_outputs(findings, {"markdown": whole}, {"GITHUB_STEP_SUMMARY": str(summary)})
    held = summary.read_bytes()
    assert len(held) <= max(before, MAX_SUMMARY)
    assert len(whole.read_text(encoding="utf-8").splitlines()) == count + 4, "a file of the user's own has them all"
    told = held[before:].decode()
    if before > 1_000_000:
        return
    lines = told.splitlines()
    assert "the worst" in lines[4]
    rows = sum(line.startswith("| ") and OP in line for line in lines)
    assert lines[-1].startswith(f"{count - rows} more findings do not fit here")
    assert len(held) > MAX_SUMMARY - 5000, "as many as fit"


def test_a_summary_that_holds_all_counts_none(tmp_path: Path) -> None:
    assert to_markdown(_many(20), MAX_SUMMARY) == to_markdown(_many(20))
