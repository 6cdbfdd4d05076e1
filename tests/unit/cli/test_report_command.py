from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from fusetune.cli.report import report
from fusetune.core.decision import Gain, KeepRule
from fusetune.errors import UsageError
from fusetune.store import journal
from fusetune.store.journal import JOURNAL_VERSION, Candidate, JournalWriter, RunEnd, RunStart, Sample
from fusetune.store.regular import read_regular
from fusetune.store.schema import Entry, Environment, TargetIdentity, Times
from fusetune.store.yaml_files import write_entry
from tests.support.sample import BASELINE, FILE, OP, SIZES, make_problem, tile

H200 = TargetIdentity("NVIDIA H200", "9.0", 132)
ENVIRONMENT = Environment(triton="3.7.1", kernel_hash="a3f9c2d17b04", torch="2.13.0", driver="580.82.07")
WINNER = tile(rows=64, columns=16, depth=128, num_stages=3)
RUN = "20261123T101500-3f9a"
ENTRY = Entry(
    problem=make_problem(128, 512, 1024, "float32"),
    config=WINNER,
    evidence="measured",
    verdict="keep",
    reason="gain_confirmed",
    environment=ENVIRONMENT,
    run=RUN,
    date="2026-11-23",
    gain=Gain(0.598, 0.596, 0.601, confidence=0.95, min_gain=0.02, blocks=50),
    time_us=Times(baseline=13.2, conservative=6.6, config=5.3),
)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory, a home and a screen of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSETUNE_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.setenv("FUSETUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: None)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A folder with one good file."""
    write_entry(tmp_path / "configs" / "nvidia-h200" / FILE, OP, H200, ENTRY)
    return tmp_path / "configs"


def write_journal(folder: Path, entry: Entry = ENTRY) -> None:
    with JournalWriter(folder / f"{entry.run}.jsonl") as made:
        made.write(
            RunStart(
                journal=JOURNAL_VERSION,
                run=entry.run,
                started="2026-11-23T10:15:00Z",
                fusetune="0.1.0",
                op=OP,
                problem=entry.problem,
                target=H200,
                evidence="measured",
                environment=ENVIRONMENT,
                space="full",
                seed=7,
                rule=KeepRule(),
            )
        )
        for number, config, time_us in ((0, BASELINE, 13.3), (1, WINNER, 5.42)):
            made.write(Candidate(number, config, "checked"))
            made.write(Sample(number, 0, time_us))
        made.write(Candidate(2, tile(rows=256), "rejected", "spills"))
        made.write(RunEnd(entry, None, "kept"))


def damage(configs: Path) -> Path:
    path = configs / "other" / FILE
    path.parent.mkdir(parents=True)
    path.write_text("schema: 1\nop: [broken\n", encoding="utf-8")
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(report, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("alone", [True, False])
def test_pages_read_each_journal_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alone: bool) -> None:
    write_journal(tmp_path / "runs")
    other = replace(ENTRY, problem=make_problem(256, 512, 1024, "float32"), run="20261123T101501-3f9b")
    write_entry(tmp_path / "configs" / "nvidia-h200" / FILE, OP, H200, other)
    write_journal(tmp_path / "runs", other)
    read = []

    def counting(path: Path, most: int) -> bytes:
        read.append(path.name)
        return read_regular(path, most)

    monkeypatch.setattr(journal, "read_regular", counting)
    result = invoke("--html", "page.html", *(["--run", RUN] if alone else []))
    assert result.exit_code == 0, result.output
    runs = [RUN] if alone else [RUN, other.run]
    assert sorted(read) == [f"{run}.jsonl" for run in runs]
    pages = ["page.html", *([] if alone else [f"page-runs/{run}.html" for run in runs])]
    of_a_run = (tmp_path / ("page.html" if alone else pages[1])).read_text(encoding="utf-8")
    assert f"fusetune report --run {RUN}" in of_a_run
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")) == sorted(pages)


@pytest.mark.usefixtures("configs")
def test_the_search_path_and_the_folder_of_runs_are_read_by_default(tmp_path: Path) -> None:
    write_journal(tmp_path / "runs")
    result = invoke()
    assert result.exit_code == 0
    assert result.stdout.startswith("1 problem: 1 keep\n")
    for figure in ("5.30 us", "+59.8 %", "`fusetune report --run ID` shows what a run tried"):
        assert figure in result.stdout
    assert "was not found" not in result.stdout
    assert result.stderr == ""


def test_each_problem_is_a_line_of_80_columns(configs: Path) -> None:
    for size in (16, 32, 64):
        write_entry(
            configs / "nvidia-h200" / FILE, OP, H200, replace(ENTRY, problem=make_problem(size, 8, 8, "float16"))
        )
    lines = invoke().stdout.splitlines()
    assert lines[0].rstrip() == "4 problems: 4 keep"
    assert lines[2] == f"{OP}, NVIDIA H200"
    assert [line.split()[0] for line in lines[3:7]] == ["M=16", "M=32", "M=64", "M=128"]
    assert lines[6] == "  M=128 K=1024 N=512 float32 tf32 64x16x128 w4 s3 5.30 us +59.8 % keep"
    assert max(map(len, lines)) <= 80


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("name", [RUN, RUN[:9], "latest"])
def test_one_run_is_named_by_its_id_by_the_begin_of_it_or_as_the_latest(name: str, tmp_path: Path) -> None:
    write_journal(tmp_path / "runs")
    result = invoke("--run", name)
    assert result.exit_code == 0
    for figure in ("13.2 us", "5.30 us", "+59.8 %", "[+59.6, +60.1] %", "5.42 us", f"Run {RUN}"):
        assert figure in result.stdout


@pytest.mark.usefixtures("configs")
def test_what_comes_with_fusetune_is_shown_when_it_is_asked_for_and_after_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    write_entry(shipped / "nvidia-h100" / FILE, OP, TargetIdentity("NVIDIA H100", "9.0", 114), ENTRY)
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: shipped)

    def gpus(*arguments: str) -> list[str]:
        return [row["gpu"] for row in json.loads(invoke("--format", "json", *arguments).stdout)["rows"]]

    assert gpus() == ["NVIDIA H200"]
    assert gpus("--shipped") == ["NVIDIA H200", "NVIDIA H100"]
    assert gpus("--configs", str(shipped)) == ["NVIDIA H100"]


def test_in_a_clone_ones_own_are_those_whose_runs_are_here(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ENTRY, problem=make_problem(64, 8, 8, "float16"), run="20261120T101500-aaaa")
    write_entry(configs / "nvidia-h200" / FILE, OP, H200, other)
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", configs.resolve)
    monkeypatch.setenv("FUSETUNE_CONFIGS", "")
    result = invoke()
    assert isinstance(result.exception, UsageError)
    assert "`fusetune report --shipped` shows those that come with fusetune" in str(result.exception)
    write_journal(tmp_path / "runs")
    body = json.loads(invoke("--format", "json").stdout)
    assert [row["run"] for row in body["rows"]] == [RUN]
    assert body["missing_runs"] == []


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--run", RUN, "--op", OP), "--run shows one run"),
        (("--since", "yesterday"), "'yesterday' is no day; write 2026-11-23, or 7d"),
        (("--gpu", "h100"), "--gpu h100: no problem has it; there are NVIDIA H200"),
    ],
)
def test_filters_that_cannot_be_are_one_sentence(arguments: tuple[str, ...], told: str) -> None:
    result = invoke(*arguments)
    assert isinstance(result.exception, UsageError)
    assert told in str(result.exception)


def test_a_missing_journal_is_said_and_is_no_error(configs: Path) -> None:
    result = invoke("--configs", configs)
    assert result.exit_code == 0
    assert f"The journal of run {RUN} was not found" in " ".join(result.stdout.split())


def test_folders_given_replace_the_default_ones(configs: Path, tmp_path: Path) -> None:
    write_journal(tmp_path / "elsewhere")
    more = tmp_path / "more"
    write_entry(more / "nvidia-h100" / FILE, OP, TargetIdentity("NVIDIA H100", "9.0", 114), ENTRY)
    result = invoke("--configs", more, "--runs", tmp_path / "elsewhere", "--format", "json")
    body = json.loads(result.stdout)
    assert [row["gpu"] for row in body["rows"]] == ["NVIDIA H100"]
    assert [run["run"] for run in body["runs"]] == [RUN]
    both = json.loads(invoke("--configs", more, "--configs", configs, "--format", "json").stdout)
    assert [row["gpu"] for row in both["rows"]] == ["NVIDIA H100", "NVIDIA H200"]
    assert both["missing_runs"] == [RUN]


@pytest.mark.usefixtures("configs")
def test_each_format_can_be_read_back() -> None:
    assert json.loads(invoke("--format", "json").stdout)["rows"][0]["config_us"] == 5.3
    rows = list(csv.DictReader(io.StringIO(invoke("--format", "csv").stdout)))
    assert [(row["op"], row["gain_median"]) for row in rows] == [(OP, "0.598")]
    assert f"| {OP} | M=128 K=1024 N=512 float32 tf32 | 13.2 us | 5.30 us |" in invoke("--format", "md").stdout


def test_nothing_found_says_where_it_looked_and_what_makes_one(tmp_path: Path) -> None:
    result = invoke()
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    message = str(result.exception)
    assert f"{tmp_path / 'configs'} (no such folder)" in message
    assert str(tmp_path / "home" / "fusetune" / "configs") in message
    assert f"`fusetune sweep {' '.join(SIZES)}` makes one" in message
    assert result.stdout == ""


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("option", ["--configs", "--runs"])
def test_a_folder_that_is_not_there_is_refused_by_name(option: str) -> None:
    result = invoke(option, "mistyped")
    assert isinstance(result.exception, UsageError)
    assert f"{option} mistyped: there is no such folder" in str(result.exception)


def test_a_file_is_no_folder_of_configs(configs: Path) -> None:
    (configs / "one.yaml").touch()
    result = invoke("--configs", str(configs / "one.yaml"))
    assert "one.yaml is a file; name the folder that it is in" in str(result.exception)


def test_a_damaged_file_gives_exit_code_two_after_the_others_are_shown(configs: Path) -> None:
    damaged = damage(configs)
    result = invoke()
    assert result.exit_code == 2
    assert "+59.8 %" in result.stdout
    assert "1 file could not be read." in result.stdout
    assert str(damaged) in result.stderr
    assert result.stderr.startswith("error: ")
    assert str(damaged) not in result.stdout


def test_damage_does_not_spoil_the_json_on_stdout(configs: Path) -> None:
    damaged = damage(configs)
    result = invoke("--format", "json")
    assert result.exit_code == 2
    assert [file["path"] for file in json.loads(result.stdout)["damaged_files"]] == [str(damaged)]


def test_nothing_but_damaged_files_is_reported_as_damage(tmp_path: Path) -> None:
    damaged = damage(tmp_path / "configs")
    result = invoke()
    assert result.exit_code == 2
    assert str(damaged) in result.stderr
    assert result.stdout.startswith("0 problems\n")


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_a_file_gets_what_stdout_would_and_nothing_else_is_left(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    result = invoke("--format", form, "--output", folder / "report.txt")
    assert (result.exit_code, result.stdout) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["report.txt"]
    text = (folder / "report.txt").read_text(encoding="utf-8")
    assert ("0.598" if form in ("json", "csv") else "+59.8 %") in text
    assert "\x1b" not in text


@pytest.mark.usefixtures("configs")
def test_an_output_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    result = invoke("-o", tmp_path / "no" / "such" / "report.txt")
    assert isinstance(result.exception, UsageError)
    assert "cannot write" in str(result.exception)


@pytest.mark.usefixtures("configs")
def test_an_output_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    assert invoke("--format", "md", "-o", path).exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text(encoding="utf-8").startswith("# 1 problem: 1 keep\n")


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    result = invoke("--format", "xml")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in ("table", "json", "csv", "md"))
