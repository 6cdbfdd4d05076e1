from __future__ import annotations

import io
import re

import msgspec
import pytest
from report_examples import (
    FILES,
    H200,
    KEEP_RUN,
    KEPT,
    REVERT_RUN,
    WINNER,
    gain_of,
    measured_run,
    predicted_run,
    run_with_a_library,
    start,
    with_libraries,
)
from rich.console import Console

from fusetune.core.resources import Resources
from fusetune.report.model import DamagedFile, Report, rows_from_files, summarize_run
from fusetune.report.terminal import render
from fusetune.store.journal import Candidate, Comparison, RunEnd, Sample
from tests.support.sample import BASELINE, OP, WALKING, Config

ROWS = tuple(rows_from_files(FILES))
REPORT = Report(rows=ROWS, runs=(summarize_run(measured_run()), summarize_run(predicted_run())))
WIDTHS = (80, 100, 140, 160, 240)


def shown(report: Report, width: int) -> str:
    text = io.StringIO()
    render(report, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_the_verdict_comes_first_with_the_reasons() -> None:
    lines = shown(REPORT, 140).splitlines()
    assert lines[0].rstrip() == "3 problems: 1 keep, 1 revert, 1 unverified"
    assert lines[2].split() == [
        "1",
        "revert",
        *["no", "config", "gains", "the", "minimum", "over", "every", "reference", "that", "it", "must", "beat"],
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_of_the_problems_is_whole_at_any_width(width: int) -> None:
    text = shown(Report(rows=ROWS), width)
    for figure in ("13.2 us", "5.30 us", "1.88 ms", "+59.8 %", "[+59.6, +60.1] %", "-0.1 %", "[-0.4, +0.3] %"):
        assert figure in text
    for word in ("64x16x128 w4 s3", "+19.5 %", "[+19.0, +20.1] %", "2026-11-23", "NVIDIA H200"):
        assert word in text
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_of_a_run_is_whole_at_any_width(width: int) -> None:
    text = shown(Report(runs=REPORT.runs), width)
    for figure in ("5.40 us", "48.0 KiB", "+59.8 %", "[+59.5, +60.1] %", "[+49.7, +50.3] %", "predicted 502 us"):
        assert figure in text
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_the_longest_labels_and_spills_still_fit_eighty_columns() -> None:
    long = WALKING
    records = [start(KEPT, H200), Candidate(0, BASELINE, "checked"), Sample(0, 1, 13.2)]
    for number, config in ((1, long), (2, msgspec.structs.replace(long, num_stages=3))):
        records += [Candidate(number, config, "checked", resources=Resources(255, 4904, 232448))]
        records += [
            Sample(number, number, 1234.0),
            Comparison("revalidate", 0, number, gain_of(-0.5123), "inconclusive"),
        ]
    text = shown(Report(runs=(summarize_run([*records, Comparison("confirm", 1, 2, gain_of(0.1), "keep")]),)), 80)
    for figure in (
        "1.23 ms",
        "227.0 KiB",
        "4.8 KiB",
        "[-51.5, -50.9] %",
        "128x256x128 w16",
        "revalidate",
        "inconclusive",
    ):
        assert figure in text


def test_a_very_narrow_console_folds_and_loses_nothing() -> None:
    text = shown(REPORT, 40)
    assert "…" not in text
    assert all(len(line) <= 40 for line in text.splitlines())


def test_a_wide_console_gives_each_figure_its_column() -> None:
    header = next(line for line in shown(REPORT, 140).splitlines() if line.startswith("problem"))
    assert header.split("  ")[0] == "problem"
    for title in ("BASELINE", "winner", "config", "gain", "over conservative", "verdict", "GPU, date"):
        assert title in header


@pytest.mark.parametrize("width", [80, 140])
def test_predicted_figures_say_so_and_that_nothing_was_timed(width: int) -> None:
    text = shown(Report(rows=ROWS[2:], runs=REPORT.runs[1:]), width)
    assert "nothing was timed, so nothing is proved" in squeezed(text)
    assert "not timed" in text
    for figure in ("502 us", "1.30 ms", "650 us"):
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if figure in line:
                assert "predicted" in line or "predicted" in lines[number - 1]


def test_the_word_predicted_and_its_figure_stay_on_one_line_of_a_narrow_table() -> None:
    text = shown(Report(rows=ROWS), 80)
    assert "predicted 502 us" in text
    assert "predicted 1.30 ms" in text


def test_a_measured_report_says_nothing_of_predictions() -> None:
    assert "predicted" not in shown(Report(rows=ROWS[:2], runs=REPORT.runs[:1]), 140)


@pytest.mark.parametrize("width", [80, 140])
def test_the_best_candidates_are_listed_in_order_with_the_chosen_one_marked(width: int) -> None:
    text = shown(Report(runs=REPORT.runs[:1]), width)
    places = re.findall(r"^([* ])([ \d]\d) +(\S+ w\d s\d)", text, flags=re.MULTILINE)
    assert [place.strip() for _, place, _ in places] == [str(number) for number in range(1, 11)]
    assert [mark for mark, _, _ in places] == ["*"] + [" "] * 9
    assert places[1][2] == "64x16x128 w4 s2"
    assert "(BASELINE)" in text


def test_the_counts_of_the_fallen_are_shown_by_reason() -> None:
    text = shown(REPORT, 80)
    assert "Rejected or failed: 5 of 20 candidates" in text
    assert re.search(r"rejected +shared_memory +3\b", text)
    assert re.search(r"failed +wrong_result +1\b", text)


def test_a_column_of_stack_bytes_appears_only_where_something_spills() -> None:
    assert "stack" not in shown(REPORT, 140)
    records = [
        start(KEPT, H200),
        Candidate(1, WINNER, "checked", resources=Resources(255, 16, 1024)),
        Sample(1, 0, 5.0),
    ]
    text = shown(Report(runs=(summarize_run(records),)), 140)
    assert "stack" in text
    assert "16 B" in text


def test_discarded_and_flagged_blocks_are_told() -> None:
    text = squeezed(shown(REPORT, 160))
    assert "control 25; confirm 50 (3 discarded: thermal); revalidate 25 (1 flagged: power_cap)" in text


def test_square_brackets_of_a_note_are_shown_and_not_taken_for_markup() -> None:
    records = [*measured_run()]
    assert "another process used the GPU [pid 4711]" in squeezed(shown(REPORT, 80))
    reason = [*records[:1], Candidate(1, Config(), "rejected", "[red]x[/red]")]
    assert "[red]x[/red]" in shown(Report(runs=(summarize_run(reason),)), 80)


def test_a_missing_journal_is_said_after_what_could_be_shown() -> None:
    text = squeezed(shown(Report(rows=ROWS[1:2], missing_runs=(REVERT_RUN,)), 80))
    assert text.endswith("the figures above come from the config file alone.")
    assert f"The journal of run {REVERT_RUN} was not found" in text
    two = squeezed(shown(Report(rows=ROWS[:2], missing_runs=(KEEP_RUN, REVERT_RUN)), 80))
    assert "The journals of 2 runs were not found" in two


def test_a_killed_run_and_a_run_without_an_entry_say_so() -> None:
    records = [record for record in measured_run() if not isinstance(record, RunEnd)]
    assert "the run was killed or is still going" in squeezed(shown(Report(runs=(summarize_run(records),)), 80))
    noisy = [*records, RunEnd(None, None, "the baseline differs from itself by 3.1 %")]
    assert "result the baseline differs from itself by 3.1 %" in squeezed(
        shown(Report(runs=(summarize_run(noisy),)), 80)
    )


def test_a_run_that_timed_nothing_but_baseline_says_so() -> None:
    records = [start(KEPT, H200), Candidate(0, BASELINE, "checked"), Sample(0, 0, 13.2)]
    assert "No candidate other than BASELINE was timed." in shown(Report(runs=(summarize_run(records),)), 80)


def test_damaged_files_are_counted_beside_the_verdicts() -> None:
    text = shown(Report(rows=ROWS[:1], problems=(DamagedFile("x.yaml", "x.yaml: broken"),)), 80)
    assert "1 file could not be read." in text


@pytest.mark.parametrize("width", WIDTHS)
def test_what_the_library_takes_is_whole_at_any_width(width: int) -> None:
    report = Report(rows=tuple(rows_from_files(with_libraries())), runs=(summarize_run(run_with_a_library()),))
    text = shown(report, width)
    assert re.search(r"7\.10 us, *$|7\.10 us,", text, flags=re.MULTILINE)
    for figure in ("34 % slower", "1.80 ms,", "4.5 % faster", "-34.0 %", "reference"):
        assert figure in text
    told = f"{OP} M=16384 K=4096 N=4096 float16: cuBLAS and a finishing kernel: 1.80 ms, 4.5 % faster: "
    assert f"{told}--allow-library lets it win" in squeezed(text)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert "library" not in shown(Report(rows=ROWS), width)
