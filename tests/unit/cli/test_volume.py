"""-q and -v: what is said on stderr beside the results, and by which logger of the library."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fusetune.cli.commands import COMMANDS, cli
from fusetune.cli.progress import PlainProgress, QuietProgress, make_progress
from fusetune.cli.volume import LOGGER
from fusetune.store.schema import Environment, TargetIdentity
from fusetune.store.yaml_files import write_entry
from tests.support.sample import FILE, OP
from tests.unit.cli.test_report_command import ENTRY

H200 = TargetIdentity("NVIDIA H200", "9.0", 132)
WITH_A_PROGRAM = ("tune", "run", "capture")


@pytest.fixture
def speaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fusetune targets` logs, and says how its work goes."""

    def work() -> tuple[()]:
        logging.getLogger(f"{LOGGER}.store").info("looked %s up", "all")
        logging.getLogger(f"{LOGGER}.store").debug("in detail")
        with make_progress().phase("work"):
            make_progress().warn("it is late")
        return ()

    monkeypatch.setattr("fusetune.cli.targets.known_targets", work)
    monkeypatch.setattr("fusetune.cli.targets._table", lambda chosen: "table")


@pytest.mark.usefixtures("speaking")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["targets"], ["work: started", "warning: it is late", "work: done after 0.0 s"]),
        (["targets", "-q"], ["warning: it is late"]),
        (["-q", "targets"], ["warning: it is late"]),
        (["targets", "-q", "-v"], ["fusetune.store: looked all up", "warning: it is late"]),
        (["-qvv", "targets"], ["fusetune.store: looked all up", "fusetune.store: in detail", "warning: it is late"]),
    ],
)
def test_stderr_has_as_much_as_was_asked_for_and_stdout_the_same(arguments: list[str], told: list[str]) -> None:
    logger = logging.getLogger(LOGGER)
    level = logger.level
    done = CliRunner().invoke(cli, arguments)
    logger.setLevel(level)
    assert (done.exit_code, done.stdout) == (0, "table\n")
    assert done.stderr.splitlines() == told
    assert not logger.handlers


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stands_behind_a_program_is_the_programs(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("-v" in options) == ("-q" in options) == (name not in WITH_A_PROGRAM)


def test_outside_of_a_command_nothing_is_quiet() -> None:
    assert isinstance(make_progress(io.StringIO(), {}), PlainProgress)


def test_a_quiet_progress_says_warnings_alone() -> None:
    stream = io.StringIO()
    progress = QuietProgress(stream)
    with progress.phase("work", 3) as phase:
        phase.advance()
        progress.say("something")
    progress.warn("it is\nlate")
    assert stream.getvalue() == "warning: it is\\x0alate\n"


def test_what_is_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / FILE
    with caplog.at_level(logging.INFO, LOGGER):
        write_entry(path, OP, H200, ENTRY)
    assert f"written in {path}" in caplog.text
    assert caplog.records[0].name == "fusetune.store.yaml_files"


def test_what_is_looked_up_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusetune.runtime.configs import ConfigSource

    monkeypatch.setattr(
        ConfigSource, "environment", staticmethod(lambda op: Environment(triton="3.7.1", kernel_hash="0"))
    )
    with caplog.at_level(logging.INFO, LOGGER):
        found = ConfigSource(tmp_path).find(OP, ENTRY.problem, H200)
    assert caplog.messages == [f"{OP} {ENTRY.problem.describe()}: {found.config.label()}, {found.reason}"]
