"""Launches of three kernels in loops: over the rows of a tensor, with a step that counts, and with sizes."""

import torch
import triton
import triton.language as tl


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2.0, mask=at < n)


@triton.jit
def decay(x_ptr, step, rate, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) * rate + step, mask=at < n)


@triton.jit
def fill(x_ptr, count, BLOCK: tl.constexpr):
    for first in range(0, count, BLOCK):
        tl.store(x_ptr + first + tl.arange(0, BLOCK), 1.0)


def main():
    x = torch.randn(40, 1000, device="cuda")
    y = torch.empty_like(x)
    for row in range(40):
        double[(triton.cdiv(1000, 256),)](x[row], y[row], 1000, BLOCK=256)
    odd = torch.empty(10 * 1001, device="cuda")
    for row in range(10):
        double[(triton.cdiv(1001, 256),)](odd[row * 1001 :][:1001], odd[row * 1001 :][:1001], 1001, BLOCK=256)
    for step in range(1, 101):
        decay[(triton.cdiv(1000, 256),)](x[0], step, 1.0 / step, 1000, BLOCK=256)
    for count in (256, 512, 1024):
        fill[(1,)](x, count, BLOCK=256)


main()
