from __future__ import annotations

import csv
import io
import json

import msgspec
from report_examples import (
    FILES,
    H200,
    KEEP_RUN,
    KEPT,
    REVERT_RUN,
    measured_run,
    predicted_run,
    run_with_a_library,
    start,
    with_libraries,
)

from fusetune.core.config import NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.problem import NamedProblem
from fusetune.report.formats import to_csv, to_json, to_markdown
from fusetune.report.model import DamagedFile, Report, rows_from_files, summarize_run
from fusetune.report.wording import legend
from fusetune.store.journal import Candidate, Comparison, Note
from fusetune.store.schema import TargetIdentity
from tests.support.sample import BASELINE, OP, Config

ROWS = tuple(rows_from_files(FILES))
REPORT = Report(
    rows=ROWS,
    runs=(summarize_run(measured_run()), summarize_run(predicted_run())),
    missing_runs=(REVERT_RUN,),
    problems=(DamagedFile("configs/x.yaml", "configs/x.yaml, line 3: broken"),),
)


def csv_rows(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(report))))


def with_gpu(name: str) -> Report:
    path, file = FILES[0]
    return Report(
        rows=tuple(rows_from_files([(path, msgspec.structs.replace(file, target=TargetIdentity(name, "9.0", 1)))]))
    )


def test_json_is_versioned_and_holds_every_part() -> None:
    body = json.loads(to_json(REPORT))
    assert body["report"] == 1
    assert set(body) == {"report", "rows", "runs", "missing_runs", "damaged_files"}
    assert body["missing_runs"] == [REVERT_RUN]
    assert body["damaged_files"] == [{"path": "configs/x.yaml", "message": "configs/x.yaml, line 3: broken"}]


def test_json_keeps_measured_and_predicted_times_apart() -> None:
    kept, _, predicted = json.loads(to_json(REPORT))["rows"]
    assert (kept["config_us"], kept["predicted_us"], kept["gain"]["low"]) == (5.3, None, 0.596)
    assert (predicted["config_us"], predicted["gain"]) == (None, None)
    assert predicted["predicted_us"] == {"baseline": 1303.0, "conservative": 650.0, "config": 502.0}


def test_json_holds_the_runs_with_their_best_candidates() -> None:
    run = json.loads(to_json(REPORT))["runs"][0]
    assert (run["run"], run["cache"], run["best"][0]["screening_us"]) == (KEEP_RUN, "cold", 5.4)
    assert run["dropped"][0] == {"status": "rejected", "reason": "shared_memory", "count": 3}


def test_json_has_no_infinity() -> None:
    unbounded = Gain(0.1, float("-inf"), 1.0, confidence=0.95, min_gain=0.02, blocks=3)
    records = [
        start(KEPT, H200),
        Candidate(0, BASELINE, "checked"),
        Comparison("control", 0, 0, unbounded, "inconclusive"),
    ]
    body = json.loads(to_json(Report(runs=(summarize_run(records),))), parse_constant=lambda name: f"not JSON: {name}")
    assert body["runs"][0]["comparisons"][0]["gain"]["low"] is None


def test_csv_has_one_row_a_problem_with_full_precision() -> None:
    rows = csv_rows(REPORT)
    assert [row["M"] for row in rows] == ["128", "16384", "1024"]
    assert (rows[0]["baseline_us"], rows[0]["config_us"], rows[0]["gain_low"]) == ("13.2", "5.3", "0.596")
    assert (rows[0]["gain_over_conservative_high"], rows[0]["conservative_label"]) == ("0.201", "64x16x128 w4 s2")
    assert (rows[0]["label"], rows[0]["num_stages"], rows[0]["run"]) == ("64x16x128 w4 s3", "3", KEEP_RUN)


def test_csv_leaves_measured_columns_of_a_prediction_empty_and_the_other_way_round() -> None:
    kept, _, predicted = csv_rows(REPORT)
    assert (kept["predicted_config_us"], kept["evidence"]) == ("", "measured")
    assert [predicted[name] for name in ("baseline_us", "conservative_us", "config_us", "gain_median")] == [""] * 4
    assert (predicted["predicted_baseline_us"], predicted["predicted_config_us"]) == ("1303.0", "502.0")


def test_csv_quotes_a_name_with_commas_and_quotes() -> None:
    assert csv_rows(with_gpu('GPU "A", rev 2'))[0]["gpu"] == 'GPU "A", rev 2'


def test_an_empty_csv_still_has_its_header() -> None:
    assert to_csv(Report()).startswith("op,gpu,verdict,")
    assert to_csv(Report()).count("\n") == 1


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]


def table_lines(text: str, first_cell: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {first_cell}")]


def test_markdown_shows_verdicts_then_a_table_whose_rows_match_its_header() -> None:
    text = to_markdown(REPORT)
    assert text.startswith("# 3 problems: 1 keep, 1 revert, 1 unverified\n")
    header, kept, reverted, predicted = (cells(line) for line in table_lines(text, "op ") + table_lines(text, OP))
    assert len(header) == len(kept) == len(reverted) == len(predicted)
    shown = dict(zip(header, kept, strict=True))
    assert (shown["BASELINE"], shown["winner"], shown["gain"]) == ("13.2 us", "5.30 us", "+59.8 %")
    assert (shown["interval"], shown["verdict"], shown["date"]) == ("[+59.6, +60.1] %", "keep", "2026-11-23")


def test_markdown_marks_each_predicted_figure() -> None:
    text = to_markdown(REPORT)
    header, row = cells(table_lines(text, "op ")[0]), cells(table_lines(text, OP)[2])
    shown = dict(zip(header, row, strict=True))
    assert (shown["BASELINE"], shown["winner"]) == ("predicted 1.30 ms", "predicted 502 us")
    assert (shown["gain"], shown["evidence"]) == ("not timed", "predicted")
    assert "nothing was timed" in text.split("| op |", maxsplit=1)[0]


def test_markdown_escapes_pipes_line_breaks_and_html() -> None:
    text = to_markdown(with_gpu("A|B <b>\nC"))
    row = table_lines(text, OP)[0]
    assert "A\\|B &lt;b> C" in row
    assert len(cells(row)) == len(cells(table_lines(text, "op ")[0]))


def test_markdown_escapes_what_a_run_says() -> None:
    records = [start(KEPT, H200), Candidate(1, Config(), "rejected", "a|b"), Note("x|y")]
    text = to_markdown(Report(runs=(summarize_run(records),)))
    assert "| rejected | a\\|b | 1 |" in text
    assert "- note: x\\|y" in text


def test_markdown_lists_candidates_comparisons_and_counts_of_each_run() -> None:
    text = to_markdown(REPORT)
    assert (
        "| 1 (chosen) | 64x16x128 w4 s3 | 5.40 us | 1 | 97 | 48.0 KiB | 0 B | +59.8 % [+59.5, +60.1] % (revalidate) |"
        in text
    )
    assert "| BASELINE | 64x64x32 w4 s2 | 13.2 us |" in text
    assert "| confirm | 64x16x128 w4 s3 | BASELINE | +61.0 % [+60.7, +61.3] % | 50 | 3 | keep |" in text
    assert "Rejected or failed: 5 of 20 candidates." in text
    assert "| rejected | shared_memory | 3 |" in text
    assert "| 1 (chosen) | persistent 128x256x64 w8 s3 g8 | predicted 502 us |" in text


def test_markdown_says_which_journal_is_missing_and_which_file_is_damaged() -> None:
    text = to_markdown(REPORT)
    assert f"The journal of run {REVERT_RUN} was not found" in text
    assert "- configs/x.yaml, line 3: broken" in text


def test_the_control_is_not_called_a_revert() -> None:
    text = to_markdown(Report(runs=(summarize_run([*measured_run()]),)))
    assert "| control | BASELINE | BASELINE | +0.0 % [-0.1, +0.1] % | 25 | 0 | control |" in text


LIBRARIES = Report(rows=tuple(rows_from_files(with_libraries())), runs=(summarize_run(run_with_a_library()),))


def test_every_format_tells_what_the_library_takes() -> None:
    text = to_markdown(LIBRARIES)
    header, kept, reverted, predicted = (cells(line) for line in table_lines(text, "op ") + table_lines(text, OP))
    column = header.index("library")
    assert [row[column] for row in (kept, reverted, predicted)] == [
        "7.10 us, 34 % slower",
        "1.80 ms, 4.5 % faster",
        "-",
    ]
    hint = "cuBLAS and a finishing kernel: 1.80 ms, 4.5 % faster: --allow-library lets it win"
    assert f"- {OP} M=16384 K=4096 N=4096 float16: {hint}" in text.splitlines()
    assert text.count("--allow-library") == 1

    rows = csv_rows(LIBRARIES)
    assert [row["library_label"] for row in rows] == ["library", "library", ""]
    assert [row["library_us"] for row in rows] == ["7.1", "1800.0", ""]
    assert [row["gain_over_library_high"] for row in rows] == ["0.256", "-0.044", ""]

    first, _, last = json.loads(to_json(LIBRARIES))["rows"]
    assert (first["library"]["us"], first["library"]["config"]["variant"]) == (7.1, "library")
    assert first["library"]["gain"] == {"median": 0.2535, "low": 0.251, "high": 0.256, "blocks": 25}
    assert (last["library"], last["library_text"]) == (None, None)


def test_a_run_shows_the_library_s_comparisons_and_calls_them_no_verdict() -> None:
    text = to_markdown(LIBRARIES)
    assert "| reference | library | BASELINE | +46.2 % [+45.9, +46.5] % | 25 | 0 | reference |" in text
    assert "| reference | library | 64x16x128 w4 s3 | -34.0 % [-34.3, -33.7] % | 25 | 0 | reference |" in text
    assert "- library: cuBLAS and a finishing kernel: 7.10 us, 34 % slower" in text


def test_the_legend_explains_the_labels_that_need_it_and_each_kind_once() -> None:
    rows = rows_from_files(FILES)
    named = msgspec.structs.replace(rows[0], op="row_sum", config=NamedConfig(BLOCK=64), problem=NamedProblem(n=4096))
    assert legend(Report(rows=(*rows, named))) == legend(Report(rows=tuple(rows)))
    assert legend(Report(rows=tuple(rows))).endswith(f"; config: {Config.legend}")
    assert legend(Report(rows=(named,))) == "gain: time saved, with its 95 % interval"
    predicted = msgspec.structs.replace(named, confidence=None)
    assert legend(Report(rows=(predicted,))) == ""
    assert "\n.\n" not in to_markdown(Report(rows=(predicted,)))
