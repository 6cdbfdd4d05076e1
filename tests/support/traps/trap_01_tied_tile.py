"""Trap 1, a tile tied to the shape: one program a row, and BLOCK is the row.

A smaller BLOCK computes a part of each row, and says nothing. Right: BLOCK stays in both kernels, warps may change.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def row_softmax(x_ptr, y_ptr, row_stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * row_stride + at, mask=at < columns, other=float("-inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row * row_stride + at, e / tl.sum(e, axis=0), mask=at < columns)


@triton.jit
def row_rms(x_ptr, weight_ptr, y_ptr, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * columns + at)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / columns + eps)
    tl.store(y_ptr + row * columns + at, x * scale * tl.load(weight_ptr + at))


def softmax(x):
    rows, columns = x.shape
    y = torch.empty_like(x)
    row_softmax[(rows,)](x, y, x.stride(0), columns, BLOCK=triton.next_power_of_2(columns), num_warps=8)
    return y


def rms_norm(x, weight, eps=1e-6):
    rows, columns = x.shape
    y = torch.empty_like(x)
    row_rms[(rows,)](x, weight, y, columns, eps, BLOCK=columns)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randn(512, 1000, device="cuda")
    torch.testing.assert_close(softmax(x), torch.softmax(x, dim=-1))
    x, weight = torch.randn(512, 1024, device="cuda"), torch.randn(1024, device="cuda")
    expected = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * weight
    torch.testing.assert_close(rms_norm(x, weight), expected)


if __name__ == "__main__":
    main()
