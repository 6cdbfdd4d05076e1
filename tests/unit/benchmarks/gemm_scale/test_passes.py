from __future__ import annotations

import json
from pathlib import Path

import passes
import pytest
from passes import Shape

from fusetune.ops.gemm_scale.problem import make_problem

RESULTS = Path(passes.__file__).parent / "results"


@pytest.mark.parametrize(("M", "N", "dtype"), passes.SIZES)
def test_what_the_library_takes_is_among_the_shapes_that_are_timed(M, N, dtype) -> None:
    taken = passes.chosen(make_problem(M, N, 64, dtype, mode="train"))
    assert taken["moments"] in passes.moments_shapes()
    assert taken["normalize"] in passes.normalizing_shapes()
    assert taken["owned"] in passes.owned_shapes()


def test_the_recorded_figures_are_of_the_shapes_that_the_library_takes() -> None:
    paths = sorted(RESULTS.glob("passes-*.json"))
    assert paths
    for path in paths:
        for size in json.loads(path.read_text())["sizes"]:
            taken = passes.chosen(make_problem(size["M"], size["N"], 64, size["dtype"], mode="train"))
            for kind in taken.keys() & size.keys():  # the oldest figures are from before there were owners
                assert size[kind]["chosen"] == taken[kind]._asdict()


def test_a_size_tells_the_fastest_shapes_and_how_much_slower_the_chosen_one_is() -> None:
    problem = make_problem(4096, 11008, 64, "float16", mode="train")
    taken, other = passes.chosen(problem), Shape(8, 256, 4, 1, 16)
    times = {kind: {shape: 11.0, other: 10.0} for kind, shape in taken.items()}
    row = passes.summed(4096, 11008, "float16", 50.0, times, 44.0)
    for kind, shape in taken.items():
        assert (row[kind]["chosen"], row[kind]["chosen_us"], row[kind]["slower"]) == (shape._asdict(), 11.0, 0.1)
        assert [fast["us"] for fast in row[kind]["fastest"]] == [10.0, 11.0]
    assert (row["two_us"], row["owned_over_two"]) == (44.0, 0.25)
