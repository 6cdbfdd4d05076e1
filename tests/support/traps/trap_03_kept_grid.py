"""Trap 3, a grid that forward keeps and backward uses again, where its own tile is written down once more.

With another tile in forward's source, backward's programs would cover another part of the gradient. Right: each launch
is judged with its own grid and tile, and no gradient is left half done.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def silu_forward(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * tl.sigmoid(x), mask=at < n)


@triton.jit
def silu_backward(x_ptr, dy_ptr, dx_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    s = tl.sigmoid(x)
    slope = s * (1.0 + x * (1.0 - s))
    tl.store(dx_ptr + at, slope * tl.load(dy_ptr + at, mask=at < n), mask=at < n)


class Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.empty_like(x)
        block = 512
        ctx.grid = (triton.cdiv(x.numel(), block),)
        silu_forward[ctx.grid](x, y, x.numel(), BLOCK=block)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        silu_backward[ctx.grid](x, dy.contiguous(), dx, x.numel(), BLOCK=512)
        return dx


def main():
    torch.manual_seed(0)
    x = torch.randn(333, 257, device="cuda", requires_grad=True)
    weights = torch.randn(333, 257, device="cuda")
    (Silu.apply(x) * weights).sum().backward()
    x2 = x.detach().clone().requires_grad_()
    (torch.nn.functional.silu(x2) * weights).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad)


if __name__ == "__main__":
    main()
