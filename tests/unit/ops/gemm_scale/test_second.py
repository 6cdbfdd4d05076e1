"""The cost model's kernels ahead of the products and behind: what copies for the copy engine take."""

from __future__ import annotations

import pytest

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.problem import make_problem

H200 = find_target("h200")


def test_padded_is_predicted_as_masked_and_a_copy_and_ahead_of_pointers_where_nothing_is_loaded_ahead() -> None:
    tile = (128, 256, 64, 8, 1, 8, 3)
    problem, aligned = make_problem(1500, 1101, 7001, "float16"), make_problem(1500, 1101, 7000, "float16")
    masked, padded = (estimate(Config(name, *tile), aligned, H200) for name in ("masked", "padded"))
    moved_us = 2 * (1500 + 1101) * 7000 * 2 / 4.8e6  # through memory and back, at the most that an H200 moves
    assert moved_us < padded.second_us - masked.second_us < 2 * moved_us + 5
    assert padded.time_us - masked.time_us == pytest.approx(padded.second_us - masked.second_us)
    by_pointers = estimate(Config("tiled", *tile), problem, H200).time_us
    assert 1.2 * estimate(Config("padded", *tile), problem, H200).time_us < by_pointers
