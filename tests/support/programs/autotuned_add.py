"""An autotuned add with a callable grid: its trials are not the program's launches."""

import sys

import torch
import triton
import triton.language as tl


@triton.autotune(
    configs=[triton.Config({"BLOCK": 256}, num_warps=2), triton.Config({"BLOCK": 1024}, num_warps=8)], key=["n"]
)
@triton.jit
def add(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x_ptr + at, mask=at < n) + tl.load(y_ptr + at, mask=at < n)
    tl.store(z_ptr + at, total, mask=at < n)


def main(n: int) -> None:
    x, y = torch.ones(n, device="cuda"), torch.ones(n, device="cuda")
    z = torch.empty_like(x)
    for _ in range(3):
        add[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, z, n)
    print("added", n)


if __name__ == "__main__":
    main(int(sys.argv[1]))
