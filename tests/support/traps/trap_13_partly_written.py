"""Trap 13, outputs that Before does not write whole, and a write behind the end of a view.

`keep_positive` leaves what it does not take as it was; `relu_whole_blocks` writes whole blocks, into the rest of a
larger buffer behind its own part: BLOCK 256 would write behind that, too. Right: what Before leaves alone is no
mistake, and no BLOCK is kept that writes elsewhere than Before.
"""

import torch
import triton
import triton.language as tl

N, ROOM = 9 * 128 - 52, 9 * 128


@triton.jit
def keep_positive(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + 2 * at, x, mask=(at < n) & (x > 0))


@triton.jit
def relu_whole_blocks(x_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.maximum(tl.load(x_ptr + at), 0.0))


def positives(x):
    y = torch.empty(x.numel(), 2, device=x.device)
    keep_positive[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel(), BLOCK=256)
    return y


def relu(x):
    y = torch.zeros(ROOM, device=x.device)[: x.numel()]
    relu_whole_blocks[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, BLOCK=128)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randn(100_000, device="cuda")
    torch.testing.assert_close(positives(x)[x > 0, 0], x[x > 0])
    x = torch.randn(8 * ROOM, device="cuda")[:N]
    torch.testing.assert_close(relu(x), x.relu())


if __name__ == "__main__":
    main()
