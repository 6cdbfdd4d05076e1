"""docs/guides/many-gpus.md: every command of ours that it shows can be given as it stands, and its YAML is YAML."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from fusetune.cli.commands import cli

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "many-gpus.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.strip() for kind, text in BLOCKS if kind in {"sh", "text"} for line in text.splitlines() if "fusetune " in line
]


def words_of(line: str) -> list[str]:
    """Those of our command in a line of a shell, without what runs it and what lies behind it."""
    words = shlex.split(line.replace("$HEAD", "head").removesuffix("&"))
    last = max((place for place, word in enumerate(words) if word == "fusetune"), default=len(words))
    return words[last + 1 :]


OURS = [line for line in COMMANDS if words_of(line) and not words_of(line)[0].startswith("--")]
"""Without those that only name an image or a pod so."""


@pytest.mark.parametrize("line", OURS)
def test_a_command_of_the_guide_can_be_given(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shapes.csv", "cluster.yaml"):
        Path(name).touch()
    words = words_of(line)
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    command.make_context(words[0], words[1:]).close()


def test_there_are_commands_and_each_kind_of_fleet_is_among_them() -> None:
    told = "\n".join(COMMANDS)
    for words in (
        "--gpus all",
        "--gpus 0,1",
        "--scheduler tcp://",
        "--dask-config",
        "fusetune worker",
        "fusetune tune",
    ):
        assert words in told


def test_its_yaml_is_yaml_and_starts_commands_that_are_there() -> None:
    found = [one for kind, text in BLOCKS if kind == "yaml" for one in yaml.safe_load_all(text)]
    started = [
        [str(word) for word in container["command"]]
        for one in found
        if one.get("kind") == "Deployment"
        for container in one["spec"]["template"]["spec"]["containers"]
    ]
    assert [command[:2] for command in started] == [["dask", "scheduler"], ["fusetune", "worker"]]
    ours = started[1]
    command = cli.get_command(click.Context(cli), ours[1])
    assert command is not None
    command.make_context(ours[1], ours[2:]).close()
    assert {"scheduler-address", "distributed"} <= found[0].keys()


def test_what_it_says_of_the_rules_is_what_they_are() -> None:
    from fusetune.fleet.schedule import RULES

    assert (RULES.moves, RULES.deaths, RULES.strikes, RULES.silent_s) == (2, 5, 3, 300.0)
    assert "twice at most" in TEXT
    assert "after six times the problem is reported" in TEXT
    assert "loses three problems one after another" in TEXT
    assert "says nothing for five minutes" in TEXT
