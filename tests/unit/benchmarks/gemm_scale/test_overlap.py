from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import overlap
import pytest
from family_sweeps import Cell

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.config_text import parse_config
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import abstract_tensors

RESULTS = Path(overlap.__file__).parent / "results"
REREAD = Config("reread", 128, 256, 64, num_warps=8, num_stages=3)


@pytest.mark.parametrize("M", [1024, 16384])
@pytest.mark.parametrize(
    ("way", "early", "triggers"),
    [
        ((True, True), [True, True, True], True),
        ((True, False), [True, False, False], True),
        ((False, False), [False, False, False], False),
    ],
)
def test_kernels_are_launched_as_asked_whatever_the_library_would_do(
    M: int, way: tuple[bool, bool], early: list[bool], triggers: bool
) -> None:
    launches = made(Cell(M, 4096, 4096, "float16", "train"), REREAD)
    changed = overlap.launched(launches, way)
    assert [overlap.is_early(launch) for launch in changed] == early
    for before, after in zip(launches, changed, strict=True):
        assert after.constants == {**before.constants, "OVERLAPS": triggers}
        assert {**after.options, "launch_pdl": True} == {**before.options, "launch_pdl": True}


def test_ours_are_the_library_s_launches() -> None:
    launches = made(Cell(1024, 4096, 4096, "float16", "train"), REREAD)
    assert overlap.launched(launches, overlap.WAYS["ours"]) == launches
    assert [overlap.is_early(launch) for launch in launches] == [True, False, True]


def test_ways_are_held_against_each_other_within_a_round() -> None:
    """A card that slows down from round to round slows both."""
    assert overlap.over([3.0, 4.4, 5.0], [3.0, 4.0, 5.0]) == 1.0
    assert overlap.over([1.0, 2.2, 3.3], [1.0, 2.0, 3.0]) == 1.1


def test_a_library_s_call_stays_as_it_is() -> None:
    call = object()
    assert overlap.launched([call], (True, True)) == [call]
    assert not overlap.is_early(call)


def test_the_recorded_choices_are_the_library_s_and_cost_little() -> None:
    paths = sorted(RESULTS.glob("overlap-*.json"))
    assert paths
    for path in paths:
        for row in json.loads(path.read_text())["cells"]:
            size, kind, op = row["key"].split()
            M, K, N = map(int, size.split("x"))
            launches = made(Cell(M, K, N, kind, op), parse_config(row["config"]))
            assert row["launched_early"] == [overlap.is_early(launch) for launch in launches]
            # What the rules cost where another way would have been faster.
            assert min(row["over_ours"].values()) >= 0.99


def made(cell: Cell, config: Config) -> list[Any]:
    spec = load_spec(cell.spec_name)
    tensors = abstract_tensors(spec, cell.problem, config, find_target("h200"))
    return list(spec.launches(cell.problem, config, tensors))
