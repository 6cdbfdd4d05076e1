"""A sum in two kernels: the first one's tile sizes the buffer between them."""

import torch
import triton
import triton.language as tl


@triton.jit
def sums(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + tl.program_id(0), tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0), axis=0))


def total(x, BLOCK=512):
    n = x.numel()
    partial = torch.empty(triton.cdiv(n, BLOCK), device=x.device)
    sums[(triton.cdiv(n, BLOCK),)](x, partial, n, BLOCK=BLOCK)
    out = torch.empty(1, device=x.device)
    sums[(1,)](partial, out, partial.numel(), BLOCK=triton.next_power_of_2(partial.numel()))
    return out


if __name__ == "__main__":
    total(torch.ones(100_000, device="cuda"))
