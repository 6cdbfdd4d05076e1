"""How the kernels behind the products go through y: rows and columns that a CTA takes."""

from __future__ import annotations

from typing import Final

import triton

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.space import owns_columns

MOMENTS_ROWS, MOMENTS_COLUMNS, MOMENTS_STAGES = 32, 64, 3
MOST_ROWS: Final = 8192
NORMALIZED_ROWS: Final = 32
"""How kernels behind the products go through y: rows and columns that a CTA reads at a time, and loads that run ahead.

By benchmarks/passes.py on an H200, at four sizes of 90 MB and more, which no kernel owns, the moments take 0 to 7 %
more so than in the fastest shape, and normalizing 0 to 8 %."""
FINISHED_ELEMENTS: Final = 1024
"""Elements that a CTA of the second kernel of split_k adds up: few, so that there are CTAs for every SM."""

PADDED_ELEMENTS, PADDED_COLUMNS = 4096, 512
"""Elements that a CTA of `padded` copies, and of how many columns at most: enough loads under way for any rows."""


def rows_of_moments(config: Config, problem: Problem) -> int:
    """Rows of y in one tile of moments: of a tile of products, or of what one CTA reads that reads y again.

    Those are 8 or 16 a column: each of them waits for memory once, and the last kernel for all of them. MOST_ROWS of
    N elements can be counted in 32 bits.
    """
    if not config.rereads and not config.is_library:
        return config.BLOCK_M
    eighth, sixteenth = (int(triton.next_power_of_2(triton.cdiv(problem.M, parts))) for parts in (8, 16))
    return min(max(128, min(eighth, 256), sixteenth), MOST_ROWS)


def columns_to_normalize(problem: Problem, tiles_m: int) -> int:
    """Columns of a CTA of the last kernel: 256 bytes of a row, or fewer where many tiles' moments take registers."""
    return 64 if tiles_m > 16 else 256 // problem.element_bytes


def is_owned(config: Config, problem: Problem) -> bool:
    """Whether one kernel does all that follows the products of training."""
    return config.variant == "owner" or (config.is_library and owns_columns(problem))


def owned_stages(columns: int) -> int:
    """Loads that run ahead in a CTA that owns so many columns, and one: of as many bytes whether they are 16 or 32."""
    return 1 + 64 // columns
