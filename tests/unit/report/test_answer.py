"""The answer of a problem in a sentence, by its verdict, and the commands that go on from it."""

from __future__ import annotations

from pathlib import Path

from report_examples import (
    FASTER_LIBRARY,
    KEPT,
    LIBRARY,
    MEASURED_FILE,
    PREDICTED,
    PREDICTED_FILE,
    REVERTED,
    WINNER,
    measured_run,
    predicted_run,
    replace,
)

from fusetune.core.config import NamedConfig
from fusetune.report import answer
from fusetune.report.model import ProblemRow, rows_from_files, summarize_run
from fusetune.store.schema import ConfigFile, Entry, LibraryGain, Times


def row_of(entry: Entry, file: ConfigFile = MEASURED_FILE) -> ProblemRow:
    return rows_from_files([(Path("x.yaml"), replace(file, entries=(entry,)))])[0]


def test_what_is_kept_is_a_factor_with_both_times_and_what_a_library_takes() -> None:
    told = answer.headline(row_of(replace(KEPT, library=LIBRARY)))
    assert told.startswith("2.5x faster than BASELINE (5.30 us, was 13.2 us), kept with 95 % confidence; ")
    assert told.endswith(" and a finishing kernel take 1.34x as long")


def test_a_library_that_is_faster_or_as_fast_is_told_as_that() -> None:
    assert answer.headline(row_of(replace(KEPT, library=FASTER_LIBRARY))).endswith(" are 1.05x faster")
    equal = replace(LIBRARY, gain=LibraryGain(0.001, -0.001, 0.003, blocks=25))
    assert answer.headline(row_of(replace(KEPT, library=equal))).endswith(" are as fast")


def test_what_stays_says_what_the_best_came_to_and_what_was_needed() -> None:
    reverted = answer.headline(row_of(REVERTED))
    gained = "the best candidate gains [-0.4, +0.3] %, where 2 % is needed"
    assert reverted == f"Nothing proved faster: BASELINE stays (1.88 ms); {gained}"
    undecided = replace(REVERTED, verdict="inconclusive", reason="budget_exhausted")
    assert answer.headline(row_of(undecided)) == f"Undecided: BASELINE stays (1.88 ms); {gained}"
    before = replace(REVERTED, before=WINNER, config=WINNER, time_us=Times(before=9.0, baseline=9.9, config=9.0))
    assert answer.headline(row_of(before)).startswith("Nothing proved faster: Before stays (9.00 us)")


def test_a_prediction_says_so_first_and_has_no_figure_where_nothing_tells_configs_apart() -> None:
    assert answer.headline(row_of(PREDICTED, PREDICTED_FILE)).startswith("Predicted only: 2.6x faster than BASELINE")
    alike = replace(PREDICTED, predicted_us=Times(baseline=5.0, conservative=5.0, config=5.0))
    assert answer.headline(row_of(alike, PREDICTED_FILE)).endswith(" is to be tried on a GPU; nothing was timed")
    stays = replace(alike, before=WINNER, config=WINNER, predicted_us=Times(before=5.0, baseline=5.0, config=5.0))
    told = f"Predicted only: none is predicted faster than {WINNER.label()} (Before); nothing was timed"
    assert answer.headline(row_of(stays, PREDICTED_FILE)) == told


def test_a_kernel_s_own_config_is_copied_as_triton_s_and_a_word_is_no_constant_of_it() -> None:
    forms = dict(answer.copyable(NamedConfig(BLOCK=256, num_warps=8, num_stages=3, maxnreg=128)))
    expected = "triton.Config({'BLOCK': 256}, num_warps=8, num_stages=3, maxnreg=128)"
    assert forms["for @triton.autotune"] == expected
    assert list(dict(answer.copyable(NamedConfig(kind="wide", num_warps=8)))) == ["as the YAML has it"]


def test_next_commands_are_those_that_can_run_as_they_stand() -> None:
    measured = summarize_run(measured_run())
    commands = [step.command for step in answer.next_steps(row_of(KEPT), measured)]
    assert f"fusetune report --run {measured.run}" in commands
    assert not any(command.startswith("fusetune sweep") for command in commands), "it is decided"
    faster = replace(KEPT, library=FASTER_LIBRARY)
    commands = [step.command for step in answer.next_steps(row_of(faster), measured)]
    assert commands[0].startswith("fusetune sweep ")
    assert commands[0].endswith(" --allow-library")
    predicted = [step.command for step in answer.next_steps(None, summarize_run(predicted_run()))]
    assert predicted[0].startswith("fusetune sweep ")
    elsewhere = replace(measured, op="somebodys")
    assert not any("sweep" in step.command for step in answer.next_steps(None, elsewhere))
