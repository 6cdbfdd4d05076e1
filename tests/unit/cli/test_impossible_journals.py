"""A journal, or a file of configs, that says what cannot be: the file and the line, in whatever reads it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fusetune.cli.main import cli
from fusetune.errors import ConfigFileError, JournalError
from fusetune.measure.replay import ReplayMeasurer
from fusetune.store.journal import read_journal
from fusetune.store.yaml_files import read_config_file
from tests.support.sample import FILE, OP

RUN = "20261123T062848-845c"
JOURNAL = Path(__file__).parents[2] / "support" / "journals" / f"{RUN}.jsonl.gz"
# Thousands of candidates that were rejected say nothing here.
LINES = [
    line
    for line in map(json.loads, gzip.decompress(JOURNAL.read_bytes()).splitlines())
    if line["kind"] != "candidate" or line["status"] == "checked" or line["id"] == 0
]
UNKNOWN = 10**6
Change = Callable[[dict[str, Any]], object]

IMPOSSIBLE: dict[str, tuple[str, str, Change]] = {
    # what it is: the kind of record, what is told, and what is changed in one record of that kind
    "a block of 0 us": ("block", "> 0.0", lambda line: line.update(us=0)),
    "a block of BASELINE of 0 us": ("block", "> 0.0", lambda line: line.update(baseline_us=0.0)),
    "a block of negative time": ("block", "> 0.0", lambda line: line.update(us=-5.3)),
    "a block of NaN": ("block", "$.us", lambda line: line.update(us="nan")),
    "a block of no JSON's NaN": ("block", "malformed", lambda line: line.update(us=math.nan)),
    "a block without end": ("block", "$.baseline_us", lambda line: line.update(baseline_us="inf")),
    "a block of nobody": ("block", f"candidate {UNKNOWN}", lambda line: line.update(id=UNKNOWN)),
    "a block beside nobody": ("block", f"candidate {UNKNOWN}", lambda line: line.update(baseline_id=UNKNOWN)),
    "a block of a negative number": ("block", ">= 0", lambda line: line.update(id=-1)),
    "a block of a phase that is none": ("block", "phase", lambda line: line.update(phase="afterwards")),
    "a sample of 0 us": ("sample", "> 0.0", lambda line: line.update(us=0.0)),
    "a sample of nobody": ("sample", f"candidate {UNKNOWN}", lambda line: line.update(id=UNKNOWN)),
    "a comparison of nobody": ("comparison", f"candidate {UNKNOWN}", lambda line: line.update(id=UNKNOWN)),
    "a comparison of no blocks": ("comparison", ">= 1", lambda line: line["gain"].update(blocks=0)),
    "a comparison that gains all": ("comparison", "< 1.0", lambda line: line["gain"].update(median=1.0)),
    "a comparison that gains NaN": ("comparison", "$.gain.low", lambda line: line["gain"].update(low="nan")),
    "a process of negative launches": ("sampling", ">= 0", lambda line: line.update(launches=-5)),
    "a phase of negative time": ("phase", ">= 0.0", lambda line: line.update(seconds=-1.0)),
    "negative registers": ("candidate", ">= 0", lambda line: line.update(resources=_resources(registers=-1))),
    "a prediction of 0 us": ("candidate", "> 0.0", lambda line: line.update(predicted_us=0)),
    "a confidence of 1.5": ("run", "< 1.0", lambda line: line["rule"].update(confidence=1.5)),
    "a confidence of 0": ("run", "> 0.5", lambda line: line["rule"].update(confidence=0)),
    "no looks": ("run", "length >= 1", lambda line: line["rule"].update(looks=[])),
    "a look after 0 blocks": ("run", ">= 1", lambda line: line["rule"].update(looks=[0, 25])),
    "a minimum gain of 1": ("run", "< 1.0", lambda line: line["rule"].update(min_gain=1)),
    "an entry of confidence 1.5": ("end", "< 1.0", lambda line: line["entry"]["gain"].update(confidence=1.5)),
    "an entry of a minimum gain of 1": ("end", "< 1.0", lambda line: line["entry"]["gain"].update(min_gain=1.0)),
    "an entry of a BASELINE of 0 us": ("end", "> 0.0", lambda line: line["entry"]["time_us"].update(baseline=0)),
    "an entry that gains over all": ("end", "< 1.0", lambda line: line["entry"]["gain"].update(median=2.0)),
}


def _resources(**changes: int) -> dict[str, int]:
    return {"registers": 64, "stack_bytes": 0, "shared_bytes": 0, **changes}


def damaged(folder: Path, kind: str, change: Change) -> tuple[Path, int]:
    """The journal with the last record of this kind changed, and that record's line."""
    lines = json.loads(json.dumps(LINES))
    place = max(number for number, line in enumerate(lines) if line["kind"] == kind)
    change(lines[place])
    path = folder / f"{RUN}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, place + 1


def ran(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_every_command_tells_the_file_and_the_line(tmp_path: Path, what: str) -> None:
    kind, told, change = IMPOSSIBLE[what]
    path, line = damaged(tmp_path, kind, change)
    commands: list[tuple[str | Path, ...]] = [
        ("gate", "--from", path),
        ("report", "--runs", tmp_path, "--run", RUN, "--html", tmp_path / "page.html"),
        ("report", "--runs", tmp_path, "--run", RUN, "--format", "md"),
        ("report", "--runs", tmp_path, "--run", RUN, "--format", "t4"),
        ("compare", path, JOURNAL),
    ]
    for command in commands:
        error = ran(*command).exception
        assert isinstance(error, JournalError), (command, error)
        assert error.exit_code == 2
        assert str(error).startswith(f"{path}, line {line}: "), error
        assert told in str(error), error
        assert "\n" not in str(error)
    assert not (tmp_path / "page.html").exists()


def test_a_report_of_files_whose_run_is_impossible_shows_the_rest_and_exits_2(tmp_path: Path) -> None:
    path, line = damaged(tmp_path, "block", lambda block: block.update(baseline_us=0))
    entry = LINES[-1]["entry"]
    start = LINES[0]
    configs = tmp_path / "configs" / "gpu"
    configs.mkdir(parents=True)
    held = {"schema": 1, "op": start["op"], "target": start["target"], "entries": [entry]}
    (configs / FILE).write_text(json.dumps(held))
    done = ran("report", "--configs", tmp_path / "configs", "--runs", tmp_path, "--html", tmp_path / "page.html")
    assert done.exit_code == 2, done.output
    assert f"{path}, line {line}: " in done.stderr
    assert (tmp_path / "page.html").exists()


def test_the_journal_itself_is_read_by_all_of_them(tmp_path: Path) -> None:
    """So that what is refused above is refused for what was changed."""
    path, _ = damaged(tmp_path, "end", lambda line: None)
    assert ran("gate", "--from", path).exit_code in {0, 3}
    for form in ("md", "json", "csv", "t4", "cachefile"):
        assert ran("report", "--runs", tmp_path, "--run", RUN, "--format", form).exit_code == 0
    ReplayMeasurer(read_journal(path))


@pytest.mark.parametrize("field", ["baseline", "conservative", "config"])
@pytest.mark.parametrize("value", ["0", "-3.5", ".nan", ".inf", "-.inf"])
def test_a_time_that_cannot_be_is_refused_in_a_file_of_configs(tmp_path: Path, field: str, value: str) -> None:
    times = {"baseline": "13.2", "conservative": "6.6", "config": "5.3", field: value}
    path = yaml_file(tmp_path, times=times)
    with pytest.raises(ConfigFileError, match=rf"line \d+: Expected `float` [<>] .*\$\.entries\[0\]\.time_us\.{field}"):
        read_config_file(path)
    for command in (("report", "--configs", tmp_path), ("gate", "--static", path), ("compare", path, path)):
        done = ran(*command)
        assert done.exit_code == 2 or isinstance(done.exception, ConfigFileError)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("median", "1.0"), ("median", ".nan"), ("low", ".nan"), ("high", ".nan")),
        *(("confidence", "1.5"), ("confidence", "0"), ("min_gain", "1.0"), ("min_gain", "-0.1")),
        *(("blocks", "0"), ("blocks", "-25")),
    ],
)
def test_a_gain_that_cannot_be_is_refused_in_a_file_of_configs(tmp_path: Path, field: str, value: str) -> None:
    with pytest.raises(ConfigFileError, match=rf"line \d+: Expected .*\$\.entries\[0\]\.gain\.{field}"):
        read_config_file(yaml_file(tmp_path, gain={field: value}))


def test_the_file_of_configs_without_a_change_is_read(tmp_path: Path) -> None:
    (entry,) = read_config_file(yaml_file(tmp_path)).entries
    assert entry.gain is not None
    assert math.isinf(read_config_file(yaml_file(tmp_path, gain={"low": "-.inf"})).entries[0].gain.low)  # type: ignore[union-attr]


def yaml_file(folder: Path, times: dict[str, str] | None = None, gain: dict[str, str] | None = None) -> Path:
    def flow(values: dict[str, str]) -> str:
        return "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"

    gains = {"median": "0.598", "low": "0.596", "high": "0.601", "confidence": "0.95", "min_gain": "0.02"}
    told = flow({**gains, "blocks": "50", **(gain or {})})
    path = folder / FILE
    path.write_text(f"""schema: 1
op: {OP}
target: {{name: NVIDIA H200, capability: '9.0', sms: 132}}
entries:
- problem: {{M: 128, N: 512, K: 1024, dtype: float32, precision: tf32}}
  config: {{}}
  evidence: measured
  verdict: keep
  reason: gain_confirmed
  environment: {{triton: 3.7.1, kernel_hash: a3f9c2d17b04}}
  run: 20261123T101500-3f9a
  date: '2026-11-23'
  gain: {told}
  time_us: {flow(times or {"baseline": "13.2", "conservative": "6.6", "config": "5.3"})}
""")
    return path
