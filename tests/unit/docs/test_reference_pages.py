"""The pages of the reference, which are made of the code at each build: nothing public is left out."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import fusetune
from fusetune import errors
from fusetune.cli.commands import COMMANDS, cli
from fusetune.cli.signals import Terminated

CI = Path(__file__).parents[3] / ".ci"


def of_ci(name: str) -> Any:
    """A module of `.ci/`, which is no package."""
    sys.path.insert(0, str(CI))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(CI))


reference, reference_types, docs_hook = map(of_ci, ("reference", "reference_types", "docs_hook"))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_each_command_stands_there_with_every_option_and_its_examples(pages: dict[str, str]) -> None:
    sections = re.split(r"^## ", pages["reference/commands.md"], flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections] == [f"fusetune {name}" for name in COMMANDS]
    for name, section in zip(COMMANDS, sections, strict=True):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        told = re.findall(r"^`(-.*)`\n: {3}(.+)", section, flags=re.MULTILINE)
        assert len(told) == len([option for option in options if not option.hidden]) + 1  # --help
        for option in options:
            assert any(option.opts[-1] in names.split(" / ")[0].replace(",", " ").split() for names, _ in told)
        assert section.count(f"\nfusetune {name}") >= 3


def test_each_exit_code_has_its_meaning(pages: dict[str, str]) -> None:
    rows = re.findall(r"^\| `(\d+)` \| (.+) \|$", pages["reference/exit-codes.md"], flags=re.MULTILINE)
    assert [int(code) for code, _ in rows] == sorted(reference.exit_codes().values())
    assert {0, 1, 2, 3, 4, 5, 6, 70, 130} < set(reference.exit_codes().values())
    assert all(len(meaning.split()) >= 4 for _, meaning in rows)
    for name in fusetune._ERRORS:
        assert f"[`{name}`]" in pages["reference/exit-codes.md"]


def test_a_signal_ends_with_the_code_that_is_documented() -> None:
    assert Terminated(signal.SIGTERM).code == errors.EXIT_TERMINATED
    assert Terminated(signal.SIGHUP).code == errors.EXIT_HANGUP


def test_each_public_name_is_described_once(pages: dict[str, str]) -> None:
    described = re.findall(r"^ {6}heading: fusetune\.(\w+)$", pages["reference/python.md"], flags=re.MULTILINE)
    assert sorted(described) == sorted(set(fusetune.__all__) - {"__version__"})
    assert "## More" not in pages["reference/python.md"], "a public name has no part of the page"


@pytest.mark.parametrize("struct", reference_types.structs(), ids=lambda struct: struct.__name__)
def test_each_field_of_a_file_is_described(struct: type, pages: dict[str, str]) -> None:
    assert f"\n### {struct.__name__}\n" in pages["reference/files.md"]
    for field in msgspec.structs.fields(struct):
        meaning = reference_types.field_meaning(struct, field.encode_name)
        named = re.search(rf"\b{field.encode_name}\b", struct.__doc__ or "")
        assert meaning or named or struct.__module__ in PLAIN, f"{struct.__name__}.{field.encode_name} has no meaning"
        assert f"| `{field.encode_name}` |" in pages["reference/files.md"]


PLAIN = ("fusetune.gate.pins", "fusetune.compiler.record", "fusetune.compiler.sass", "fusetune.capture.pinned")
"""Where a field of a pin is what its name says."""


@pytest.mark.parametrize("script", ["reference.py", "architecture.py"])
@pytest.mark.parametrize("words", [["--help"], []])
def test_a_script_that_is_asked_for_its_help_makes_no_file_of_that_name(
    script: str, words: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, str(CI / script), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{script} F")
    assert list(tmp_path.iterdir()) == []


def test_text_of_the_code_is_shown_as_it_is() -> None:
    assert reference_types.prose("x [M, K] * 2,\n`a|b` <gpu>") == r"x \[M, K\] \* 2, `a|b` \<gpu\>"
    assert reference_types.prose("a | `b | c`") == r"a \| `b | c`"


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://unpkg.com/mermaid"></script>',
        "<link rel=stylesheet href=//fonts.example/css>",
        '<link href="https://x.example/a.css" rel="stylesheet">',
        '<p><img alt="a" src="http://x.example/a.png">',
    ],
)
def test_a_page_that_asks_another_host_is_found_out(html: str) -> None:
    assert len(docs_hook.asked(html)) == 1


def test_links_that_a_reader_follows_are_no_matter() -> None:
    assert docs_hook.asked('<a href="https://x.example/">x</a><script src="assets/a.js"></script>') == []
    assert docs_hook.asked('<link rel="canonical" href="https://x.example/">') == []
