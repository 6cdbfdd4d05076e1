"""None for a pointer, a flag, a dtype and a word as constants, a constant by position, one tensor twice, a view."""

import torch
import triton
import triton.language as tl


@triton.jit
def scaled(
    x_ptr,
    bias_ptr,
    y_ptr,
    n,
    factor,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    KIND: tl.constexpr = "plain",
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n).to(TYPE)
    if HAS_BIAS:
        x += tl.load(bias_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * factor, mask=at < n)


x = torch.randn(2, 512, device="cuda")
scaled[(triton.cdiv(512, 128),)](x[1], None, x[1], 512, 1, False, 128, tl.float32)
scaled[(triton.cdiv(512, 128),)](x[0], x[1], x[1], 512, 2.5, True, 128, TYPE=tl.float32)
