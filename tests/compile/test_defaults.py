"""A launch may leave out what its kernel has a default for: it compiles as if that had been given."""

from __future__ import annotations

import triton
import triton.language as tl

from fusetune.compiler.build import compile_launch, specialize
from fusetune.core.target import find_target
from fusetune.ops.parameters import completed
from fusetune.ops.spec import AbstractTensor, Launch

RTX4090 = find_target("rtx4090")


@triton.jit
def shifted(x_ptr, y_ptr, n, bias_ptr=None, BLOCK: tl.constexpr = 64, step=16):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n) + step
    if bias_ptr is not None:
        x += tl.load(bias_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x, mask=at < n)


X = AbstractTensor((1000,), "float32")
SHORT = Launch(shifted, (16,), {"x_ptr": X, "y_ptr": X, "n": 1000}, {})
LONG = Launch(shifted, (16,), {"x_ptr": X, "y_ptr": X, "n": 1000, "bias_ptr": None, "step": 16}, {"BLOCK": 64})


def test_defaults_stand_where_they_would_have_been_given() -> None:
    whole = completed(SHORT)
    assert (whole.arguments, whole.constants) == (LONG.arguments, LONG.constants)
    assert completed(LONG) is LONG
    assert specialize(SHORT) == specialize(LONG)
    signature, constants, _ = specialize(SHORT)
    assert signature == {
        "x_ptr": "*fp32",
        "y_ptr": "*fp32",
        "n": "i32",
        "bias_ptr": "constexpr",
        "BLOCK": "constexpr",
        "step": "i32",
    }
    assert constants == {(3,): None, (4,): 64}


def test_it_compiles() -> None:
    assert compile_launch(SHORT, RTX4090).registers > 0
