"""Trap 7, a tile that another argument limits: BLOCK_D is at most the group of rows that share a scale.

The author's own list holds a config that is wrong, with BLOCK_D twice the group; it spills, so that it never wins here.
Right: that config is rejected as a wrong result, and a BLOCK_D of at most the group runs.
"""

import torch
import triton
import triton.language as tl

GROUP = 64


@triton.autotune(
    configs=[
        triton.Config({"BLOCK_H": 32, "BLOCK_W": 32, "BLOCK_D": 32}, num_warps=4, num_stages=2),
        triton.Config({"BLOCK_H": 32, "BLOCK_W": 64, "BLOCK_D": 64}, num_warps=4, num_stages=2),
        triton.Config({"BLOCK_H": 128, "BLOCK_W": 128, "BLOCK_D": 128}, num_warps=1, num_stages=1),
    ],
    key=["M", "N", "K"],
)
@triton.jit
def matmul_int8(
    x_ptr, w_ptr, scale_ptr, y_ptr, M, N, K, group, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr
):
    m = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    n = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    total = tl.zeros((BLOCK_H, BLOCK_W), tl.float32)
    for first in range(0, K, BLOCK_D):
        k = first + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        w = tl.load(w_ptr + k[:, None] * N + n[None, :], mask=(k[:, None] < K) & (n[None, :] < N), other=0)
        scale = tl.load(scale_ptr + (first // group) * N + n, mask=n < N, other=0.0)
        total += tl.dot(x, w.to(tl.float16)) * scale[None, :]
    tl.store(y_ptr + m[:, None] * N + n[None, :], total, mask=(m[:, None] < M) & (n[None, :] < N))


def matmul(x, w, scales):
    (M, K), N = x.shape, w.shape[1]
    y = torch.empty(M, N, device=x.device)
    matmul_int8[lambda meta: (triton.cdiv(M, meta["BLOCK_H"]), triton.cdiv(N, meta["BLOCK_W"]))](
        x, w, scales, y, M, N, K, GROUP
    )
    return y


def main():
    torch.manual_seed(0)
    M, N, K = 256, 256, 512
    x = torch.randn(M, K, device="cuda", dtype=torch.float16)
    w = torch.randint(-7, 8, (K, N), device="cuda", dtype=torch.int8)
    scales = torch.rand(K // GROUP, N, device="cuda") + 0.1
    expected = x.float() @ (w.float() * scales.repeat_interleave(GROUP, dim=0))
    torch.testing.assert_close(matmul(x, w, scales), expected, rtol=1e-2, atol=1.0)


if __name__ == "__main__":
    main()
