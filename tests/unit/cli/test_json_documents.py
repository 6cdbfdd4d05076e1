"""--json is one and the same for every command: a document on stdout, and whatever else is said on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from fusetune.cli.commands import COMMANDS, cli
from fusetune.cli.shown import echo, echo_json, json_option
from fusetune.cli.swept import Failed, Swept, print_verdict, tell_document
from fusetune.core.progress import SilentProgress
from fusetune.errors import UsageError
from fusetune.measure.fake import FakeMeasurer
from fusetune.runtime.warmup import Warmed
from fusetune.tune.predict import predict
from fusetune.tune.sweep import sweep
from tests.support.killable import FAILURES, FAST, NOISE, PROBLEM, RTX4090, TRUE_US, install_compiler, request_of
from tests.support.sample import BASELINE, OP, SIZES

HAVE_NONE = {
    "run": "its stdout is the program's; --report FILE has what was applied",
    "export": "its stdout is the module",
    "worker": "it serves until it is ended",
}
"""Commands without --json, and why."""
SHIPPED = Path(__file__).parents[3] / "configs"


def of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in HAVE_NONE])
def test_every_command_that_tells_something_has_the_one_flag(name: str) -> None:
    (option,) = (option for option in of(name).params if "--json" in option.opts)
    assert isinstance(option, click.Option)
    assert (option.is_flag, option.help) == (True, "One JSON document on stdout; all else goes to stderr.")


@click.command()
@json_option
def saying(as_json: bool) -> None:
    echo("a line")
    if as_json:
        echo_json('{"a": 1}\n')
    echo("another")


def test_lines_beside_the_document_go_to_stderr() -> None:
    told = CliRunner().invoke(saying, ["--json"])
    assert (told.stdout, told.stderr) == ('{"a": 1}\n', "a line\nanother\n")
    assert CliRunner().invoke(saying, []).stdout == "a line\nanother\n"


@pytest.mark.parametrize(
    "words",
    [
        ("targets",),
        ("targets", "h200"),
        ("env",),
        ("report", "--configs", str(SHIPPED), "--limit", "2"),
        ("compare", str(SHIPPED / "nvidia-h200" / f"{OP}.yaml"), str(SHIPPED / "nvidia-h200" / f"{OP}.yaml")),
        ("profile", *SIZES, "--print-command"),
        ("capture", "--list"),
    ],
    ids=lambda words: words[0],
)
def test_stdout_is_one_document(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run(*words, "--json")
    assert told.exit_code == 0, told.stderr
    assert isinstance(json.loads(told.stdout), dict | list)
    assert told.stderr == ""


def test_the_flag_and_the_format_of_a_report_are_the_same() -> None:
    words = ("report", "--configs", str(SHIPPED), "--limit", "2")
    assert run(*words, "--json").stdout == run(*words, "--format", "json").stdout


@pytest.mark.parametrize("other", [("--format", "csv"), ("--html", "page.html")])
def test_two_forms_at_once_are_refused(other: tuple[str, str]) -> None:
    error = run("report", "--json", *other).exception
    assert isinstance(error, UsageError)
    assert "--json and --" in str(error)


def test_a_warm_up_says_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: True)
    monkeypatch.setattr("fusetune.runtime.configs.load", lambda *_, **__: None)
    monkeypatch.setattr("fusetune.runtime.warmup.warmup", lambda *_, **__: [Warmed(OP, PROBLEM, BASELINE, 12.3456)])
    (told,) = json.loads(run("warmup", "--json").stdout)
    assert told == {"op": OP, "problem": PROBLEM.to_builtins(), "config": BASELINE.to_builtins(), "ms": 12.346}


@click.command()
@json_option
@click.option("-q", "quiet", is_flag=True)
@click.pass_context
def telling(ctx: click.Context, as_json: bool, quiet: bool) -> None:
    """The end of a sweep, of whatever the test gave."""
    done, failed = ctx.obj
    for one in done:
        if one.result.entry.evidence == "measured":
            print_verdict(one.result)
    tell_document(done, failed, 3 if failed else 0)


def told_of(done: list[Swept], failed: list[Failed]) -> tuple[dict[str, Any], str]:
    told = CliRunner().invoke(telling, ["--json"], obj=(done, failed))
    assert told.exit_code == 0, told.exception
    return json.loads(told.stdout), told.stderr


def test_a_verdict_is_told_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_compiler(monkeypatch)
    request = request_of(tmp_path)
    measurer = FakeMeasurer(RTX4090, TRUE_US.__getitem__, noise=NOISE, failures=FAILURES)
    result = sweep(request, measurer, SilentProgress())
    document, lines = told_of([Swept(request, result, 0)], [])
    assert (document["sweep"], document["exit_code"], document["failed"]) == (1, 0, [])
    (problem,) = document["problems"]
    assert (problem["op"], problem["problem"]) == (request.spec.name, PROBLEM.to_builtins())
    assert (problem["verdict"], problem["evidence"], problem["label"]) == ("keep", "measured", FAST.label())
    assert problem["chosen"] == FAST.to_builtins()
    assert problem["best_us"] == pytest.approx(8.0, rel=0.02)
    assert problem["baseline_us"] == problem["before_us"] == pytest.approx(20.0, rel=0.02)
    assert problem["predicted_us"] is None
    gain = problem["gain"]
    assert 0.02 < gain["low"] <= gain["median"] <= gain["high"] < 1
    assert gain["median"] == pytest.approx(0.6, abs=0.02)
    assert problem["failures"]["nan"] == 1
    assert (problem["file"], problem["run"]) == (str(result.file), result.run)
    assert f"KEEP: {FAST.label()}" in lines, "people read the same on stderr"


def test_a_prediction_has_no_time_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_compiler(monkeypatch)
    request = request_of(tmp_path)
    result = predict(request, RTX4090, SilentProgress())
    document, _ = told_of([Swept(request, result, 0)], [])
    (problem,) = document["problems"]
    assert (problem["verdict"], problem["evidence"]) == ("unverified", "predicted")
    assert [problem[name] for name in ("before_us", "baseline_us", "conservative_us", "best_us")] == [None] * 4
    assert problem["predicted_us"]["baseline"] > 0
    assert all("us" not in ranked and ranked["predicted_us"] > 0 for ranked in problem["best"])


def test_a_problem_of_a_list_that_failed_is_told_with_its_place_and_why(tmp_path: Path) -> None:
    document, _ = told_of([], [Failed("line 3", request_of(tmp_path), 3, "too noisy")])
    assert document["exit_code"] == 3
    (failed,) = document["failed"]
    assert (failed["place"], failed["exit_code"], failed["why"]) == ("line 3", 3, "too noisy")
    assert failed["problem"] == PROBLEM.to_builtins()
