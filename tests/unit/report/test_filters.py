"""Which problems of a report are wanted."""

from __future__ import annotations

import datetime

import pytest
from report_examples import FILES, KEEP_RUN, PREDICTED_RUN, REVERT_RUN

from fusetune.errors import UsageError
from fusetune.report.filters import Filters, day_of, filtered
from fusetune.report.model import Report, rows_from_files
from tests.support.sample import OP

ROWS = tuple(rows_from_files(FILES))
REPORT = Report(rows=ROWS, missing_runs=tuple(row.run for row in ROWS))
"""A kept problem of float32 and a reverted one of float16 on an H200, a predicted one of float32 on an RTX 4090."""


@pytest.mark.parametrize(
    ("wanted", "runs"),
    [
        (Filters(), [KEEP_RUN, REVERT_RUN, PREDICTED_RUN]),
        (Filters(gpus=("h200",)), [KEEP_RUN, REVERT_RUN]),
        (Filters(gpus=("4090",)), [PREDICTED_RUN]),
        (Filters(gpus=("NVIDIA GeForce RTX 4090", "H200")), [KEEP_RUN, REVERT_RUN, PREDICTED_RUN]),
        (Filters(gpus=("rtx-4090",)), [PREDICTED_RUN]),
        (Filters(dtypes=("half",)), [REVERT_RUN]),
        (Filters(dtypes=("fp32",)), [KEEP_RUN, PREDICTED_RUN]),
        (Filters(verdicts=("keep", "unverified")), [KEEP_RUN, PREDICTED_RUN]),
        (Filters(verdicts=("inconclusive",)), []),
        (Filters(since="2026-11-22"), [KEEP_RUN, REVERT_RUN]),
        (Filters(limit=1), [KEEP_RUN]),
        (Filters(limit=2, dtypes=("fp32",)), [KEEP_RUN, PREDICTED_RUN]),
        (Filters(ops=(OP,)), [KEEP_RUN, REVERT_RUN, PREDICTED_RUN]),
        (Filters(ops=(f"{OP[:4].upper()}*",), limit=1, gpus=("rtx4090",)), [PREDICTED_RUN]),
    ],
)
def test_rows_that_are_wanted_stay_in_their_order_with_their_runs(wanted: Filters, runs: list[str]) -> None:
    found = filtered(REPORT, wanted)
    assert [row.run for row in found.rows] == runs
    assert list(found.missing_runs) == runs


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Filters(ops=("nothing",)), f"--op nothing: no problem has it; there are {OP}"),
        (Filters(ops=(OP[1:],)), f"; did you mean {OP}?"),
        (Filters(gpus=("h20",)), "--gpu h20: no problem has it; there are NVIDIA GeForce RTX 4090, NVIDIA H200"),
        (Filters(gpus=("h20",)), "; did you mean h200?"),
        (Filters(gpus=("h200",), dtypes=("fp64",)), "--dtype float64: no problem has it; there are float16, float32"),
        (Filters(dtypes=("fp61",)), "there are float16, float32; did you mean fp16?"),
    ],
)
def test_a_word_that_no_problem_has_is_answered_with_those_there_are(wanted: Filters, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        filtered(REPORT, wanted)
    assert told in str(caught.value)


def test_a_day_is_a_date_or_so_many_days_ago() -> None:
    today = datetime.date(2026, 3, 2)
    assert day_of("2026-02-03", today) == "2026-02-03"
    assert day_of("7d", today) == "2026-02-23"
    assert day_of("0d", today) == "2026-03-02"
    for none in ("", "d", "2026-02-30", "last week"):
        with pytest.raises(UsageError, match="is no day; write 2026-11-23, or 7d"):
            day_of(none, today)
