"""A forward and a backward kernel in an autograd.Function: both are the program's."""

import torch
import triton
import triton.language as tl


@triton.jit
def square(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * x, mask=at < n)


@triton.jit
def square_backward(x_ptr, g_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(g_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n) * tl.load(g_ptr + at, mask=at < n), mask=at < n)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        square[(triton.cdiv(x.numel(), 256),)](x, y, x.numel(), BLOCK=256)
        return y

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        g = g.contiguous()
        square_backward[(triton.cdiv(x.numel(), 256),)](x, g, x.numel(), BLOCK=256)
        return g


if __name__ == "__main__":
    x = torch.randn(4096, device="cuda", requires_grad=True)
    Square.apply(x).sum().backward()
