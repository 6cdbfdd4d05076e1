"""What changed between two files or runs, and whether it matters by the keep rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_examples import KEPT, MEASURED_FILE, PREDICTED, REVERTED, gain_of, measured_run, replace, write_run

from fusetune.core.environment import Environment
from fusetune.errors import UsageError
from fusetune.report.compare import Difference, compare, describe, load_side
from fusetune.report.intervals import draw_intervals
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import dump_config_file
from tests.support.sample import BASELINE, OP, tile

OTHER = tile(rows=32, columns=64, depth=64)


def side(tmp_path: Path, name: str, *entries: Entry) -> Any:
    path = tmp_path / f"{name}.yaml"
    path.write_text(dump_config_file(replace(MEASURED_FILE, entries=entries)))
    return load_side(str(path), [])


def judged(tmp_path: Path, one: Entry, two: Entry) -> Difference:
    (found,) = compare(side(tmp_path, "a", one), side(tmp_path, "b", two))
    return found


def kept(median: float, width: float = 0.002, **changes: Any) -> Entry:
    return replace(KEPT, gain=gain_of(median, width), run=f"20261124T101500-{median * 1000:04.0f}", **changes)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [(0.5, 0.55, "faster"), (0.55, 0.5, "slower"), (0.5, 0.501, "equal"), (0.5, 0.509, "undecided")],
)
def test_a_change_matters_where_the_keep_rule_says_so(tmp_path: Path, before: float, after: float, change: str) -> None:
    found = judged(tmp_path, kept(before), kept(after, config=OTHER))
    assert found.change == change
    assert found.gain is not None
    assert found.gain.median == pytest.approx(1 - (1 - after) / (1 - before))
    assert found.gain.low < found.gain.median < found.gain.high


def test_wide_intervals_do_not_tell(tmp_path: Path) -> None:
    assert judged(tmp_path, kept(0.5, 0.04), kept(0.51, 0.04, config=OTHER)).change == "undecided"


def test_what_was_reverted_gains_nothing_over_baseline(tmp_path: Path) -> None:
    reverted = replace(KEPT, config=BASELINE, verdict="revert", reason="gain_below_minimum", gain=gain_of(0.01))
    found = judged(tmp_path, reverted, kept(0.5))
    assert found.change == "faster"
    assert found.gain is not None
    assert found.gain.median == pytest.approx(0.5)
    assert "revert -> keep" in describe(found)


def test_changed_kernels_are_not_compared_through_their_own_baselines(tmp_path: Path) -> None:
    other = replace(KEPT.environment, kernel_hash="f" * 16)
    found = judged(tmp_path, kept(0.5), kept(0.6, environment=other))
    assert (found.change, found.gain) == ("not_comparable", None)
    assert "`fusetune gate --against` times both" in found.why
    assert any(told.startswith("kernel_hash ") for told in found.environment)


def test_a_prediction_is_not_compared(tmp_path: Path) -> None:
    predicted = replace(PREDICTED, problem=KEPT.problem)
    assert judged(tmp_path, KEPT, predicted).why == "the second is predicted; nothing was timed"


def test_what_only_one_side_has_is_added_or_removed(tmp_path: Path) -> None:
    found = compare(side(tmp_path, "a", KEPT), side(tmp_path, "b", REVERTED))
    assert [one.change for one in found] == ["removed", "added"]


def test_the_same_entry_is_equal_and_its_environment_is_not_listed(tmp_path: Path) -> None:
    found = judged(tmp_path, KEPT, KEPT)
    assert (found.change, found.why, found.environment) == ("equal", "the very same entry", ())
    other = Environment(triton="9.9.9", kernel_hash=KEPT.environment.kernel_hash)
    assert "triton" in " ".join(judged(tmp_path, KEPT, replace(KEPT, environment=other)).environment)


def test_a_run_is_named_by_its_id_or_by_its_journal(tmp_path: Path) -> None:
    journal = write_run(tmp_path, KEPT.run, measured_run())
    by_id, by_path = load_side(KEPT.run, [tmp_path]), load_side(str(journal), [])
    assert by_id.entries == by_path.entries
    assert list(by_id.entries) == [(OP, "NVIDIA H200", KEPT.problem)]


def test_what_is_neither_a_file_nor_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing is no \.yaml file of configs, and no run in"):
        load_side("nothing", [tmp_path])


# --- intervals on a terminal


def test_an_interval_stands_on_one_scale_with_the_minimum() -> None:
    (line,) = draw_intervals([gain_of(0.5, 0.1)], 0.02, width=61)
    assert len(line) == 61
    assert line.index("|") == round(0.02 / 0.6 * 60)
    assert line.index("[") == round(0.4 / 0.6 * 60)
    assert line.index("o") == 50
    assert line.endswith("]")


def test_an_endless_interval_and_no_interval_are_drawn_too() -> None:
    assert draw_intervals([], 0.02, width=40) == []
    endless = replace(gain_of(0.1), low=float("-inf"), high=0.2)
    (line,) = draw_intervals([endless], 0.02, width=40)
    assert "o" in line
