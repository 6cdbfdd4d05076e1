"""How the summands of a tile meet, where several CTAs share it along K."""

from __future__ import annotations

from typing import Final

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem

JOINED_BYTES: Final = 16 * 1024
"""Summands of a tile up to which one CTA reads them all.

By benchmarks/joining.py on an H200, one kernel takes about as long as two up to here, and the host one launch less;
beyond, a second kernel that spreads over all SMs reads them sooner.
"""


def joins_summands(config: Config, problem: Problem) -> bool:
    """Whether the CTA that is last at a tile adds up its summands, so that one kernel does it all.

    In training that takes a CTA with whole columns, which are normalized at once.
    """
    if config.SPLIT_K == 1 or 4 * config.SPLIT_K * config.BLOCK_M * config.BLOCK_N > JOINED_BYTES:
        return False
    return problem.mode != "train" or config.BLOCK_M >= problem.M


def tiles_of(config: Config, problem: Problem) -> int:
    """Tiles of y."""
    return -(-problem.M // config.BLOCK_M) * -(-problem.N // config.BLOCK_N)
