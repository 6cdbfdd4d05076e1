"""Offsets within a tile are of 32 bits: which configs can compute tensors whose elements lie far apart."""

from typing import Any

import pytest
import torch

from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launches import LOWEST
from fusetune.ops.gemm_scale.reach import out_of_reach, takes, writes_near

FAR = 1 << 31
SMALL = Config(BLOCK_M=16, BLOCK_N=16, BLOCK_K=16)
DEEP = Config(BLOCK_M=16, BLOCK_N=16, BLOCK_K=128)


def far(rows: int, columns: int, row: int, element: int) -> Any:
    """A matrix of which nothing is anywhere."""
    return torch.empty_strided((rows, columns), (row, element), dtype=torch.float16, device="meta")


def given(x: Any, N: int = 64) -> dict[str, Any]:
    return {"x": x, "weight": far(N, x.shape[1], x.shape[1], 1), "y": far(x.shape[0], N, N, 1)}


@pytest.mark.parametrize(
    ("config", "stride", "near"),
    [
        (DEEP, (FAR - 1) // 128, True),
        (DEEP, 20_000_000, False),  # an illegal access on a GPU
        (SMALL, 20_000_000, True),
        (BASELINE, 70_000_000, BASELINE.BLOCK_K * 70_000_000 < FAR),
    ],
)
def test_a_tile_reads_along_k_as_far_as_32_bits_reach(config: Config, stride: int, near: bool) -> None:
    x = far(16, 1024, 1, stride)
    assert takes(config, given(x)) is near
    assert out_of_reach(config, given(x)) == (() if near else ("x",))


def test_rows_and_what_is_not_there_count_as_far_as_they_go() -> None:
    assert not takes(BASELINE, given(far(64, 8, FAR // 63 + 1, 1)))
    assert takes(BASELINE, given(far(2, 8, FAR - 8, 1)))  # one row to the next, and no step along K
    assert takes(DEEP, given(far(16, 100, 1, 20_000_000)))
    assert out_of_reach(BASELINE, {**given(far(4, 8, 8, 1)), "weight": far(64, 8, FAR // 60, 1)}) == ("weight",)


def test_a_library_takes_any_and_the_copy_engine_reads_rows_that_are_far_apart() -> None:
    tensors = given(far(64, 1024, 1, 70_000_000))
    assert out_of_reach(Config(variant="library"), tensors) == ()
    assert takes(Config(variant="library"), tensors)
    assert out_of_reach(Config(variant="persistent"), given(far(64, 1024, FAR // 8, 1))) == ()


def test_masked_takes_a_y_that_begins_anywhere_within_reach_and_rows_of_x_on_16_bytes() -> None:
    masked, aligned = Config(variant="masked"), far(64, 16, 16, 1)
    assert takes(masked, given(aligned, N=77))
    assert not takes(Config(variant="persistent"), given(aligned, N=77))
    assert not takes(masked, given(far(64, 15, 15, 1), N=77))
    assert not takes(masked, given(aligned, N=FAR // 63 + 1))


def test_rows_of_y_that_are_too_long_for_64_of_them_take_lower_tiles() -> None:
    tensors = given(far(64, 16, 16, 1), N=1 << 26)
    assert not writes_near(BASELINE, tensors)
    assert writes_near(LOWEST, tensors)
    assert takes(LOWEST, tensors)
