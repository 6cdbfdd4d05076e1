"""Warps among a Config's constants, where the Config's own count wins: not what the author meant."""

import torch
import triton
import triton.language as tl


@triton.autotune(configs=[triton.Config({"BLOCK": 128, "num_warps": 1})], key=["n"])
@triton.jit
def double(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2, mask=at < n)


x = torch.ones(1000, device="cuda")
double[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, 1000)
