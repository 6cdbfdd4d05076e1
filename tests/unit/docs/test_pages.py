"""What pages that are written by hand say of the code: messages, variables, and the links of README.md."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import fusetune

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PACKAGE = Path(fusetune.__file__).parent
LEAST = 8
"""Letters that a part of a message has at least."""
VALUES = {"…", "BASELINE", "0.5%", "SIGKILL", "No space left on device"}
"""What stands in a message for a value, or is the operating system's."""
OF_LIBRARIES = {"XDG_CONFIG_HOME", "XDG_STATE_HOME", "TMPDIR"}
"""Variables that platformdirs and tempfile read for us."""
A_VARIABLE = re.compile(r"_?(?:FUSETUNE|TRITON|CUDA|GITHUB)_[A-Z_]+|CI|TERM|PYTHONPATH|TMPDIR")
NO_VARIABLES = {"CUDA_ERROR_", "TRITON_"}

MESSAGES = re.findall(
    r"^```text\n(.+)\n```$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.MULTILINE
)


@cache
def texts() -> tuple[str, ...]:
    """Each text of the package's code; where a value stands in one, `…`."""
    found: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


@cache
def is_of_the_code(words: tuple[str, ...]) -> bool:
    """Whether the words are, one after another, values and texts of the code."""
    if not words:
        return True
    for end in range(len(words), 0, -1):
        part = " ".join(words[:end]).strip("();:,. ")
        there = part in VALUES or not part or (len(part) >= LEAST and part in all_texts())
        if there and is_of_the_code(words[end:]):
            return True
    return False


@cache
def all_texts() -> str:
    return "\0".join(texts())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_troubleshooting_is_one_that_the_code_has(message: str) -> None:
    words = tuple(message.replace("…", " … ").split())
    assert is_of_the_code(words)


@pytest.mark.parametrize("message", ["there is no GPU in this machine", "torch … is built with no CUDA"])
def test_another_message_is_found_out(message: str) -> None:
    assert not is_of_the_code(tuple(message.split()))


def test_there_are_messages() -> None:
    assert len(MESSAGES) >= 25


def test_every_variable_that_is_read_is_described_and_no_other() -> None:
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(\w+)` \| .{15,} \|$", page, flags=re.MULTILINE))
    read = {text for text in texts() if A_VARIABLE.fullmatch(text)} - NO_VARIABLES
    assert described - OF_LIBRARIES == read - OF_LIBRARIES
    assert described >= OF_LIBRARIES


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_a_link_to_a_file_of_the_repository_leads_there(page: str) -> None:
    """mkdocs looks at those of docs/."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"", text):
        target, _, anchor = (link[0] or link[1]).partition("#")
        if target.startswith(("http://", "https://")):
            continue
        path = ROOT / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub and mkdocs make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
