"""What a build server is told: JSON, Markdown, annotations and JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from fusetune.core.decision import Gain
from fusetune.errors import UsageError
from fusetune.gate.findings import SIGNS, Finding, Status, exit_code
from fusetune.gate.outputs import to_annotations, to_json, to_junit, to_markdown, write_outputs
from tests.support.sample import OP
from tests.unit.gate.test_gate import PATH, kept

GAIN = Gain(median=0.011, low=0.01, high=0.012, confidence=0.95, min_gain=0.02, blocks=25)


def found(status: Status = "holds", detail: str = "+50.0 %", **changes: Any) -> Finding:
    fields = {"file": PATH, "op": OP, "entry": kept(), "status": status, "detail": detail, **changes}
    return Finding(**fields)


def test_json_has_a_version_the_exit_code_and_every_figure() -> None:
    body = json.loads(to_json([found("regression", gain=GAIN, baseline_us=20.0, config_us=19.8)]))
    assert (body["gate"], body["exit_code"], body["summary"]) == (1, 1, "1 REGRESSION")
    (finding,) = body["findings"]
    assert finding["problem"] == {"M": 128, "N": 512, "K": 1024, "dtype": "float32", "precision": "tf32"}
    assert finding["gain"]["high"] == 0.012
    assert (finding["status"], finding["check"], finding["baseline_us"]) == ("regression", "baseline", 20.0)
    assert json.loads(to_json([]))["exit_code"] == 0


def test_markdown_has_the_worst_first_and_one_line_a_finding_whatever_the_text() -> None:
    text = to_markdown([found("holds"), found("regression", "a | b\n<script>alert(1)</script>", gain=GAIN)])
    lines = text.splitlines()
    assert lines[0] == "## fusetune gate: 1 ok, 1 REGRESSION"
    assert lines[4].startswith(f"| REGRESSION | {OP} M=128")
    assert "a \\| b &lt;script>" in lines[4]
    assert "+1.1 % [+1.0, +1.2] %" in lines[4]
    assert lines[5].startswith("| ok |")
    assert len(lines) == 6


def test_an_annotation_names_file_and_finding_and_cannot_be_broken_out_of() -> None:
    finding = found("regression", "50 % slower\n::error::planted", file=Path("a,b:c.yaml"))
    (line,) = to_annotations([finding])
    assert "\n" not in line
    assert line.startswith(f"::error file=a%2Cb%3Ac.yaml,title=fusetune gate%3A REGRESSION::{OP} M=128")
    assert line.endswith("50 %25 slower%0A::error::planted")


@pytest.mark.parametrize(
    ("status", "level"),
    [("wrong_result", "error"), ("inconclusive", "error"), ("no_reference", "error"), ("slower", "warning")],
)
def test_what_fails_the_build_is_an_error_and_the_rest_a_warning(status: Status, level: str) -> None:
    assert to_annotations([found(status)])[0].startswith(f"::{level} ")


def test_what_holds_is_not_annotated() -> None:
    assert to_annotations([found("holds"), found("not_gated"), found("other_toolchain")]) == []


def test_there_are_at_most_ten_annotations_the_worst_first_and_the_last_tells_how_many_more() -> None:
    lines = to_annotations([found("slower")] * 12 + [found("wrong_result")] * 2)
    assert len(lines) == 10
    assert "WRONG RESULT" in lines[0]
    assert lines[-1].endswith("5 more findings; see the log or the summary")
    assert len(to_annotations([found("regression")] * 10)) == 10


def test_junit_counts_failures_errors_and_what_was_skipped() -> None:
    findings = [found(), found("regression", "slow"), found("inconclusive", "noisy"), found("not_gated", "predicted")]
    xml = JUnitXml.fromstring(to_junit([*findings, found(file=Path("other.yaml"))]).encode())
    assert (xml.tests, xml.failures, xml.errors, xml.skipped) == (5, 1, 1, 1)
    first, second = xml
    assert (first.name, second.name) == (str(PATH), "other.yaml")
    held, failed, errored, skipped = first
    assert held.result == []
    assert [type(case.result[0]) for case in (failed, errored, skipped)] == [Failure, Error, Skipped]
    assert (failed.result[0].message, failed.result[0].type) == ("slow", "regression")
    assert held.system_out == "+50.0 %"


def test_junit_keeps_to_what_the_published_schema_allows() -> None:
    """The rules of the Jenkins xunit plugin's junit-10.xsd that apply here."""
    root = ElementTree.fromstring(to_junit([found("regression", "worse \x1b[31m<&>\x00"), found()]))
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors"} <= set(suite.attrib)
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
        for case in suite:
            assert case.tag == "testcase"
            assert {"name", "classname"} <= set(case.attrib)
            assert {child.tag for child in case} <= {"skipped", "error", "failure", "system-out", "system-err"}


def test_every_status_has_a_sign_an_exit_code_and_all_outputs() -> None:
    for status in SIGNS:
        finding = found(status)
        assert exit_code([finding]) in {0, 1, 3, 5}
        for make in (to_json, to_markdown, to_junit):
            assert make([finding])


def test_files_are_written_and_a_step_s_summary_is_appended_to(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("what an earlier command said\n")
    paths = {name: tmp_path / name for name in ("junit", "markdown")}
    environment = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"}
    annotations = write_outputs([found("regression")], paths, environment)
    assert len(annotations) == 1
    assert summary.read_text().startswith("what an earlier command said\n## fusetune gate: 1 REGRESSION")
    assert paths["markdown"].read_text().startswith("## fusetune gate")
    assert JUnitXml.fromfile(str(paths["junit"])).failures == 1


def test_outside_of_a_workflow_nothing_is_annotated_and_nothing_written(tmp_path: Path) -> None:
    assert write_outputs([found("regression")], {}, {}) == []
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*nowhere/gate\.xml: No such file"):
        write_outputs([], {"junit": tmp_path / "nowhere" / "gate.xml"}, {})
