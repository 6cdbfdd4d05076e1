from __future__ import annotations

import json
from pathlib import Path

import overlap
import pytest
from family_sweeps import Cell

from fusetune.core.config import Config
from fusetune.core.target import find_target
from fusetune.kernels.gemm_scale_bn import SPEC
from fusetune.kernels.launches import launches_early
from fusetune.kernels.spec import abstract_tensors

RESULTS = Path(overlap.__file__).parent / "results"
REREAD = Config("reread", 128, 256, 64, num_warps=8, num_stages=3)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("M", [1024, 16384])
def test_every_kernel_is_launched_early_or_none_whatever_the_library_would_do(M: int, early: bool) -> None:
    problem = Cell(M, 4096, 4096, "float16", "train").problem
    tensors = abstract_tensors(SPEC, problem, REREAD, find_target("h200"))
    launches = SPEC.launches(problem, REREAD, tensors)
    made = [overlap.with_overlap(launch, early=early) for launch in launches]
    assert len(made) == 3
    for before, after in zip(launches, made, strict=True):
        assert after.constants == {**before.constants, "OVERLAPS": early}
        assert {**after.options, "launch_pdl": early} == {**before.options, "launch_pdl": early}
        assert ("launch_pdl" in after.options) is early


def test_ways_are_held_against_each_other_within_a_round() -> None:
    """A card that slows down from round to round slows both."""
    assert overlap.over([3.0, 4.4, 5.0], [3.0, 4.0, 5.0]) == 1.0
    assert overlap.over([1.0, 2.2, 3.3], [1.0, 2.0, 3.0]) == 1.1
    assert set(overlap.WAYS.values()) == {(True, True), (False, False), (True, False)}


def test_a_library_s_call_stays_as_it_is() -> None:
    call = object()
    assert overlap.with_overlap(call, early=True) is call


def test_the_recorded_choices_are_the_library_s_and_cost_little() -> None:
    paths = sorted(RESULTS.glob("overlap-*.json"))
    assert paths
    for path in paths:
        for row in json.loads(path.read_text())["cells"]:
            size, kind, op = row["key"].split()
            M, K, N = map(int, size.split("x"))
            early = launches_early(Cell(M, K, N, kind, op).problem, op)
            assert row["chosen"] == ("early" if early else "not")
            # What the rule costs where the other way would have been faster.
            ratio = row["not_over_early"]
            assert (1 / ratio if early else ratio) <= 1.01
