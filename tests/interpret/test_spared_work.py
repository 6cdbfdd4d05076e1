"""What the tests spare Triton's interpreter changes nothing in what it computes, and overflow is found."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def doubled(value):
    return value + value


@triton.jit
def total(value):
    return tl.sum(value * value, 0)


@triton.jit
def _kernel(x_ptr, y_ptr, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    value = doubled(doubled(tl.load(x_ptr + at)))
    tl.store(y_ptr + at, value - total(value))


def launched(*values: int) -> list[int]:
    x = torch.tensor(values, dtype=torch.int32)
    y = torch.zeros_like(x)
    _kernel[(2,)](x, y, COUNT=len(values))
    return y.tolist()


def test_functions_that_call_functions_give_the_same_launch_after_launch() -> None:
    before = tl.arange, tl.sum, tl.range
    for _ in range(2):
        assert launched(1, 2, -3, 0) == [4 - 224, 8 - 224, -12 - 224, -224]
        assert (tl.arange, tl.sum, tl.range) == before


@pytest.mark.parametrize(
    ("values", "operation"),
    [((1 << 30, 0), "add"), ((-(1 << 30) - 1, 0), "add"), ((1 << 14, 0), "mul"), ((-(20000), 0), "mul")],
)
def test_whole_numbers_that_do_not_fit_are_found(values: tuple[int, ...], operation: str) -> None:
    with pytest.raises(InterpreterError, match=f"int32 overflow detected for operation {operation}"):
        launched(*values)
    assert launched(1, 0) == [4 - 16, -16]
