"""Which configs cannot be launched for a problem at all, on whatever GPU: the one predicate of our ops' variants."""

from __future__ import annotations

from typing import Final

from fusetune.core.brief import brief_value
from fusetune.ops.gemm_scale.config import MASKING, WALKING, Config
from fusetune.ops.gemm_scale.problem import Mode, Problem
from fusetune.ops.gemm_scale.space import DEFERRED_STEPS, WHOLE_COLUMNS, unaligned
from fusetune.ops.gemm_scale.split import joins_summands

VARIANTS: Final = ("tiled", "split_k", "vectored", *WALKING, "library", "library_folded")
_SPLITTING: Final = ("split_k", "vectored", "persistent", *MASKING)
_OF_TRAINING: Final = ("reread", "owner")
MOST_ACCUMULATORS: Final = 2048
"""Of a thread, which has 255 registers: what has more spills nearly all, and takes minutes and gigabytes to compile."""
MOST_SCRATCH_BYTES: Final = 1 << 30
"""Of summands. The largest that a sweep tries has some 600 CTAs' tiles, 40 MB."""
_FEWEST_COLUMN_BYTES: Final = 16
"""Of a row of a tile that the copy engine moves."""


def incapable(config: Config, problem: Problem, mode: Mode | None) -> str | None:
    """Why the variant of a config does not compute this in this mode (None: no BatchNorm); None where it does."""
    if config.variant not in VARIANTS:
        return f"there is no variant {brief_value(config.variant)}; use {', '.join(VARIANTS[:-1])} or {VARIANTS[-1]}"
    splits, deferred = config.SPLIT_K > 1, config.variant == "deferred"
    steps = -(-problem.K // config.BLOCK_K)
    objections = (
        (
            splits and config.variant not in _SPLITTING,
            f"the variants {', '.join(_SPLITTING[:-1])} and {_SPLITTING[-1]} can split K",
        ),
        (config.variant == "split_k" and not splits, "split_k needs a SPLIT_K of 2 or more"),
        (
            config.variant in _OF_TRAINING and mode != "train",
            f"{config.variant} is for training: nothing else takes moments",
        ),
        (
            config.variant == "library_folded" and mode != "eval",
            "library_folded is for evaluation: training changes what would be folded",
        ),
        (
            deferred and problem.element_bytes != 2,
            f"deferred keeps a tile of y in registers: float16 or bfloat16, not {problem.dtype}",
        ),
        (
            deferred and steps < DEFERRED_STEPS,
            f"K={problem.K} takes {steps} steps, and deferred needs {DEFERRED_STEPS} or more",
        ),
    )
    return next((why for holds, why in objections if holds), None)


def unlaunchable(config: Config, problem: Problem, mode: Mode | None) -> str | None:
    """Why a config is not to be launched for a problem on any GPU; None where it can be.

    It is `incapable`, or out of all proportion: it could only fail, after minutes or with all memory taken. What one
    GPU has too little of, shared memory or a copy engine, is not looked at.
    """
    why = incapable(config, problem, mode)
    if why is not None or config.is_library:
        return why
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    if accumulators > MOST_ACCUMULATORS:
        return f"{accumulators} accumulators a thread, which has 255 registers"
    if config.is_walking and (why := unaligned(config, problem)):
        return why
    if config.variant == "deferred" and config.BLOCK_N // 4 * problem.element_bytes < _FEWEST_COLUMN_BYTES:
        return f"a quarter of {config.BLOCK_N} columns is less than the {_FEWEST_COLUMN_BYTES} bytes of a copy"
    return _unsplittable(config, problem, mode) if config.SPLIT_K > 1 else None


def _unsplittable(config: Config, problem: Problem, mode: Mode | None) -> str | None:
    steps = -(-problem.K // config.BLOCK_K)
    if steps < config.SPLIT_K:
        return f"{config.SPLIT_K} CTAs cannot share {steps} steps along K"
    if mode == "train" and problem.M > WHOLE_COLUMNS:
        return f"the kernel behind a split one holds whole columns, of {WHOLE_COLUMNS} rows at most"
    rows, columns = (-(-problem.M // config.BLOCK_M) * config.BLOCK_M, -(-problem.N // config.BLOCK_N) * config.BLOCK_N)
    scratch = 4 * config.SPLIT_K * rows * columns
    if scratch > MOST_SCRATCH_BYTES and not joins_summands(config, problem):
        return f"its summands take {scratch >> 20} MiB"
    return None
