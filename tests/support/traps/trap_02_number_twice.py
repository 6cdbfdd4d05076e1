"""Trap 2, a grid from another number than the tile: written twice, over-launched, or a number of its own.

`shift` divides by a number that is BLOCK's, written again; `scale` launches four times the programs that it needs;
`clip` launches sixty-four, whatever BLOCK is. Right: no BLOCK is kept whose programs cover a part of the tensor only.
"""

import torch
import triton
import triton.language as tl

N = 64 * 1024 - 100


@triton.jit
def shift(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) + 1.0, mask=at < n)


@triton.jit
def scale(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * factor, mask=at < n)


@triton.jit
def clip(x_ptr, y_ptr, n, low, high, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, tl.minimum(tl.maximum(x, low), high), mask=at < n)


def shifted(x):
    y = torch.empty_like(x)
    shift[((x.numel() + 1023) // 1024,)](x, y, x.numel(), BLOCK=1024)
    return y


def scaled(x, factor):
    y = torch.empty_like(x)
    scale[(triton.cdiv(x.numel(), 256),)](x, y, x.numel(), factor, BLOCK=1024)
    return y


def clipped(x):
    y = torch.empty_like(x)
    clip[(64,)](x, y, x.numel(), -1.0, 1.0, BLOCK=1024)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randn(N, device="cuda")
    torch.testing.assert_close(shifted(x), x + 1)
    torch.testing.assert_close(scaled(x, 3.0), x * 3)
    torch.testing.assert_close(clipped(x), x.clamp(-1, 1))


if __name__ == "__main__":
    main()
