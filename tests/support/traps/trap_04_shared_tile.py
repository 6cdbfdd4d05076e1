"""Trap 4, a tile that two kernels share: one quantises per block, the other takes the scales of the same blocks.

The buffer of the scales is sized for the smallest block, so that nothing crashes with another. Right: BLOCK stays in
both kernels, as every other value is a wrong result of one of them.
"""

import torch
import triton
import triton.language as tl

SMALLEST = 16


@triton.jit
def quantise(x_ptr, q_ptr, scale_ptr, n, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    scale = tl.max(tl.abs(x), axis=0) / 127.0 + 1e-12
    tl.store(q_ptr + at, tl.floor(x / scale + 0.5).to(tl.int8), mask=at < n)
    tl.store(scale_ptr + block, scale)


@triton.jit
def dequantise(q_ptr, scale_ptr, y_ptr, n, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    q = tl.load(q_ptr + at, mask=at < n, other=0).to(tl.float32)
    tl.store(y_ptr + at, q * tl.load(scale_ptr + block), mask=at < n)


def quantised(x, block=128):
    q = torch.zeros(x.shape, dtype=torch.int8, device=x.device)
    scales = torch.zeros(x.numel() // SMALLEST, device=x.device)
    quantise[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, q, scales, x.numel(), BLOCK=block)
    return q, scales


def dequantised(q, scales, block=128):
    y = torch.empty(q.shape, device=q.device)
    dequantise[lambda meta: (triton.cdiv(q.numel(), meta["BLOCK"]),)](q, scales, y, q.numel(), BLOCK=block)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randn(1 << 16, device="cuda") * torch.logspace(-2, 2, 1 << 16, device="cuda")
    y = dequantised(*quantised(x))
    scales = x.view(-1, 128).abs().amax(dim=1, keepdim=True) / 127
    torch.testing.assert_close(y.view(-1, 128) / scales, x.view(-1, 128) / scales, rtol=0.0, atol=0.51)


if __name__ == "__main__":
    main()
