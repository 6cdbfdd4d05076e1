"""Which kernels are launched while the one ahead of them still runs: programmatic dependent launch."""

from __future__ import annotations

from typing import Any, Final, Literal

from fusetune.ops.gemm_scale.endings import moments_of_rows
from fusetune.ops.gemm_scale.owner import normalize_owned_columns
from fusetune.ops.gemm_scale.problem import Problem

Ending = Literal["scale", "eval", "train"]
"""What becomes of the products: the scale alone, or BatchNorm after it in one of its modes."""

PDL_CAPABILITY: Final = 90
"""From sm_90 on a kernel can be launched while the one ahead of it still runs, and waits on the GPU.

That hides some of the time that launching takes, wherever the kernel ahead is one of ours."""
PDL_MOST_BYTES: Final = 48 << 20
"""Bytes of y up to which kernels of training are launched so.

Beyond, passes over y go through device memory, and who waits holds registers and shared memory that they want: by
benchmarks/overlap.py on an H200, training from 90 MB on takes 1 to 7 % longer with it, and up to 2 % less at 13 MB,
where a launch is a larger part of all."""
_LATE: Final = (moments_of_rows, normalize_owned_columns)


def launches_early(problem: Problem, ending: Ending) -> bool:
    """Whether a kernel is launched while the one ahead of it runs, where a GPU can, unless it `waits_for_products`."""
    return ending != "train" or problem.M * problem.N * problem.element_bytes <= PDL_MOST_BYTES


def waits_for_products(kernel: Any) -> bool:
    """Whether a kernel is launched only when the one ahead has ended; those behind it may still be launched early.

    So it is with those that read y behind the products. Their CTAs are few and long, and placed where there is room
    while the products are made: launched early, many crowd on a few SMs and none on others, and there they stay. By
    benchmarks/overlap.py on an H200, that makes training with `owner` 2 to 44 % longer in four cells of six, and spares
    less than 1 % in the two where there is room everywhere.
    """
    return any(kernel is late for late in _LATE)
