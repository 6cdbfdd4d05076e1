"""Findings for a build server: JSON, Markdown for a step's summary, GitHub annotations, JUnit XML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fusetune.errors import UsageError
from fusetune.gate.findings import SIGNS, Finding, Status, exit_code, summary
from fusetune.store.whole import write_whole
from fusetune.units import format_gain, format_interval

GATE_VERSION: Final = 1
"""History of the JSON form: 1, the first version."""
MAX_ANNOTATIONS: Final = 10
"""What GitHub shows of one step's errors, and of its warnings."""
SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
ACTIONS_VARIABLE: Final = "GITHUB_ACTIONS"

_FAILS: Final[tuple[Status, ...]] = ("wrong_result", "regression")
_ERRORS: Final[tuple[Status, ...]] = ("inconclusive", "no_reference")
_SKIPS: Final[tuple[Status, ...]] = ("not_gated", "other_toolchain")
_TELLS: Final[tuple[Status, ...]] = (*_FAILS, *_ERRORS, "slower", "better")
"""What is worth an annotation, the worst first."""


def to_json(findings: Sequence[Finding]) -> str:
    """The findings as JSON: `gate` is the version of this form, times are microseconds, gains ratios."""
    body = {
        "gate": GATE_VERSION,
        "exit_code": exit_code(findings),
        "summary": summary(findings),
        "findings": [_plain(finding) for finding in findings],
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode() + "\n"


def to_markdown(findings: Sequence[Finding]) -> str:
    """The findings as GitHub-flavoured Markdown, the worst first."""
    lines = [f"## fusetune gate: {summary(findings)}", ""]
    if findings:
        lines += ["| | problem | config | check | gain | what |", "|---|---|---|---|---|---|"]
    order = list(SIGNS)[::-1]
    for finding in sorted(findings, key=lambda finding: order.index(finding.status)):
        gain = finding.gain
        cells = (
            SIGNS[finding.status],
            f"{finding.op} {finding.entry.problem.describe()}",
            finding.entry.config.label(),
            finding.check,
            f"{format_gain(gain.median)} {format_interval(gain.low, gain.high)}" if gain else "-",
            finding.detail,
        )
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def to_annotations(findings: Sequence[Finding]) -> list[str]:
    """Workflow commands for GitHub, at most MAX_ANNOTATIONS, the worst first; the last one tells of those left out."""
    told = sorted(
        (finding for finding in findings if finding.status in _TELLS), key=lambda finding: _TELLS.index(finding.status)
    )
    shown = told if len(told) <= MAX_ANNOTATIONS else told[: MAX_ANNOTATIONS - 1]
    lines = [_annotation(finding) for finding in shown]
    if len(told) > len(shown):
        more = len(told) - len(shown)
        lines.append(f"::warning title=fusetune gate::{_data(f'{more} more findings; see the log or the summary')}")
    return lines


def to_junit(findings: Sequence[Finding]) -> str:
    """The findings as JUnit XML: a suite for each file, a case for each check of an entry."""
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    root = JUnitXml("fusetune gate")
    for path in dict.fromkeys(finding.file for finding in findings):
        suite = TestSuite(str(path))
        for finding in findings:
            if finding.file != path:
                continue
            case = TestCase(
                f"{finding.entry.problem.describe()} {finding.entry.config.label()}",
                classname=f"fusetune.gate.{finding.check}.{finding.op}",
            )
            detail = _xml_text(finding.detail)
            if finding.status in _FAILS:
                case.result = [Failure(detail, finding.status)]
            elif finding.status in _ERRORS:
                case.result = [Error(detail, finding.status)]
            elif finding.status in _SKIPS:
                case.result = [Skipped(detail)]
            else:
                case.system_out = detail
            suite.add_testcase(case)
        root.add_testsuite(suite)
    root.update_statistics()
    text: bytes = root.tostring()
    return text.decode("utf-8") + "\n"


def write_outputs(
    findings: Sequence[Finding], paths: Mapping[str, Path | None], environment: Mapping[str, str] | None = None
) -> list[str]:
    """Write what was asked for, and append to a GitHub step's summary; returns the annotations to print.

    `paths` has a file for `json`, `junit` and `markdown`, or None. Raises UsageError, which names the file, where one
    cannot be written.
    """
    environment = os.environ if environment is None else environment
    makers: dict[str, Callable[[Sequence[Finding]], str]] = {
        "json": to_json,
        "junit": to_junit,
        "markdown": to_markdown,
    }
    for name, make in makers.items():
        path = paths.get(name)
        if path is not None:
            _writing(path, write_whole, make(findings))
    step_summary = environment.get(SUMMARY_VARIABLE)
    if step_summary:
        _writing(Path(step_summary), _append, to_markdown(findings))
    return to_annotations(findings) if environment.get(ACTIONS_VARIABLE) == "true" else []


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as handle:
        handle.write(text)


def _writing(path: Path, write: Callable[[Path, str], object], text: str) -> None:
    try:
        write(path, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that exists and that you may write to"
        ) from error


def _plain(finding: Finding) -> dict[str, Any]:
    entry = finding.entry
    return {
        "file": str(finding.file),
        "op": finding.op,
        "problem": entry.problem,
        "config": entry.config,
        "check": finding.check,
        "status": finding.status,
        "detail": finding.detail,
        "gain": finding.gain,
        "baseline_us": finding.baseline_us,
        "config_us": finding.config_us,
        "run": entry.run,
        "journal": finding.journal,
    }


def _annotation(finding: Finding) -> str:
    level = "error" if finding.status in _FAILS or finding.status in _ERRORS else "warning"
    title = _property(f"fusetune gate: {SIGNS[finding.status]}")
    entry = finding.entry
    message = f"{finding.op} {entry.problem.describe()}, {entry.config.label()}: {finding.detail}"
    return f"::{level} file={_property(str(finding.file))},title={title}::{_data(message)}"


def _data(text: str) -> str:
    """Escaped as GitHub's toolkit escapes the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escaped as GitHub's toolkit escapes a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """Text that stays in its cell and on its line, and is not taken for HTML."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _xml_text(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold, as a compiler's message may have."""
    return "".join(letter for letter in text if letter in "\t\n\r" or ord(letter) >= 32)
