"""benchmarks/spaces.py as far as a CPU can tell: what stays of a cell judged again, and the recorded figures."""

from __future__ import annotations

import json
from pathlib import Path

import spaces
from family_sweeps import family

from fusetune.core.decision import Gain
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.space import candidates
from fusetune.ops.loading import load_spec
from fusetune.store.journal import Candidate, Comparison

OTHER = Config(num_warps=8)


def test_a_cell_that_is_judged_again_keeps_what_was_found_before() -> None:
    first, second, third = ({"cell": "a", "slower": slower} for slower in (0.03, 0.0, 0.01))
    rows = spaces.merged([first, {"cell": "b", "slower": 0.0}], [second])
    assert rows == [{"cell": "a", "slower": 0.0, "earlier": [first]}, {"cell": "b", "slower": 0.0}]
    (row, _) = spaces.merged(rows, [third])
    assert row == {"cell": "a", "slower": 0.01, "earlier": [first, second]}


def test_pieces_with_earlier_rows_of_their_own_are_joined_in_order() -> None:
    piece = [{"cell": "a", "slower": 0.3, "earlier": [{"cell": "a", "slower": 0.2}]}]
    (row,) = spaces.merged([{"cell": "a", "slower": 0.1}], piece)
    assert [*(one["slower"] for one in row["earlier"]), row["slower"]] == [0.1, 0.2, 0.3]


def test_what_a_sweep_made_of_a_config_is_its_furthest_state() -> None:
    gain = Gain(0.1, 0.1, 0.1, 0.95, 0.02, 25)
    skipped, checked = Candidate(1, OTHER, "skipped"), Candidate(1, OTHER, "checked")
    compared = Comparison("confirm", 0, 1, gain, "keep")
    assert spaces.status_of(OTHER, [Candidate(0, BASELINE, "checked")]) == "absent"
    assert spaces.status_of(OTHER, [skipped]) == "skipped"
    assert spaces.status_of(OTHER, [Candidate(1, OTHER, "compiled"), checked]) == "checked"
    assert spaces.status_of(OTHER, [checked, compared]) == "compared"


def test_the_recorded_cells_are_the_family_s_and_their_full_winners_are_in_the_standard_space() -> None:
    """Where a winner is beyond the bound, the standard space holds the faster config: its sweep did not keep it."""
    known = {cell.key: cell for cell in family()}
    paths = sorted((Path(spaces.__file__).parent / "results").glob("spaces-*.json"))
    assert paths
    for path in paths:
        for row in json.loads(path.read_text()):
            standard = {
                config.label() for config in candidates(load_spec(known[row["cell"]].spec_name).space, "standard")
            }
            for one in (row, *row.get("earlier", [])):
                assert one["within"] is (one["slower"] <= spaces.ALLOWED)
                assert one["standard"] in standard
                assert one["within"] or one["full"] in standard
