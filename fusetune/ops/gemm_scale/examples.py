"""Problems that between them reach every variant, dtype and precision, small ones first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from fusetune.ops.gemm_scale.problem import Dtype, Mode, Precision, Problem, make_problem

_SHORT: Final = (128, 512, 1024)
_ODD: Final = (5, 77, 123)
"""Sizes that no tile and no copy of 16 bytes fits."""
_UNEVEN: Final = (200, 264, 520)
"""Rows that begin on 16 bytes, and tiles that stick out of every side."""
_UNEVEN_Y: Final = (200, 262, 520)
"""The same, but that rows of y begin anywhere."""
_UNEVEN_ROWS: Final = (200, 262, 523)
"""Rows of x and W begin anywhere, too."""
_L2: Final = (2048, 2048, 1024)
"""Many tiles, of a y that L2 keeps."""
_LONG: Final = (4096, 4096, 4096)

_FORMS: Final[tuple[tuple[tuple[int, int, int], Dtype, Precision | None], ...]] = (
    (_SHORT, "float32", "tf32"),
    (_SHORT, "float16", None),
    (_SHORT, "bfloat16", None),
    (_ODD, "float32", "tf32"),
    (_ODD, "float16", None),
    (_UNEVEN, "float32", "ieee"),
    (_UNEVEN_Y, "bfloat16", None),
    (_UNEVEN_ROWS, "float16", None),
    (_UNEVEN, "float32", "tf32x3"),
    (_UNEVEN, "float32", "bf16x3"),
    (_L2, "float32", "tf32"),
    (_LONG, "float16", None),
)
"""M, N and K with a dtype and a precision."""


def examples(modes: Sequence[str | None]) -> tuple[Problem, ...]:
    """Each form in each mode; the modes in turn, so that whoever ends early has seen all of them."""
    return tuple(
        make_problem(M, N, K, dtype, precision, cast("Mode | None", mode))
        for (M, N, K), dtype, precision in _FORMS
        for mode in modes
    )
