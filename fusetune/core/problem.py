"""Problem: what to compute."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fusetune.errors import UnsupportedProblemError

Dtype = Literal["float32", "float16", "bfloat16"]
Precision = Literal["tf32", "ieee", "tf32x3", "bf16x3"]
Mode = Literal["train", "eval"]

MODES: Final[tuple[Mode, ...]] = ("train", "eval")
DTYPES: Final[tuple[Dtype, ...]] = ("float32", "float16", "bfloat16")
PRECISIONS: Final[tuple[Precision, ...]] = ("tf32", "ieee", "tf32x3", "bf16x3")
DTYPE_BYTES: Final[dict[Dtype, int]] = {"float32": 4, "float16": 2, "bfloat16": 2}

Dimension = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One size of an op, whatever computes it: x [M, K], W [N, K], y [M, N].

    `precision` says how float32 inputs are multiplied and is None for 16-bit inputs, which have one way only.
    `mode` is None for an op that has no training and evaluation forms.
    """

    M: Dimension
    N: Dimension
    K: Dimension
    dtype: Dtype
    precision: Precision | None = None
    mode: Mode | None = None

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of x, W and y."""
        return DTYPE_BYTES[self.dtype]

    def describe(self) -> str:
        """The problem in one line, for people."""
        parts = [f"M={self.M} K={self.K} N={self.N}", self.dtype]
        parts += [part for part in (self.precision, self.mode) if part]
        return " ".join(parts)


def make_problem(
    M: int, N: int, K: int, dtype: Dtype, precision: Precision | None = None, mode: Mode | None = None
) -> Problem:
    """A checked Problem; float32 without a precision means tf32, as in nn.Linear with TF32 allowed.

    Raises UnsupportedProblemError for a size below one, an unknown dtype, or a precision on 16-bit inputs.
    """
    for name, size in (("M", M), ("N", N), ("K", K)):
        if not 1 <= size < 2**31:
            raise UnsupportedProblemError(f"{name} is {size}; a size to tune lies between 1 and 2147483647")
    if dtype not in DTYPES:
        raise UnsupportedProblemError(f"dtype {dtype!r} is not known; use one of {', '.join(DTYPES)}")
    if dtype != "float32" and precision is not None:
        raise UnsupportedProblemError(
            f"precision {precision!r} applies to float32 inputs only; leave it out for {dtype}"
        )
    if dtype == "float32" and precision is None:
        precision = "tf32"
    if precision is not None and precision not in PRECISIONS:
        raise UnsupportedProblemError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    if mode not in (None, *MODES):
        raise UnsupportedProblemError(f"mode {mode!r} is not known; use train or eval")
    return Problem(M=M, N=N, K=K, dtype=dtype, precision=precision, mode=mode)
