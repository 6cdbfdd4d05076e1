from __future__ import annotations

from pathlib import Path

import pytest
from report_examples import (
    CONSERVATIVE,
    FILES,
    H200,
    KEEP_RUN,
    KEPT,
    LARGE_TILE,
    MEASURED_FILE,
    PREDICTED_FILE,
    PREDICTED_RUN,
    REVERT_RUN,
    WINNER,
    gain_of,
    measured_run,
    predicted_run,
    start,
    write_run,
)

from fusetune.errors import JournalError
from fusetune.report.html.data import RunsData
from fusetune.report.model import GainFigures, Report, load_report, rows_from_files, summarize_run
from fusetune.report.wording import run_facts
from fusetune.store.journal import Candidate, Comparison, Note, PhaseTime, RunEnd, Sample
from fusetune.store.yaml_files import dump_config_file
from tests.support.sample import BASELINE, FILE, OP, Config


def save(root: Path, folder: str, text: str) -> Path:
    path = root / folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_measured_entry_becomes_a_row_with_its_times_and_both_gains() -> None:
    row = rows_from_files(FILES)[0]
    assert (row.baseline_us, row.conservative_us, row.config_us) == (13.2, 6.6, 5.3)
    assert row.gain == GainFigures(0.598, 0.596, 0.601)
    assert row.gain_over_conservative == GainFigures(0.195, 0.190, 0.201)
    assert (row.conservative_config, row.min_gain, row.confidence, row.blocks) == (CONSERVATIVE, 0.02, 0.95, 50)
    assert (row.gpu, row.run, row.date) == ("NVIDIA H200", KEEP_RUN, "2026-11-23")
    assert row.file == str(FILES[0][0])
    assert row.predicted_us is None


def test_a_predicted_entry_has_no_measured_time_and_no_gain() -> None:
    row = rows_from_files(FILES)[2]
    assert (row.baseline_us, row.conservative_us, row.config_us) == (None, None, None)
    assert (row.gain, row.gain_over_conservative, row.min_gain, row.blocks) == (None, None, None, None)
    assert row.predicted_us is not None
    assert row.predicted_us.config == 502.0
    assert (row.verdict, row.evidence) == ("unverified", "predicted")


def test_rows_keep_the_order_of_the_files_and_their_entries() -> None:
    assert [row.problem.sizes()["M"] for row in rows_from_files(FILES)] == [128, 16384, 1024]
    assert [row.problem.sizes()["M"] for row in rows_from_files(FILES[::-1])] == [1024, 128, 16384]


def test_the_screening_time_is_the_median_of_the_last_round_alone() -> None:
    winner = summarize_run(measured_run()).best[0]
    assert winner.config == WINNER
    assert (winner.screening_us, winner.screening_round, winner.screening_samples) == (5.4, 1, 3)


def test_samples_of_a_round_count_in_whatever_order_the_rounds_are_written() -> None:
    records = [start(KEPT, H200), Candidate(1, WINNER, "checked"), Sample(1, 1, 5.0), Sample(1, 0, 9.0)]
    best = summarize_run([*records, Sample(1, 1, 6.0)]).best
    assert best[0].screening_us == 5.5


def test_the_ten_best_are_ordered_by_rounds_lasted_and_then_by_time() -> None:
    best = summarize_run(measured_run()).best
    assert len(best) == 10
    # 21 took 7.1 us in the second round and stands above 10, which took 6.2 us in the first: clocks had changed.
    assert [row.id for row in best] == [1, 2, 21, 10, 11, 12, 13, 14, 15, 16]
    assert best[3].screening_us == pytest.approx(6.2)


def test_baseline_stands_beside_the_best_and_not_among_them() -> None:
    run = summarize_run(measured_run())
    assert BASELINE not in [row.config for row in run.best]
    assert run.baseline is not None
    assert run.baseline.screening_us == pytest.approx(13.2)


def test_a_failed_candidate_is_not_among_the_best_although_it_was_timed() -> None:
    records = [start(KEPT, H200), Candidate(1, WINNER, "checked"), Candidate(2, CONSERVATIVE, "checked")]
    records += [Sample(1, 0, 5.0), Sample(2, 0, 6.0), Candidate(1, WINNER, "failed", "hang")]
    assert [row.id for row in summarize_run(records).best] == [2]


def test_a_revalidated_gain_stands_above_a_confirmed_one_in_any_order() -> None:
    records = list(measured_run())
    for ordered in (records, records[::-1]):
        gains = {row.id: row.gain for row in summarize_run(ordered).best}
        assert gains[1] == gain_of(0.598, blocks=25)
        assert gains[2] == gain_of(0.5)
        assert gains[10] is None


def test_a_gain_over_another_config_than_baseline_is_not_shown_as_a_gain_over_baseline() -> None:
    records = [start(KEPT, H200), Candidate(0, BASELINE, "checked"), Candidate(1, WINNER, "checked")]
    records += [
        Candidate(2, CONSERVATIVE, "checked"),
        Sample(1, 0, 5.0),
        Comparison("confirm", 2, 1, gain_of(0.195), "keep"),
    ]
    assert summarize_run(records).best[0].gain is None


def test_a_kernel_whose_baseline_is_another_variant_is_told_by_the_control() -> None:
    own = Config(variant="mine")
    records = [start(KEPT, H200), Candidate(5, own, "checked"), Candidate(6, WINNER, "checked")]
    records += [Sample(5, 0, 9.0), Sample(6, 0, 5.0), Comparison("control", 5, 5, gain_of(0.0), "revert")]
    run = summarize_run([*records, Comparison("confirm", 5, 6, gain_of(0.4), "keep")])
    assert run.baseline is not None
    assert run.baseline.config == own
    assert [row.gain for row in run.best] == [gain_of(0.4)]


def test_a_predicted_run_is_ranked_by_predicted_time() -> None:
    run = summarize_run(predicted_run())
    assert [(row.config, row.predicted_us) for row in run.best] == [(LARGE_TILE, 502.0), (CONSERVATIVE, 650.0)]
    assert [row.screening_us for row in run.best] == [None, None]


def test_a_prediction_never_ranks_a_candidate_of_a_measured_run() -> None:
    records = [start(KEPT, H200), Candidate(1, WINNER, "checked", predicted_us=9.0), Sample(1, 0, 8.0)]
    records += [Candidate(2, CONSERVATIVE, "compiled", predicted_us=1.0)]
    assert [row.id for row in summarize_run(records).best] == [1]


def test_a_stray_sample_never_ranks_a_candidate_of_a_predicted_run() -> None:
    records = [*predicted_run(), Candidate(9, Config(num_warps=8), "checked"), Sample(9, 3, 0.1)]
    assert [row.id for row in summarize_run(records).best] == [2, 1]


def test_rejected_and_failed_candidates_are_counted_by_reason_commonest_first() -> None:
    run = summarize_run(measured_run())
    counted = [(drop.status, drop.reason, drop.count) for drop in run.dropped]
    assert counted == [("rejected", "shared_memory", 3), ("rejected", "spills", 1), ("failed", "wrong_result", 1)]
    assert run.counts == {"checked": 15, "rejected": 4, "failed": 1}
    assert run.candidates == 20


def test_a_later_line_about_a_candidate_replaces_the_earlier_one() -> None:
    records = [start(KEPT, H200), Candidate(1, WINNER, "compiled"), Candidate(1, WINNER, "rejected")]
    run = summarize_run(records)
    assert run.counts == {"rejected": 1}
    assert run.dropped[0].reason == "no reason given"


def test_blocks_are_counted_with_their_discards_and_flags() -> None:
    control, confirm, revalidate = summarize_run(measured_run()).blocks
    assert (control.phase, control.total, control.used) == ("control", 25, 25)
    assert (confirm.total, confirm.used, confirm.discarded) == (50, 47, {"thermal": 3})
    assert (revalidate.flagged, revalidate.discarded) == ({"power_cap": 1}, {})


def test_a_summary_holds_facts_phases_notes_comparisons_and_the_entry() -> None:
    run = summarize_run(measured_run())
    assert (run.run, run.seed, run.cache, run.space) == (KEEP_RUN, 7, "cold", "full")
    assert [(phase.name, phase.seconds) for phase in run.phases] == [("compile", 41.2), ("screen", 30.0)]
    assert run.notes == ("another process used the GPU [pid 4711]",)
    assert [(row.phase, row.config, row.baseline) for row in run.comparisons][3] == ("confirm", WINNER, CONSERVATIVE)
    assert (run.entry, run.finished) == (KEPT, True)
    assert [row.id for row in run.best if row.chosen] == [1]


def test_a_killed_run_is_summarized_as_unfinished() -> None:
    run = summarize_run(record for record in measured_run() if not isinstance(record, RunEnd))
    assert (run.finished, run.entry, run.message) == (False, None, None)
    assert len(run.best) == 10


def test_records_without_a_start_are_refused() -> None:
    with pytest.raises(JournalError, match="no `run` record"):
        summarize_run([Note("hello")])


def test_a_report_holds_rows_found_runs_and_the_names_of_missing_ones(tmp_path: Path) -> None:
    save(tmp_path / "configs", "nvidia-h200", dump_config_file(MEASURED_FILE))
    save(tmp_path / "configs", "nvidia-geforce-rtx-4090", dump_config_file(PREDICTED_FILE))
    write_run(tmp_path / "runs", KEEP_RUN, measured_run())
    write_run(tmp_path / "more", PREDICTED_RUN, predicted_run())
    report = load_report([tmp_path / "configs"], [tmp_path / "runs", tmp_path / "more", tmp_path / "nowhere"])
    assert [row.run for row in report.rows] == [PREDICTED_RUN, KEEP_RUN, REVERT_RUN]
    assert [run.run for run in report.runs] == [PREDICTED_RUN, KEEP_RUN]
    assert report.missing_runs == (REVERT_RUN,)
    assert report.problems == ()


def test_files_are_read_one_folder_deep_and_once_each(tmp_path: Path) -> None:
    root = tmp_path / "configs"
    save(root, ".", dump_config_file(PREDICTED_FILE))
    save(root, "nvidia-h200", dump_config_file(MEASURED_FILE))
    save(root, "a/b", "too deep to be read")
    report = load_report([root, root / "nvidia-h200", tmp_path / "nowhere"], [])
    assert [row.run for row in report.rows] == [PREDICTED_RUN, KEEP_RUN, REVERT_RUN]
    assert report.problems == ()


def test_a_damaged_file_is_listed_and_the_others_are_still_read(tmp_path: Path) -> None:
    damaged = save(tmp_path, "a", "schema: 1\nop: [broken\n")
    newer = save(tmp_path, "b", f"schema: 99\nop: {OP}\n")
    save(tmp_path, "c", dump_config_file(PREDICTED_FILE))
    report = load_report([tmp_path], [])
    assert [problem.path for problem in report.problems] == [str(damaged), str(newer)]
    assert all(problem.path in problem.message for problem in report.problems)
    assert [row.config for row in report.rows] == [LARGE_TILE]


def test_a_damaged_journal_is_listed_with_its_path(tmp_path: Path) -> None:
    save(tmp_path, "c", dump_config_file(MEASURED_FILE))
    broken = tmp_path / f"{KEEP_RUN}.jsonl"
    broken.write_text('{"kind": "candidate"}\n{"kind": "note", "text": "x"}\n', encoding="utf-8")
    empty = write_run(tmp_path, REVERT_RUN, [])
    report = load_report([tmp_path], [tmp_path])
    assert (report.runs, report.missing_runs, len(report.rows)) == ((), (), 2)
    assert [problem.path for problem in report.problems] == [str(broken), str(empty)]
    assert all(problem.path in problem.message for problem in report.problems)


def test_a_journal_under_another_runs_name_is_not_taken_for_it(tmp_path: Path) -> None:
    save(tmp_path, "c", dump_config_file(PREDICTED_FILE))
    path = write_run(tmp_path, PREDICTED_RUN, measured_run())
    report = load_report([tmp_path], [tmp_path])
    assert report.runs == ()
    assert report.problems[0].message == f"{path} holds run {KEEP_RUN}, not {PREDICTED_RUN}; give it its own name back"


def test_the_data_of_a_run_is_that_of_its_own_journal_whatever_lies_under_other_names(tmp_path: Path) -> None:
    save(tmp_path, "c", dump_config_file(MEASURED_FILE))
    own = list(measured_run())
    write_run(tmp_path, KEEP_RUN, own)
    write_run(tmp_path, REVERT_RUN, own[:1])  # a copy of it, cut off
    data = RunsData()
    report = load_report([tmp_path], [tmp_path], summarize=data.summarize)
    (run,) = report.runs
    assert len(report.problems) == 1
    assert run.best
    assert {name: one.summary for name, one in data.by_run.items()} == {KEEP_RUN: run}


def test_nothing_to_read_is_an_empty_report(tmp_path: Path) -> None:
    assert load_report([tmp_path, tmp_path / "nowhere"], [tmp_path]) == Report()


def test_a_phase_within_another_is_not_counted_twice() -> None:
    records = [record for record in measured_run() if not isinstance(record, PhaseTime)]
    phases = [PhaseTime("compile", 40.0), PhaseTime("check", 3.0, within="compile"), PhaseTime("screen", 10.0)]
    facts = dict(run_facts(summarize_run([*records, *phases])))
    assert facts["time"] == "compile 40.0 s, check 3.0 s (of compile), screen 10.0 s; 50.0 s in all"
