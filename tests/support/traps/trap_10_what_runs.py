"""Trap 10, what the author wrote is not what runs: warps in a Config's dict, and a Config's dict without its stages.

`triple` asks for one warp where Config's own default wins; `halve` takes the constants of a Config and leaves its eight
warps and five stages behind. Right: Before is 4 warps and 3 stages in both, and each is told as a finding.
"""

import torch
import triton
import triton.language as tl


@triton.autotune(configs=[triton.Config({"BLOCK": 256, "num_warps": 1})], key=["n"])
@triton.jit
def triple(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 3.0, mask=at < n)


BEST = triton.Config({"BLOCK": 1024}, num_warps=8, num_stages=5)


@triton.jit
def halve(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 0.5, mask=at < n)


def tripled(x):
    y = torch.empty_like(x)
    triple[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel())
    return y


def halved(x):
    y = torch.empty_like(x)
    halve[(triton.cdiv(x.numel(), BEST.kwargs["BLOCK"]),)](x, y, x.numel(), **BEST.kwargs)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randn(100_000, device="cuda")
    torch.testing.assert_close(tripled(x), x * 3)
    torch.testing.assert_close(halved(x), x / 2)


if __name__ == "__main__":
    main()
