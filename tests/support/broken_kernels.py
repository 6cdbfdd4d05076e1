"""Kernels that do not compile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shapes_do_not_fit(y_ptr, BLOCK: tl.constexpr):
    # Longer than the excerpt that Triton puts before its message, as kernels of any use are.
    at = tl.arange(0, BLOCK)
    first = tl.load(y_ptr + at) + 1.0
    second = tl.load(y_ptr + at + BLOCK) + first * 2.0
    third = tl.load(y_ptr + at + 2 * BLOCK) + second * 3.0
    fourth = tl.load(y_ptr + at + 3 * BLOCK) + third * 4.0
    fifth = tl.load(y_ptr + at + 4 * BLOCK) + fourth * 5.0
    sixth = tl.load(y_ptr + at + 5 * BLOCK) + fifth * 6.0
    seventh = tl.load(y_ptr + at + 6 * BLOCK) + sixth * 7.0
    eighth = tl.load(y_ptr + at + 7 * BLOCK) + seventh * 8.0
    wrong = eighth + tl.arange(0, 2 * BLOCK)
    tl.store(y_ptr + at, wrong)


@triton.jit
def _called(y_ptr, BLOCK: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, BLOCK), no_such_name)  # noqa: F821


@triton.jit
def calls_one_that_does_not_compile(y_ptr, BLOCK: tl.constexpr):
    _called(y_ptr, BLOCK)
