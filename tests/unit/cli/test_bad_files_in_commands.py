"""Every command that reads a file of somebody else's ends with one short line and exit code 2, and never waits."""

from __future__ import annotations

import functools
import gzip
import json
import time
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from fusetune.cli.main import cli
from fusetune.errors import EXIT_USAGE, FusetuneError
from fusetune.store.paths import config_path
from fusetune.store.schema import Environment
from fusetune.store.yaml_files import dump_config_file
from tests.support.bad_files import CONFIG_FILES, JOURNALS, PACKED_JOURNALS
from tests.support.sample import BASELINE, OP, SIZES, SPEC, tile
from tests.unit.store.store_examples import RTX4090, config_file, measured

TILE = tile(columns=16, depth=128, num_stages=3)
HERE = Environment(triton=version("triton"), kernel_hash=SPEC.source_hash(BASELINE))
GOOD = dump_config_file(config_file(measured(config=TILE, environment=HERE)))
RUN = "20261123T062848-845c"
SECONDS = 20.0
LONG = "n" * 300


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: None)
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / "home" / name)
    for name in ("FUSETUNE_CONFIGS", "FUSETUNE_RUNS", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def _run(capsys, *arguments) -> tuple[int, str]:
    """The exit code, and what is said to be wrong, as the command line has it."""
    began = time.monotonic()
    code, told = 0, ""
    try:
        code = cli.main([str(one) for one in arguments], standalone_mode=False) or 0
    except FusetuneError as error:
        code, told = error.exit_code, f"Error: {error}"
    except click.ClickException as error:
        code, told = error.exit_code, f"Error: {error.format_message()}"
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert time.monotonic() - began < SECONDS
    return code, told or capsys.readouterr().err.strip()


def _refused(capsys, *arguments) -> str:
    code, told = _run(capsys, *arguments)
    assert code == EXIT_USAGE, told
    assert told
    assert "\n" not in told
    assert len(told) < 1500
    return told


def _place(make=None) -> Path:
    path = config_path(Path("configs"), RTX4090.name, OP)
    path.parent.mkdir(parents=True)
    (make or Path.write_text)(path, GOOD)
    return path


READING_CONFIGS = {
    "report": ["report"],
    "report as Markdown": ["report", "--format", "md"],
    "report of a folder": ["report", "--configs", "configs"],
    "gate": ["gate", "--static"],
    "gate of a folder": ["gate", "--static", "configs"],
    "pin": ["gate", "--pin"],
    "export": ["export", *SIZES, "--target", "rtx4090"],
}


@pytest.mark.parametrize("name", CONFIG_FILES)
@pytest.mark.parametrize("command", READING_CONFIGS)
def test_a_bad_file_of_configs_is_one_line(capsys, name, command):
    path = _place(CONFIG_FILES[name])
    assert str(path) in _refused(capsys, *READING_CONFIGS[command])


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_a_bad_file_that_is_named_is_one_line(capsys, name):
    path = _place(CONFIG_FILES[name])
    good = Path("good.yaml")
    good.write_text(GOOD)
    assert str(path) in _refused(capsys, "compare", path, good)
    assert str(path) in _refused(capsys, "compare", good, path)
    assert str(path) in _refused(capsys, "gate", "--static", path)


# --- runs


@functools.cache
def _good_journal() -> str:
    """That of a real sweep, with a tenth of what it left out and of what it only screened."""
    (source,) = Path(__file__).parents[2].glob(f"support/journals/{RUN}.jsonl.gz")
    lines = gzip.decompress(source.read_bytes()).decode().splitlines(keepends=True)
    records = list(map(json.loads, lines))
    told = {record["id"] for record in records if record["kind"] in {"block", "comparison"}}

    def stays(record) -> bool:
        screened = record["kind"] in {"candidate", "sample"} and record["id"] not in told
        return not screened or record["id"] % 10 == 0

    return "".join(line for line, record in zip(lines, records, strict=True) if stays(record))


def _journal(make, name: str = f"{RUN}.jsonl") -> Path:
    path = Path(".fusetune/runs") / name
    path.parent.mkdir(parents=True)
    make(path, _good_journal())
    return path


def test_the_good_journal_is_summed_up(capsys):
    _journal(Path.write_text)
    assert _run(capsys, "report", "--run", RUN) == (0, "")


STILL_SUMMED_UP = {"no candidate lines", "lines out of order", "a second run in it", "a first line that comes last"}
"""A report shows what there is of these; nothing is decided by them."""


@pytest.mark.parametrize("name", {**JOURNALS, **PACKED_JOURNALS})
def test_a_bad_journal_is_one_line_for_whoever_decides_by_it(capsys, name):
    packed = name in PACKED_JOURNALS
    path = _journal({**JOURNALS, **PACKED_JOURNALS}[name], f"{RUN}.jsonl{'.gz' if packed else ''}")
    _refused(capsys, "gate", "--from", RUN)
    _refused(capsys, "gate", "--from", path)


@pytest.mark.parametrize("form", ["table", "json", "md", "csv", "t4", "cachefile", "html"])
@pytest.mark.parametrize("name", {**JOURNALS, **PACKED_JOURNALS})
def test_a_bad_journal_is_no_end_of_a_report(capsys, name, form):
    packed = name in PACKED_JOURNALS
    _journal({**JOURNALS, **PACKED_JOURNALS}[name], f"{RUN}.jsonl{'.gz' if packed else ''}")
    shown = ["--html", "page.html"] if form == "html" else ["--format", form]
    code, told = _run(capsys, "report", "--run", RUN, *shown)
    assert code in ({0, EXIT_USAGE} if name in STILL_SUMMED_UP else {EXIT_USAGE}), told
    assert "\n" not in told
    assert len(told) < 1500
    _place(lambda path, good: path.write_text(good.replace("20261123T101500-3f9a", RUN)))
    code, told = _run(capsys, "report", *shown)
    assert code in {0, EXIT_USAGE}
    assert len(told) < 1500
    code, told = _run(capsys, "compare", RUN, RUN)
    assert code in {0, EXIT_USAGE}
    assert len(told) < 1500


# --- names and the environment


@pytest.mark.parametrize("form", ["table", "json", "md", "csv", "html"])
def test_a_run_with_a_name_of_300_characters_in_a_file_is_not_found(capsys, form):
    Path(".fusetune/runs").mkdir(parents=True)
    _place(lambda path, good: path.write_text(good.replace("20261123T101500-3f9a", LONG)))
    shown = ["--html", "page.html"] if form == "html" else ["--format", form]
    assert _run(capsys, "report", *shown)[0] == 0


@pytest.mark.parametrize("name", [LONG, "n/" * 3000, "~nosuchuser/x", "\udcff" * 300, "a\x1b[2J\nb"])
def test_a_name_that_nothing_can_have_is_one_line_wherever_it_is_given(capsys, name):
    _place()
    Path(".fusetune/runs").mkdir(parents=True)
    for arguments in (
        ["report", "--run", name],
        ["report", "--runs", name],
        ["report", "--configs", name],
        ["compare", name, "configs"],
        ["compare", f"{name}.yaml", f"{name}.yaml"],
        ["gate", "--from", name],
        ["gate", "--static", name],
        [*READING_CONFIGS["export"], "--configs", name],
    ):
        _refused(capsys, *arguments)


@pytest.mark.parametrize("variable", ["FUSETUNE_CONFIGS", "FUSETUNE_RUNS"])
@pytest.mark.parametrize("name", [LONG, "n/" * 3000, "~nosuchuser/x", "\udcff" * 300])
def test_a_variable_that_nothing_can_have_for_a_name_is_one_line(capsys, monkeypatch, variable, name):
    monkeypatch.setenv(variable, name)
    if variable == "FUSETUNE_CONFIGS":
        assert "cannot" in _refused(capsys, "report")
        assert "cannot" in _refused(capsys, *READING_CONFIGS["export"])
    _refused(capsys, "report", "--run", RUN)
    _refused(capsys, "compare", RUN, RUN)
    _refused(capsys, "gate", "--from", RUN)


def test_a_working_directory_that_is_gone_is_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (["report"], ["gate", "--static"], READING_CONFIGS["export"]):
        _refused(capsys, *arguments)


def test_a_link_to_itself_for_a_folder_is_one_line(capsys):
    Path("configs").symlink_to("configs")
    for arguments in (["report"], ["gate", "--static"], ["gate", "--static", "configs"], READING_CONFIGS["export"]):
        _refused(capsys, *arguments)


@pytest.mark.parametrize("name", [LONG, "n/" * 3000, "\udcff" * 300])
def test_a_program_or_an_output_with_a_name_that_nothing_can_have_is_one_line(capsys, name):
    Path("program.py").write_text("print()\n", encoding="utf-8")
    for arguments in (
        ["tune", f"{name}.py"],
        ["tune", f"{name}.py::test"],
        ["capture", f"{name}.py"],
        ["run", "--report", f"{name}/report.json", "program.py"],
        ["run", "--report", name, "program.py"],
        ["tune", "--target", "rtx4090", "--html", f"{name}/page.html", "program.py"],
    ):
        _refused(capsys, *arguments)
