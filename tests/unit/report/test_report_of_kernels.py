"""A report of kernels of programs: each by its own name and file, its cases counted, both gains told."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.report import wording
from fusetune.report.formats import to_csv, to_json, to_markdown
from fusetune.report.html.render import render_html
from fusetune.report.model import Report, rows_from_files
from fusetune.report.terminal import render
from fusetune.store.schema import ConfigFile, Entry, GainOver, Times
from tests.unit.gate.test_replays import BEFORE, HERE, entry_of

BASELINE = NamedConfig(BLOCK=128, num_warps=4, num_stages=2)


def file_of(*entries: Entry) -> ConfigFile:
    return ConfigFile(schema=2, op="norms_add", kernel="norms:add", file="src/norms.py", target=HERE, entries=entries)


def reverted() -> Entry:
    times = Times(baseline=9.0, conservative=9.0, config=9.0)
    return entry_of(
        problem=NamedProblem(n=7, grid_0=2),
        before=None,
        config=BASELINE,
        verdict="revert",
        reason="gain_below_minimum",
        time_us=times,
    )


@pytest.fixture
def report() -> Report:
    over = GainOver(median=0.4, low=0.39, high=0.41, blocks=25, config=BASELINE)
    kept = entry_of(gain_over_baseline=over)
    less = msgspec.structs.replace(kept.gain, median=0.12)
    smaller = entry_of(problem=NamedProblem(n=3, grid_0=1), gain=less)
    return Report(
        rows=tuple(rows_from_files([(Path("configs/gpu/norms_add.yaml"), file_of(kept, smaller, reverted()))]))
    )


def test_a_kernel_has_a_line_with_its_cases_and_what_was_gained(report: Report) -> None:
    told = "norms:add in src/norms.py, 3 cases: 2 keep, 1 revert; kept gains +12.0 % to +50.0 %"
    assert wording.kernel_lines(report) == [told]
    text = io.StringIO()
    render(report, Console(file=text, width=200, color_system=None))
    shown = text.getvalue()
    assert told in shown
    assert "norms_add" not in shown, "what a file is called"
    assert "+40.0 %" in shown, "over BASELINE"


def test_what_stayed_is_called_by_its_name(report: Report) -> None:
    kept, _, stayed = report.rows
    assert (wording.marks(kept), wording.marks(stayed)) == ("", " (BASELINE)")
    ran = entry_of(config=BEFORE, verdict="revert", reason="gain_below_minimum")
    (row,) = rows_from_files([(Path("x.yaml"), file_of(ran))])
    assert wording.marks(row) == " (Before)"


def test_programs_and_documents_have_the_kernel_and_both_gains(report: Report) -> None:
    rows = json.loads(to_json(report))["rows"]
    assert [(row["kernel"], row["source"]) for row in rows] == [("norms:add", "src/norms.py")] * 3
    record = next(csv.DictReader(io.StringIO(to_csv(report))))
    assert (record["kernel"], record["source"], record["gain_over_baseline_median"]) == (
        "norms:add",
        "src/norms.py",
        "0.4",
    )
    document = to_markdown(report)
    assert "| over BASELINE | over conservative |" in document
    assert "- norms:add in src/norms.py, 3 cases" in document.replace("\\", "")
    page = render_html(report, {})
    assert "norms:add in src/norms.py, 3 cases" in page
    assert "over BASELINE +40.0 %" in page
