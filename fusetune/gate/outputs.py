"""Findings for a build server: JSON, Markdown for a step's summary, GitHub annotations, JUnit XML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from fusetune.core.text import encodable, json_text, markdown, printable, shortened, shown, visible_lines
from fusetune.core.values import to_builtins
from fusetune.errors import UsageError
from fusetune.gate.findings import SIGNS, Finding, Status, exit_code, summary
from fusetune.store.whole import write_whole
from fusetune.units import format_gain, format_interval

W = TypeVar("W")

GATE_VERSION: Final = 1
"""History of the JSON form: 1, the first version."""
MAX_ANNOTATIONS: Final = 10
"""What GitHub shows of one step's errors, and of its warnings."""
MAX_MESSAGE: Final = 4000
"""Characters of an annotation's message: GitHub's runner cuts it at 4,096."""
MAX_SUMMARY: Final = 1000 * 1024
"""Bytes of a step's summary, what stood there before among them: GitHub drops all of one above 1,024 KiB."""
MAX_CELL: Final = 1000
"""Characters of a cell in it."""
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
        "findings": [_plain(finding) for finding in shown(list(findings), encodable)],
    }
    return json_text(msgspec.json.format(msgspec.json.encode(body, enc_hook=to_builtins), indent=2).decode()) + "\n"


def to_markdown(findings: Sequence[Finding], limit: int | None = None) -> str:
    """The findings as GitHub-flavoured Markdown, the worst first.

    With a limit, in bytes of UTF-8, as many as fit: long texts are cut, the findings left out are counted on the last
    line, and where not even the first line fits there is nothing.
    """
    headline = f"## fusetune gate: {summary(findings)}\n"
    table = ["", "| | problem | config | check | gain | what |", "|---|---|---|---|---|---|"] if findings else [""]
    order = list(SIGNS)[::-1]
    worst_first = sorted(findings, key=lambda finding: order.index(finding.status))
    if limit is None:
        return headline + "".join(f"{line}\n" for line in (*table, *map(_row, worst_first)))
    if len(headline.encode()) > limit:
        return ""
    head = headline + "".join(f"{line}\n" for line in table)
    left = limit - len(head.encode()) - len(_left_out(len(findings)).encode())
    if left < 0:
        return headline
    rows: list[str] = []
    for finding in worst_first:
        row = _row(finding, MAX_CELL) + "\n"
        left -= len(row.encode())
        if left < 0:
            break
        rows.append(row)
    more = len(findings) - len(rows)
    return head + "".join(rows) + (_left_out(more) if more else "")


def _left_out(count: int) -> str:
    return f"\n{count} more findings do not fit here; the log has them all, and so has the file of `--markdown`.\n"


def _row(finding: Finding, most: int | None = None) -> str:
    gain = finding.gain
    cells = (
        SIGNS[finding.status],
        f"{finding.op} {finding.entry.problem.describe()}",
        finding.entry.config.label(),
        finding.check,
        f"{format_gain(gain.median)} {format_interval(gain.low, gain.high)}" if gain else "-",
        finding.detail,
    )
    return f"| {' | '.join(markdown(cell if most is None else shortened(cell, most)) for cell in cells)} |"


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
        suite = TestSuite(printable(str(path)))
        for finding in findings:
            if finding.file != path:
                continue
            case = TestCase(
                printable(f"{finding.entry.problem.describe()} {finding.entry.config.label()}"),
                classname=printable(f"fusetune.gate.{finding.check}.{finding.op}"),
            )
            detail = visible_lines(finding.detail)
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

    `paths` has a file for `junit` and `markdown`, or None; such a file has every finding, whole, while the
    summary keeps below GitHub's limit, the worst first. Raises UsageError, which names the file, where one
    cannot be written.
    """
    environment = os.environ if environment is None else environment
    makers: dict[str, Callable[[Sequence[Finding]], str]] = {
        "junit": to_junit,
        "markdown": to_markdown,
    }
    for name, make in makers.items():
        path = paths.get(name)
        if path is not None:
            _writing(path, write_whole, make(findings))
    step_summary = environment.get(SUMMARY_VARIABLE)
    if step_summary:
        _writing(Path(step_summary), _append, findings)
    return to_annotations(findings) if environment.get(ACTIONS_VARIABLE) == "true" else []


def _append(path: Path, findings: Sequence[Finding]) -> None:
    """What still fits beside what the step has said before."""
    held = path.stat().st_size if path.exists() else 0
    with path.open("a", encoding="utf-8") as handle:
        handle.write(to_markdown(findings, MAX_SUMMARY - held))


def _writing(path: Path, write: Callable[[Path, W], object], what: W) -> None:
    try:
        write(path, what)
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
    message = visible_lines(f"{finding.op} {entry.problem.describe()}, {entry.config.label()}: {finding.detail}")
    place = _property(shortened(str(finding.file), MAX_CELL))
    return f"::{level} file={place},title={title}::{_data(shortened(message, MAX_MESSAGE))}"


def _data(text: str) -> str:
    """Escaped as GitHub's toolkit escapes the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escaped as GitHub's toolkit escapes a property of a workflow command."""
    return _data(printable(text)).replace(":", "%3A").replace(",", "%2C")
