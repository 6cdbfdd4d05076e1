"""How the summands of a tile meet, where several CTAs share it along K."""

from __future__ import annotations

from typing import Final

from fusetune.core.config import Config
from fusetune.core.problem import Problem

JOINED_BYTES: Final = 64 * 1024
"""Summands of a tile up to which one CTA reads them all.

An SM takes about 64 bytes a clock out of L2, so that these cost it half a microsecond, which is less than a second
kernel does. More of them are read sooner by a kernel that spreads over all SMs.
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
