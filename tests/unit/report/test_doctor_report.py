"""What a file of `fusetune doctor` looks like to who reads it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs
from rich.console import Console

from fusetune.cli.report import report
from fusetune.core.environment import TargetIdentity
from fusetune.report.doctor import WITHOUT_GPU, finding_lines, render_doctor, verdict_line
from fusetune.store.doctor_file import (
    DoctorFile,
    Examined,
    Finding,
    GainFound,
    Launched,
    NotReached,
    Recorded,
    Versions,
    doctor_text,
    read_doctor_file,
)

ROOT = Path(__file__).parents[3]
GAIN = GainFound(0.5, 0.495, 0.505, 0.95, 25)
CONFIG = {"BLOCK": 256, "num_warps": 4, "num_stages": 2}
RIGHT = Launched(CONFIG, "BLOCK=256 w4 s2", "variant", "right", error=2e-4, sample_us=4.0, predicted_us=5.0)
ENTRY = Launched(
    CONFIG,
    "BLOCK=512 w4 s2",
    "entry",
    "right",
    error=1e-4,
    predicted_us=6.0,
    us=5.0,
    baseline_us=10.0,
    gain=GAIN,
    recorded=Recorded("measured", "keep", "2026-11-26", 5.2, 10.4, 0.48, stale=True),
)
WRONG = Launched(CONFIG, "BLOCK=1024 w4 s2", "variant", "failed", "wrong_result", "z: relative error 0.3")
FILE = DoctorFile(
    doctor=1,
    date="2026-11-30",
    complete=False,
    versions=Versions("0.1.0", "3.12.3", "Linux", torch="2.11.0", triton="3.6.0", ptxas="12.8.93", driver="580.82.07"),
    gpu=TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132),
    findings=(Finding("gpu", "ok", "NVIDIA H200"), Finding("power", "note", "limited to 250 W", "lift it")),
    kernels=(
        Examined("an_op", {"n": 4096}, "n=4096", 1e-3, "graph", (RIGHT, WRONG)),
        Examined("an_op", {"n": 8192}, "n=8192", 1e-3, "graph", (ENTRY,)),
        Examined("an_op", {"n": 16384}, "n=16384", trouble="the measuring process was lost"),
    ),
    not_reached=tuple(NotReached("an_op", f"n={size}") for size in range(7)),
)


def shown(file: DoctorFile, width: int = 160) -> str:
    text = io.StringIO()
    render_doctor(file, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def test_the_file_says_where_it_comes_from_and_that_it_was_cut_off() -> None:
    text = shown(FILE)
    assert text.startswith(
        "fusetune doctor of 2026-11-30: NVIDIA H200, compute capability 9.0, 132 SMs, cut off before its end\n"
        "fusetune 0.1.0, Python 3.12.3, torch 2.11.0, triton 3.6.0, ptxas 12.8.93, driver 580.82.07, Linux\n"
    )
    assert "cut off" not in shown(structs.replace(FILE, complete=True))


def test_a_finding_is_a_line_and_what_to_do_stands_below_it() -> None:
    lines = finding_lines(FILE.findings[1], "at /x")
    assert lines[0].split() == ["note", "power", "limited", "to", "250", "W", "(at", "/x)"]
    assert lines[1].strip() == "-> lift it"


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        ((), "This machine is fit to tune on."),
        (("ok", "note"), "This machine is fit to tune on."),
        (("ok", "unfit", "unfit"), "2 findings, what is measured here now is not to be trusted"),
        (("wrong", "unfit"), "1 finding, kernels gave wrong results"),
        (("no_gpu", "unfit"), WITHOUT_GPU),
    ],
)
def test_the_last_line_is_the_verdict(levels: tuple[str, ...], told: str) -> None:
    assert told in verdict_line([Finding("x", level, "y") for level in levels])  # type: ignore[arg-type]


def test_variants_are_counted_and_what_went_wrong_is_named() -> None:
    text = shown(FILE)
    row = next(line for line in text.splitlines() if "1 of 2" in line)
    assert row.split() == ["n=4096", "1", "of", "2", "2.0e-04", "1.0e-03", "1"]
    assert "an_op n=4096, BLOCK=1024 w4 s2: failed, wrong_result: z: relative error 0.3" in text
    assert "an_op n=16384: the measuring process was lost" in text
    assert "and of what stands in files of configs, with its BASELINE: 1 of 1 right" in text


def test_an_entry_stands_beside_baseline_its_record_and_its_prediction() -> None:
    row = next(line for line in shown(FILE).splitlines() if "BLOCK=512" in line)
    for figure in ("10.0 us", "5.00 us", "+50.0 %", "[+49.5, +50.5] %", "5.20 us", "+48.0 %", "6.00 us", "1.20"):
        assert figure in row
    assert "measured, of an older kernel" in row


def test_how_predictions_lie_is_told_where_there_are_some() -> None:
    assert "predicted over measured" not in shown(FILE)
    many = structs.replace(FILE.kernels[0], launched=(*(RIGHT,) * 9, ENTRY))
    text = shown(structs.replace(FILE, kernels=(many,)))
    assert "predicted over measured, of 10 launches: 1.25 in the median, 1.25 to 1.25" in text


def test_what_was_not_reached_is_counted_and_some_of_it_named() -> None:
    assert "Not reached, 7 problems: an_op n=0; an_op n=1; an_op n=2; an_op n=3; an_op n=4 and 2 more" in shown(FILE)


def test_no_text_of_a_file_does_anything_to_a_terminal() -> None:
    hostile = "\x1b]0;owned\x07[red]x[/red]"
    gpu = TargetIdentity(name=hostile, capability="9.0", sms=1)
    examined = Examined(hostile, {}, hostile, trouble=hostile, launched=(structs.replace(ENTRY, label=hostile),))
    file = structs.replace(FILE, gpu=gpu, findings=(Finding(hostile, "ok", hostile, hostile),), kernels=(examined,))
    text = shown(file)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "doctor").glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_example_can_be_read_and_names_nobody(path: Path) -> None:
    file = read_doctor_file(path)
    assert file.kernels
    assert "Held against float64" in shown(file)
    assert not re.search(r"/home/|/root/|/tmp/|/Users/|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}", path.read_text())


# --- the command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "doctor-nvidia-h200.json"
    file.write_text(doctor_text(FILE), encoding="utf-8")
    return file


def test_report_shows_a_file_as_a_table_or_as_json(path: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(report, ["--doctor", str(path)])
    assert run.exit_code == 0
    assert "NVIDIA H200" in run.output
    run = CliRunner().invoke(report, ["--doctor", str(path), "--format", "json"])
    assert json.loads(run.output)["kernels"][0]["op"] == "an_op"
    out = tmp_path / "out.txt"
    assert CliRunner().invoke(report, ["--doctor", str(path), "-o", str(out)]).exit_code == 0
    assert "fit to tune on" in out.read_text()


@pytest.mark.parametrize(
    "more",
    [
        ("--format", "csv"),
        ("--run", "latest"),
        ("--shipped",),
        ("--html", "x.html"),
        ("--gpu", "h200"),
        ("--runs", "."),
    ],
)
def test_report_refuses_what_is_for_tuned_problems_beside_a_file(path: Path, more: tuple[str, ...]) -> None:
    run = CliRunner().invoke(report, ["--doctor", str(path), *more])
    assert run.exit_code != 0
    assert "--doctor" in str(run.exception)
