"""A line for each problem: cut with a mark where there is no room, and with more figures on a wide terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from msgspec.structs import replace
from report_examples import FASTER_LIBRARY, FILES, KEPT, MEASURED_FILE
from rich.console import Console

from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.report.model import DamagedFile, Report, rows_from_files
from fusetune.report.terminal_list import render_list
from tests.support.sample import OP, make_problem

REPORT = Report(rows=tuple(rows_from_files(FILES)))


def shown(report: Report, width: int) -> list[str]:
    text = io.StringIO()
    render_list(report, Console(file=text, width=width, color_system=None))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_problems_stand_below_their_op_and_gpu_with_what_was_decided() -> None:
    lines = shown(REPORT, 80)
    assert lines[0] == "3 problems: 1 keep, 1 revert, 1 unverified"
    at = lines.index(f"{OP}, NVIDIA H200")
    assert lines[at + 1].split()[-4:] == ["us", "+59.8", "%", "keep"]
    assert lines[at + 2].split()[-6:] == ["BASELINE", "1.88", "ms", "-0.1", "%", "revert"]
    assert lines[at + 4] == f"{OP}, NVIDIA GeForce RTX 4090"
    assert lines[at + 5].split()[-4:] == ["502", "us", "predicted", "unverified"]
    assert any("nothing was timed" in line for line in lines)


@pytest.mark.parametrize("width", [70, 80, 100, 140, 200, 300])
def test_no_line_of_a_problem_is_wider_than_the_terminal_or_broken(width: int) -> None:
    lines = shown(REPORT, width)
    ours = [line for line in lines if line.startswith("  M=")]
    assert len(ours) == 3
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (3, 3), (4, 0)])
def test_hints_at_a_library_are_no_longer_than_the_list(count: int, lines: int) -> None:
    problems = [make_problem(16 * number, 8, 8, "float16") for number in range(1, count + 1)]
    entries = tuple(replace(KEPT, problem=problem, library=FASTER_LIBRARY) for problem in problems)
    rows = tuple(rows_from_files([(Path("x"), replace(MEASURED_FILE, entries=entries))]))
    text = shown(Report(rows=rows), 300)
    assert sum("--allow-library lets it win" in line for line in text) == lines
    of_all = f"A library is faster at {count} of these problems; --format md says at which, and by how much."
    assert (of_all in text) == (lines == 0)


def test_a_wide_terminal_has_the_interval_the_day_and_the_run() -> None:
    text = "\n".join(shown(REPORT, 200))
    for figure in ("was 13.2 us", "[+59.6, +60.1] %", "2026-11-23", KEPT.run, "over conservative +19.5 %"):
        assert figure in text
        assert figure not in "\n".join(shown(REPORT, 80))


def test_what_is_too_long_is_cut_with_a_mark_and_the_dtype_stays() -> None:
    sizes = {f"stride_{number}": 4096 for number in range(20)}
    problem = NamedProblem(x_ptr="float16", y_ptr="float16", **sizes)
    config = NamedConfig(BLOCK_SIZE_OF_ROWS=128, num_warps=4, num_stages=2)
    file = replace(MEASURED_FILE, op="norms", entries=(replace(KEPT, problem=problem, config=config),))
    (line,) = (line for line in shown(Report(rows=tuple(rows_from_files([(Path("x"), file)]))), 80) if "stride" in line)
    assert len(line) <= 80
    assert "… float16 " in line
    assert line.split().count("float16") == 1
    assert line.endswith("… 5.30 us +59.8 % keep")


def test_what_is_missing_or_damaged_is_counted() -> None:
    lines = shown(replace(REPORT, missing_runs=("a", "b", "c"), problems=(DamagedFile("x", "x: broken"),)), 80)
    assert "1 file could not be read." in lines
    assert "The journals of 3 runs were not found" in "\n".join(lines)
    assert shown(Report(), 80) == ["0 problems"]
