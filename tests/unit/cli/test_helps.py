"""The help of each command: groups, metavars that say what they are, three examples that can be given as they are."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from fusetune.cli.commands import COMMANDS, cli
from fusetune.cli.helped import GROUPS, OTHER, Helped, examples_of

MANY = 8
"""From so many options on they stand in groups."""

SHARED = {"Problem": ("--shapes",), "Config": ("--target", "--config"), "Program": ("--reference",)}
"""Options that only some of the commands with this group have."""


def command_named(name: str) -> Helped:
    found = cli.get_command(click.Context(cli), name)
    assert isinstance(found, Helped)
    return found


def help_of(name: str) -> str:
    return CliRunner().invoke(cli, [name, "--help"], terminal_width=80).output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_three_examples_and_each_can_be_given_as_it_is(name: str) -> None:
    examples = examples_of(name)
    assert len(examples) == 3
    for line, about in examples:
        words = shlex.split(line.partition(" > ")[0])
        assert words[:2] == ["fusetune", name]
        command_named(name).make_context(name, words[2:]).close()
        assert f"  # {about}\n  {line}\n" in help_of(name)
        assert len(line) <= 78


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_one_group(name: str) -> None:
    command = command_named(name)
    placed = [parameter for _, parameter in command.in_groups(click.Context(command))]
    assert len(placed) == len(set(placed))
    assert set(command.params) <= set(placed)
    for group, names in GROUPS.get(name, {}).items():
        there = [parameter for title, parameter in command.in_groups(click.Context(command)) if title == group]
        assert there, f"{group} is empty"
        optional = set(SHARED.get(group, ()))
        known = {opt for parameter in there for opt in parameter.opts}
        assert set(names) - optional <= known, f"{group} names an option that there is not"


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_command_that_has_many_stand_in_groups(name: str) -> None:
    titles = [title for title, _ in command_named(name).in_groups(click.Context(command_named(name)))]
    assert (OTHER in titles) == (len(command_named(name).params) > MANY or name in GROUPS)
    text = help_of(name)
    assert "PROGRAM [ARGS]" not in text.partition("Examples:")[0].rpartition(":\n")[2]
    for title in dict.fromkeys(titles):
        assert f"\n{title}:\n" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_option_takes_is_said_in_a_word_of_its_own(name: str) -> None:
    context = click.Context(command_named(name))
    for option in command_named(name).params:
        if isinstance(option, click.Option) and not option.is_flag and not option.count:
            assert option.make_metavar(context) not in {"TEXT", "INTEGER", "INTEGER RANGE", "FLOAT RANGE", "DIRECTORY"}


def test_the_first_help_has_examples_too() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert "\nExamples:\n  fusetune tune train.py\n  fusetune sweep " in text
