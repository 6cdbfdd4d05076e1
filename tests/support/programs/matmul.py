"""A product of two matrices, float32 by TF32, whose tile and grid a wrapper gives: arithmetic limits it."""

import torch
import triton
import triton.language as tl


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    columns = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    total = tl.zeros((BLOCK_H, BLOCK_W), tl.float32)
    for start in range(0, K, BLOCK_D):
        depth = start + tl.arange(0, BLOCK_D)
        a = tl.load(a_ptr + rows[:, None] * K + depth[None, :], mask=(rows[:, None] < M) & (depth[None, :] < K))
        b = tl.load(b_ptr + depth[:, None] * N + columns[None, :], mask=(depth[:, None] < K) & (columns[None, :] < N))
        total = tl.dot(a, b, total)
    at = rows[:, None] * N + columns[None, :]
    tl.store(c_ptr + at, total, mask=(rows[:, None] < M) & (columns[None, :] < N))


def product(a, b):
    (m, k), n = a.shape, b.shape[1]
    c = torch.empty(m, n, device=a.device)
    matmul[lambda meta: (triton.cdiv(m, meta["BLOCK_H"]), triton.cdiv(n, meta["BLOCK_W"]))](
        a, b, c, m, n, k, BLOCK_H=64, BLOCK_W=64, BLOCK_D=32
    )
    return c


if __name__ == "__main__":
    product(torch.randn(1024, 2048, device="cuda"), torch.randn(2048, 1024, device="cuda"))
