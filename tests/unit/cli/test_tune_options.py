"""Options of `fusetune tune` on their way to what does the work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fusetune.capture import look as looking
from fusetune.capture.cases import Case, KernelSeen, Looked
from fusetune.capture.child import QUOTA_BYTES
from fusetune.cli.commands import cli
from fusetune.cli.program_check import ProgramCheck
from fusetune.cli.tune import exit_code, tune
from fusetune.cli.tuned_code import Code
from fusetune.compiler.processes import CompileProcesses
from fusetune.errors import ProgramError, UsageError
from fusetune.tune.program import End, EndedBy, Tuned


@pytest.mark.parametrize(("words", "asked"), [((), QUOTA_BYTES), (("--quota", "500MB"), 500_000_000)])
def test_a_quota_limits_what_is_kept_of_the_program(
    words: tuple[str, ...], asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def look(program: Any, **options: Any) -> Any:
        given.append(options)
        raise ProgramError("no further")

    monkeypatch.setattr(looking, "look", look)
    monkeypatch.setattr(CompileProcesses, "begin_to_load", lambda self: None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "bench.py").write_text("", encoding="utf-8")
    done = CliRunner().invoke(tune, ["--target", "rtx4090", *words, str(tmp_path / "bench.py")])
    assert isinstance(done.exception, ProgramError), done.output
    assert [one["quota_bytes"] for one in given] == [asked]


@pytest.mark.parametrize("name", ["tune", "capture"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kernl", "*norm*", "bench.py"], "No such option: --kernl; did you mean --kernel?"),
        (["--limitt=3", "bench.py"], "No such option: --limitt=3; did you mean --limit?"),
        (["-q", "bench.py"], "No such option: -q; it stands before the command: fusetune -q {name}"),
        (["-m", "pytest", "-q", "a.py"], "No such option: -q; a module's own stand behind --: -m pytest -- -q"),
        (["-m", "pytest", "-x", "a.py"], "No such option: -x; a module's own stand behind --: -m pytest -- -x"),
        (["-m", "mine", "--kernl=a", "b"], "No such option: --kernl=a; did you mean --kernel?"),
        (["-vv", "bench.py"], "No such option: -vv; it stands before the command: fusetune -vv {name}"),
    ],
)
def test_an_option_that_was_mistyped_before_the_program_is_not_taken_for_it(
    name: str, words: list[str], told: str
) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    with pytest.raises(click.NoSuchOption, match=re.escape(told.format(name=name))):
        command.make_context(name, list(words))


def test_what_stands_behind_the_program_is_its_own_and_so_is_a_file_of_such_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x.py").write_text("", encoding="utf-8")
    for words in (["bench.py", "--kernl", "-q"], ["--", "-x.py"], []):
        with tune.make_context("tune", list(words)) as context:
            assert list(context.params["program"]) == [word for word in words if word != "--"]
    with tune.make_context("tune", ["-m", "pytest", "--", "-q", "tests"]) as context:
        assert list(context.params["program"]) == ["-q", "tests"]
    with pytest.raises(click.NoSuchOption, match="-q"):
        tune.make_context("tune", ["-m", "pytest", "-q", "--", "tests"])


def test_a_quota_that_is_no_size_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(tune, ["--quota", "much", "bench.py"])
    assert done.exit_code == 2
    assert "is no size; write it as 4GiB or 500MB" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--bit-exact", "--rtol", "0.1"), "--bit-exact lets no bit differ, and --rtol says how far"),
        (("--bit-exact", "--atol", "0"), "--bit-exact lets no bit differ, and --atol says how far"),
        (("--html", "gone/page.html"), "--html gone/page.html: there is no folder gone"),
    ],
)
def test_what_cannot_be_is_refused_before_the_program_runs(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(looking, "look", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "bench.py").write_text("", encoding="utf-8")
    done = CliRunner().invoke(tune, ["--target", "rtx4090", *words, "bench.py"])
    assert isinstance(done.exception, UsageError), done.output
    assert told in str(done.exception)


@pytest.mark.parametrize(
    ("end", "by", "code"),
    [
        ("failed", "wrong_result", 5),
        ("failed", "not_compiled", 5),
        ("failed", "machine", 3),
        ("failed", "usage", 2),
        ("inconclusive", "noisy_machine", 3),
        ("skipped", "not_checkable", 0),
    ],
)
def test_a_machine_in_trouble_is_no_wrong_kernel(end: End, by: EndedBy, code: int) -> None:
    kernel = KernelSeen("k", "m", "m.py", 1)
    case = Case(kernel, (1,), "tuple", tensors={}, values={}, constants={}, options={}, before={})
    told = Tuned(case=case, op="k", problem=None, before=None, baseline=None, end=end, ended_by=by)
    assert exit_code(Looked((case,)), [told], ProgramCheck(), Code(None, None)) == code
