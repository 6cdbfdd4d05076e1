"""Trap 9, warps alone change a result: one kernel is told their number and splits rows by it, one asks for its thread.

Both give the same twice with the same warps. Right: other warps are wrong results, and those that run today stay.
"""

import torch
import triton
import triton.language as tl

PARTS = 16


@triton.jit
def sums_by_warp(x_ptr, parts_ptr, columns, PARTS: tl.constexpr, BLOCK: tl.constexpr, num_warps: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * columns + at, mask=at < columns, other=0.0)
    sums = tl.sum(tl.reshape(x, (num_warps, BLOCK // num_warps)), axis=1)
    tl.store(parts_ptr + row * PARTS + tl.arange(0, num_warps), sums)


@triton.jit
def dither(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    thread = tl.inline_asm_elementwise("mov.u32 $0, %tid.x;", "=r,r", [at], dtype=tl.int32, is_pure=True, pack=1)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x + thread.to(tl.float32), mask=at < n)


def partial_sums(x):
    rows, columns = x.shape
    parts = torch.zeros(rows, PARTS, device=x.device)
    block = triton.next_power_of_2(columns)
    sums_by_warp[(rows,)](x, parts, columns, PARTS=PARTS, BLOCK=block, num_warps=4)
    return parts


def dithered(x):
    y = torch.empty_like(x)
    dither[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel(), BLOCK=1024, num_warps=4)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randint(-8, 9, (512, 2000), device="cuda").float()
    torch.testing.assert_close(partial_sums(x).sum(dim=1), x.sum(dim=1))
    y = torch.randint(0, 100, (65536,), device="cuda").float()
    added = dithered(y) - y
    torch.testing.assert_close(added, added.clamp(0, 127))


if __name__ == "__main__":
    main()
