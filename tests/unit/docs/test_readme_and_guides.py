"""README.md and the pages that people wrote: short, in short sentences, with links, figures and pictures that hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
from click.testing import CliRunner

from fusetune.cli.commands import COMMANDS, cli

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {"tune-my-program", "ship-configs", "gate-in-ci", "without-a-gpu", "read-a-report", "write-a-spec"}
CONCEPTS = {"keep-rule", "measuring", "what-may-vary", "evidence"}
WRITTEN = [
    ROOT / "README.md",
    DOCS / "first-steps.md",
    DOCS / "benchmarks.md",
    *sorted((DOCS / "guides").glob("*.md")),
    *sorted((DOCS / "concepts").glob("*.md")),
]
of_each_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)


def prose(text: str) -> list[str]:
    """The sentences of a page, without code, tables, headings and pictures; a point of a list ends one, too."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
    parts, part = [], ""
    for line in [*text.splitlines(), ""]:
        point = re.match(r"\s*(?:[-*>]|\d+\.)\s+(.*)", line)
        if not line.strip() or line.startswith(("#", "|")) or point:
            parts.append(part)
            part = point[1] if point else ""
        else:
            part += f" {line.strip()}"
    coded = (re.sub(r"!\[[^\]]*\]\([^)]*\)|`[^`]*`", "x", one) for one in parts)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", one) for one in coded)
    return [one.strip() for whole in plain for one in re.split(r"(?<=[.!?])\s+", whole) if one.strip()]


def read(name: str) -> dict[str, object]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_the_readme_is_short_and_so_are_the_first_steps() -> None:
    assert len(README.splitlines()) <= 130
    assert len((DOCS / "first-steps.md").read_text(encoding="utf-8").splitlines()) <= 15


@of_each_page
def test_sentences_are_short(page: Path) -> None:
    lengths = [len(sentence.split()) for sentence in prose(page.read_text(encoding="utf-8"))]
    assert mean(lengths) <= 15
    assert max(lengths) <= 50


def test_a_long_sentence_is_found_out_wherever_it_stands() -> None:
    long = " ".join(["word"] * 30)
    assert [len(one.split()) for one in prose(f"# Title\n\n- {long}\n  {long}.\n- two words\n\n| a | b |\n")] == [60, 2]


TELLS = re.compile(r"\b(?:tells|(?:is|are|be|was) told|(?:and|can|not|to|will) tell)\b(?!.{,20} apart\b)")
"""What the field calls to report; to tell apart is another thing."""


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_page_reports_and_does_not_tell(page: Path) -> None:
    assert TELLS.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_reports_too(name: str) -> None:
    assert TELLS.findall(CliRunner().invoke(cli, [name, "--help"]).output + COMMANDS[name]) == []


@of_each_page
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.is_file(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name} links to {link}"


def test_there_is_a_guide_for_each_task_and_a_page_for_each_concept() -> None:
    assert {path.stem for path in (DOCS / "guides").glob("*.md")} >= GUIDES | {"profile-with-ncu"}
    assert {path.stem for path in (DOCS / "concepts").glob("*.md")} >= CONCEPTS


def test_the_two_main_commands_are_those_that_ci_gives() -> None:
    given = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in ("make sweep", "make test"):
        assert command in given
        assert re.search(rf"^{command}(  |$)", README, flags=re.MULTILINE)


def test_the_three_numbers_are_those_of_the_committed_results() -> None:
    over = read("peers-nvidia-h200.json")["summary"]["same_precision"]
    assert f"**{1 / over['over_max_autotune']:.2f}x**" in README
    assert f"{1 - over['over_max_autotune']:.0%}".replace("%", " % less time") in README
    assert f"geometric mean of {over['cells']} problems" in README
    times = read("tuning_time-nvidia-h200.json")
    ours, theirs = times["fusetune_s"], times["autotune_process_s"]
    assert f"**{theirs / ours:.1f}x** as fast: {ours} s, not {theirs} s" in README
    made = read("decision-nvidia-h200.json")
    outcomes = [made[name]["outcomes"] for name in ("aa_small", "aa_large")]
    assert sum(sum(one.values()) for one in outcomes) == 250
    assert sum(one.get("keep", 0) for one in outcomes) == 0
    assert re.search(r"250 decisions \| \*\*0\*\* false", README)


def test_what_programs_of_others_gained_is_what_was_measured() -> None:
    found = read("programs-nvidia-h200.json")["summary"]
    ratio, kept, all_of_them = found["ratio_geometric_mean"], found["main_kernels_kept"], found["main_kernels"]
    assert f"{1 / ratio:.2f}x as fast ({ratio:.2f} of the time" in README
    assert f"{kept} of {all_of_them} were kept" in README


def test_each_table_of_the_benchmarks_stands_under_a_command_that_there_is() -> None:
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        commands = re.findall(r"python (benchmarks/\w+\.py)", section)
        assert commands or "\n|" not in section, section.splitlines()[0]
        assert all((ROOT / command).is_file() for command in commands)
    assert sum("\n|" in section for section in sections) >= 6


def test_the_gpus_that_are_counted_are_those_of_the_table() -> None:
    from fusetune.core.target import known_targets

    assert f"compiles for {len(known_targets())} GPUs" in README


def test_the_pictures_of_reports_are_what_the_commands_print_now() -> None:
    command = [sys.executable, str(DOCS / "pictures.py"), "--check", "report", "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
