"""The room of variants that walk through tiles: in how many parts it stores a tile, and how many CTAs share an SM."""

from __future__ import annotations

import math
from typing import Final

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.split import joins_summands

_SHARED_BYTES_PER_SM: Final = 233472
"""Shared memory of an SM with a copy engine, sm_90 and sm_100."""
_RESERVED_BYTES: Final = 1024
"""What each CTA takes of it beside its own."""
_BARRIER_BYTES: Final = 8
_MASKED_ELEMENTS: Final = 32
"""Of a part and a thread that stores it: addresses and conditions of 64 spill beside 128 accumulators (sm_90)."""
_OTHER_REGISTERS: Final = 96
"""Registers a thread beside the accumulators, where two CTAs are to share an SM."""


def persistent_shared_bytes(config: Config, problem: Problem, parts: int | None = None) -> int:
    """Shared memory a CTA: the pipeline's tiles with a barrier each, and beside them one part of a tile of y.

    Triton's own figure for tf32 and 16-bit inputs on sm_90 while a part has 16 columns a warp or fewer; a wider one may
    take 512 bytes more, and training up to 2 KiB less.
    """
    stage = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * problem.element_bytes + _BARRIER_BYTES
    if joins_summands(config, problem):
        return stage * _buffers(config)
    parts = parts_of(config, problem) if parts is None else parts
    if config.variant == "deferred":
        # What half of a tile's columns are multiplied by, and what is added, goes through shared memory too.
        affine = 4 * config.BLOCK_N if problem.mode != "train" else 0
        return stage * _buffers(config) + config.BLOCK_M * config.BLOCK_N * problem.element_bytes // parts + affine
    stored = 4 if config.SPLIT_K > 1 else problem.element_bytes
    # Training adds up columns across warps: those of half a tile at once, or of all of one that is stored whole.
    added = config.BLOCK_N if parts == 1 else config.BLOCK_N // 2
    moments = 4 * config.num_warps * added if _takes_moments(config, problem) and config.SPLIT_K == 1 else 0
    return stage * _buffers(config) + config.BLOCK_M * config.BLOCK_N * stored // parts + moments


def _takes_moments(config: Config, problem: Problem) -> bool:
    return problem.mode == "train" and not config.rereads


def _buffers(config: Config) -> int:
    # wgmma reads from shared memory; mma.sync copies to registers first and gets by with one buffer less.
    return config.num_stages if config.BLOCK_M >= 64 and config.num_warps >= 4 else config.num_stages - 1


def parts_of(config: Config, problem: Problem) -> int:
    """In how many parts, 1, 2 or 4, a tile of y is stored: as few as let two CTAs share an SM, else as few as fit.

    A part is 128 columns wide at most, and 64 where BatchNorm's vectors or moments take registers too; where threads
    store it, a thread has 32 of its elements at most. `deferred` has four parts, one for each step that it stores
    beside.
    """
    if config.variant == "deferred":
        return 4
    widest = 128 if problem.mode is None or config.rereads else 64
    if config.masks:
        widest = min(widest, max(16, _MASKED_ELEMENTS * 32 * config.num_warps // config.BLOCK_M))
    for ctas in (2, 1) if _registers_for_two(config) else (1,):
        for parts in (1, 2, 4):
            fits = ctas * _taken(config, problem, parts) <= _SHARED_BYTES_PER_SM
            if fits and 16 <= config.BLOCK_N // parts <= widest:
                return parts
    return min(4, config.BLOCK_N // 16)


def stored_at_once(problem: Problem) -> int:
    """How many elements of y a thread stores at once where masks guard them: of 16 bytes at most that divide a row."""
    return math.gcd(problem.N, 16 // problem.element_bytes)


def ctas_per_sm(config: Config, problem: Problem) -> int:
    """Two where both fit by shared memory and by registers: one stores while the other multiplies."""
    taken = _taken(config, problem, parts_of(config, problem))
    return 2 if _registers_for_two(config) and 2 * taken <= _SHARED_BYTES_PER_SM else 1


def _taken(config: Config, problem: Problem, parts: int) -> int:
    return persistent_shared_bytes(config, problem, parts) + _RESERVED_BYTES


def _registers_for_two(config: Config) -> bool:
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    return 2 * config.num_warps * 32 * (accumulators + _OTHER_REGISTERS) <= 65536
