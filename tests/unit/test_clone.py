"""What the two commands of a fresh clone leave in it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fusetune.cli.sweep import sweep
from fusetune.store.paths import runs_dir

ROOT = Path(__file__).parents[2]


def test_make_sweep_writes_where_git_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSETUNE_RUNS", raising=False)
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "/fusetune sweep" in line)
    words = shlex.split(line.replace("$(BIN)/", ""))
    with sweep.make_context("sweep", words[2:]) as context:
        output = context.params["output"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert ".fusetune/" in ignored
    for written in (output, runs_dir()):
        assert written.parts[0] == ".fusetune"


def test_make_docs_writes_where_git_does_not_look() -> None:
    """What git ignores, a wheel and an sdist do not hold."""
    assert "\nsite_dir: site\n" in (ROOT / "mkdocs.yml").read_text()
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_words_of_the_makefile_are_a_command() -> None:
    """Guards the test above: a mistyped option would be seen."""
    assert CliRunner().invoke(sweep, ["--outptu", "x"]).exit_code == 2
