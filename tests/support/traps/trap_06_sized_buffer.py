"""Trap 6, a tile that sizes a buffer: partial sums, one a program.

A smaller tile writes behind the buffer's end. `partial_sums` shows it in the wrapper; the workspace of `extremes` is
made elsewhere, with room for a flag, so that only bytes on guard tell. Right: BLOCK stays in both; nothing crashes.
"""

import torch
import triton
import triton.language as tl

TILE = 512


@triton.jit
def partial_sums(x_ptr, partial_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0), axis=0))


@triton.jit
def extremes(x_ptr, work_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(work_ptr + 1 + 2 * tl.program_id(0), tl.min(x, axis=0))
    tl.store(work_ptr + 2 + 2 * tl.program_id(0), tl.max(x, axis=0))


def total(x, BLOCK=512):
    n = x.numel()
    partial = torch.empty(triton.cdiv(n, BLOCK), device=x.device)
    partial_sums[(partial.numel(),)](x, partial, n, BLOCK=BLOCK)
    return partial.sum()


def workspace(x):
    return torch.zeros(1 + 2 * triton.cdiv(x.numel(), TILE), device=x.device)


def bounds(x):
    work = workspace(x)
    extremes[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, work, x.numel(), BLOCK=TILE)
    return work[1::2].min(), work[2::2].max()


def main():
    torch.manual_seed(0)
    x = torch.randint(-8, 9, (100_000,), device="cuda").float()
    torch.testing.assert_close(total(x), x.sum())
    torch.testing.assert_close(torch.stack(bounds(x)), torch.stack((x.min(), x.max())))


if __name__ == "__main__":
    main()
