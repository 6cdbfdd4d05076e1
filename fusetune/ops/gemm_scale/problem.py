"""Problem of a GEMM: its sizes, its dtype, how float32 is multiplied, and whether it trains."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from fusetune.core.dtypes import dtype_name, unknown_dtype
from fusetune.core.near import did_you_mean
from fusetune.core.problem import Problem as AnyProblem
from fusetune.errors import UnsupportedProblemError

Dtype = Literal["float32", "float16", "bfloat16"]
Precision = Literal["tf32", "ieee", "tf32x3", "bf16x3"]
Mode = Literal["train", "eval"]

MODES: Final[tuple[Mode, ...]] = ("train", "eval")
DTYPES: Final[tuple[Dtype, ...]] = ("float32", "float16", "bfloat16")
PRECISIONS: Final[tuple[Precision, ...]] = ("tf32", "ieee", "tf32x3", "bf16x3")
DTYPE_BYTES: Final[dict[Dtype, int]] = {"float32": 4, "float16": 2, "bfloat16": 2}

Dimension = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Problem(msgspec.Struct, AnyProblem, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
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

    def size_text(self) -> str:
        """In the order of the product: `M=128 K=1024 N=512`."""
        return f"M={self.M} K={self.K} N={self.N}"

    def form_text(self) -> str:
        """`float32 tf32 train`."""
        return " ".join(part for part in (self.dtype, self.precision, self.mode) if part)

    def sizes(self) -> Mapping[str, int]:
        """M alone: no kernel's tile or code is tied to it."""
        return {"M": self.M}

    def rest(self) -> Hashable:
        """All else."""
        return self.N, self.K, self.dtype, self.precision, self.mode

    def order(self) -> tuple[int, int, int, str, str, str]:
        """Problems that differ only in M or precision stand together, so that a diff in review stays small."""
        return (self.N, self.K, self.M, self.dtype, self.precision or "", self.mode or "")

    def options(self) -> str:
        """Its sizes, and what differs from the defaults."""
        words = {
            "mode": self.mode,
            "dtype": None if self.dtype == "float32" else self.dtype,
            "precision": None if self.precision == "tf32" else self.precision,
        }
        told = "".join(f" --{name} {word}" for name, word in words.items() if word is not None)
        return f"--M {self.M} --K {self.K} --N {self.N}{told}"

    @property
    def kind(self) -> str:
        """How its products are made: the precision, or the dtype of 16-bit inputs."""
        return self.precision or self.dtype


def make_problem(
    M: int, N: int, K: int, dtype: Dtype, precision: Precision | None = None, mode: Mode | None = None
) -> Problem:
    """A checked Problem; float32 without a precision means tf32, as in nn.Linear with TF32 allowed.

    A dtype may have another of its names, as fp16. Raises UnsupportedProblemError for a size below one, an unknown
    dtype, or a precision on 16-bit inputs.
    """
    for name, size in (("M", M), ("N", N), ("K", K)):
        if not 1 <= size < 2**31:
            raise UnsupportedProblemError(f"{name} is {size}; a size to tune lies between 1 and 2147483647", name)
    dtype = cast(Dtype, dtype_name(dtype))
    if dtype not in DTYPES:
        raise UnsupportedProblemError(unknown_dtype(dtype, DTYPES), "dtype")
    if dtype != "float32" and precision is not None:
        raise UnsupportedProblemError(
            f"precision {precision!r} applies to float32 inputs only; leave it out for {dtype}", "precision"
        )
    if dtype == "float32" and precision is None:
        precision = "tf32"
    if precision is not None and precision not in PRECISIONS:
        near = did_you_mean(precision, PRECISIONS)
        raise UnsupportedProblemError(
            f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}{near}", "precision"
        )
    if mode not in (None, *MODES):
        near = did_you_mean(str(mode), MODES)
        raise UnsupportedProblemError(f"mode {mode!r} is not known; use train or eval{near}", "mode")
    return Problem(M=M, N=N, K=K, dtype=dtype, precision=precision, mode=mode)


_SIZES: Final = ("M", "K", "N")
_WORDS: Final = ("dtype", "precision", "mode")


def problem_of(values: Mapping[str, Any]) -> Problem:
    """M, K and N, and where they differ from the defaults dtype (float32), precision and mode.

    Raises UnsupportedProblemError, as `make_problem` does, and for a value that is missing or not known.
    """
    missing = [name for name in _SIZES if values.get(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UnsupportedProblemError(f"{', '.join(missing)} {are} missing: a problem has M, K and N", *missing)
    unknown = sorted(values.keys() - {*_SIZES, *_WORDS})
    if unknown:
        known = ", ".join((*_SIZES, *_WORDS))
        raise UnsupportedProblemError(f"{unknown[0]!r} is not known: a problem has {known}", *unknown)
    broken = [name for name in _SIZES if type(values[name]) is not int]
    if broken:
        raise UnsupportedProblemError(f"{broken[0]} is {values[broken[0]]!r}, and has to be a whole number", *broken)
    return make_problem(**{"dtype": "float32", **values})


def merged(row: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values and the defaults: a precision that was given for a whole list is for its float32 rows."""
    values = {**defaults, **row}
    if "precision" not in row and dtype_name(values.get("dtype", "float32")) != "float32":
        values.pop("precision", None)
    return values
