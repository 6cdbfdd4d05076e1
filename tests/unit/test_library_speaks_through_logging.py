"""Below the commands nothing prints: the library logs, and whoever uses it decides where that goes."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import fusetune
from fusetune.core.progress import SilentProgress
from fusetune.measure.fake import FakeMeasurer
from fusetune.tune.sweep import sweep
from tests.support.killable import FAILURES, NOISE, RTX4090, TRUE_US, install_compiler, request_of

PACKAGE = Path(fusetune.__file__).parent
ARE_PROCESSES = {
    "capture/serving/called.py": "the main module of a process that `fusetune run` starts",
    "measure/profiled.py": "the main module of a process that ncu starts",
    "capture/serving/process.py": "the last word of a program that a missing config ends, in place of Python's",
}
"""Files that may print, since stderr is theirs, and why."""
PRINTING = {"print", "echo", "secho"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def printing(path: Path) -> Iterator[int]:
    """The lines of a file that print: a call of print or echo, or a write to a standard stream."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = getattr(function, "id", None) or getattr(function, "attr", None)
        of = getattr(function, "value", None)
        if name in PRINTING and not (isinstance(of, ast.Name) and of.id == "console"):  # rich's, handed in by a command
            yield node.lineno
        if name == "write" and isinstance(of, ast.Attribute) and of.attr in STREAMS:
            yield node.lineno


def test_nothing_below_the_commands_prints() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        place = str(path.relative_to(PACKAGE))
        if not place.startswith("cli/") and place not in ARE_PROCESSES:
            found |= {f"{place}:{line}": path for line in printing(path)}
    assert sorted(found) == []


@pytest.mark.parametrize("place", ARE_PROCESSES)
def test_a_print_would_be_seen(place: str) -> None:
    """Guards the test above, and keeps its list short."""
    assert [*printing(PACKAGE / place)]


def test_a_run_logs_what_becomes_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_compiler(monkeypatch)
    measurer = FakeMeasurer(RTX4090, TRUE_US.__getitem__, noise=NOISE, failures=FAILURES)
    with caplog.at_level(logging.DEBUG, logger="fusetune"):
        result = sweep(request_of(tmp_path), measurer, SilentProgress())
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    infos = [message for level, message in told if level == "INFO"]
    assert any(f"run {result.run} of " in line and str(result.journal) in line for line in infos)
    assert any(f"written in {result.file}" in line for line in infos)
    assert any("failed: nan: planted" in message for level, message in told if level == "DEBUG")
    assert {record.name.partition(".")[0] for record in caplog.records} == {"fusetune"}
    assert capsys.readouterr() == ("", "")
