"""Bytes by the order of tiles, against what Nsight Compute saw on RTX 4090 cards (benchmarks/data)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.machine import machine_of
from fusetune.ops.gemm_scale.traffic import NEIGHBOURS, Work, distinct_share, traffic

RTX_4090 = find_target("rtx4090")
ADA = machine_of(RTX_4090)
TF32 = Work(M=1024, N=8192, K=8192, kind="tf32", load_bytes=4, store_bytes=4)
sizes = st.integers(min_value=16, max_value=65536)


def dram_bytes(config: Config, work: Work, running: int = 384) -> float:
    return traffic(config, work, RTX_4090, ADA, running).dram_bytes


@given(M=sizes, N=sizes, K=sizes, group=st.sampled_from([1, 4, 8, 16]), tile=st.sampled_from([32, 64, 128]))
def test_nothing_moves_less_than_each_tensor_once(M: int, N: int, K: int, group: int, tile: int) -> None:
    work = msgspec.structs.replace(TF32, M=M, N=N, K=K)
    assert dram_bytes(Config(BLOCK_M=tile, BLOCK_N=tile, GROUP_M=group), work) >= 4 * (M * K + N * K + M * N)


@pytest.mark.parametrize(
    ("work", "config", "running", "seen_gb"),
    [
        # 16.6 % of 1008 GB/s for 2.112 ms: x fits, each tensor once.
        (msgspec.structs.replace(TF32, row_by_row=False), Config(num_stages=3), 384, 0.354),
        # 15.4 % for 10.58 ms: W once for each of sixteen groups of rows.
        (
            msgspec.structs.replace(TF32, M=16384, N=4096, K=4096),
            Config(BLOCK_M=128, BLOCK_N=128, GROUP_M=8, num_warps=8, num_stages=3),
            128,
            1.648,
        ),
        # 90.6 % for 5.416 ms: x, twice the size of L2, again for each of 32 columns.
        (
            msgspec.structs.replace(TF32, M=32768, N=4096, K=1024, row_by_row=False),
            Config(BLOCK_N=128, num_stages=3),
            256,
            4.946,
        ),
    ],
    ids=["operands kept", "W a group", "x a column"],
)
def test_device_memory_moves_about_what_the_profiler_saw(
    work: Work, config: Config, running: int, seen_gb: float
) -> None:
    assert dram_bytes(config, work, running) / 1e9 == pytest.approx(seen_gb, rel=0.25)


def test_a_batch_moves_as_much_for_each_of_its_products() -> None:
    one = msgspec.structs.replace(TF32, M=512, N=2048, K=1024)
    many = msgspec.structs.replace(one, batch=128)
    assert dram_bytes(Config(), many) == 128 * dram_bytes(Config(), one)


def test_ctas_that_run_at_once_share_more_the_more_they_are() -> None:
    work = msgspec.structs.replace(TF32, M=8192)
    assert dram_bytes(Config(), work, 1024) < dram_bytes(Config(), work, 128)


def test_a_gpu_whose_l2_nobody_states_is_taken_to_keep_everything() -> None:
    unstated = msgspec.structs.replace(RTX_4090, l2_bytes=None)
    large = msgspec.structs.replace(TF32, M=16384)
    moved = traffic(Config(), large, unstated, ADA, 384)
    assert moved.dram_bytes == 4 * (16384 * 8192 + 8192 * 8192 + 16384 * 8192)


def test_neighbours_have_most_in_common_where_they_share_the_longer_side_of_their_tiles() -> None:
    wide = [distinct_share(Config(BLOCK_M=64, BLOCK_N=128, GROUP_M=group), TF32) for group in (1, 8)]
    high = [distinct_share(Config(BLOCK_M=128, BLOCK_N=64, GROUP_M=group), TF32) for group in (1, 8)]
    assert wide[1] < wide[0]  # A group's column of W's tiles, or a row of x's.
    assert high[0] == high[1] == pytest.approx((128 + 16 * 64) / (16 * 192))


@given(M=sizes, N=sizes, group=st.sampled_from([1, 4, 8, 16]), split=st.sampled_from([1, 2, 4, 16, 32]))
def test_neighbours_read_at_least_one_tile_of_each_and_at_most_their_own(
    M: int, N: int, group: int, split: int
) -> None:
    share = distinct_share(Config(GROUP_M=group, SPLIT_K=split), msgspec.structs.replace(TF32, M=M, N=N))
    assert 1 / NEIGHBOURS <= share <= 1
    if split >= NEIGHBOURS:
        assert share == 1
