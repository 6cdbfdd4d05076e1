# current.py after fusetune 0.1.0, for NVIDIA H200.
# The program's result is that of before (max error 0); 3.3 ms -> 1.19 ms (0.36x).
# fused_gemm_scale_kernel: BLOCK_M=64 BLOCK_N=128 BLOCK_K=16 w2 s5: 688 us, was 2.77 ms with
#   BLOCK_M=64 BLOCK_N=64 BLOCK_K=32 w4 s3. Gain +75.2 % in [+75.1, +75.3] % at 95 %. Over 4 warps /
#   2 stages +74.7 % in [+74.7, +74.7] %. NVIDIA H200, run 20261130T193324-fbffe9, 2026-11-30.
#   By the profile: Latency limits fused_gemm_scale_kernel, and shared memory keep more warps out:
#   no unit is near its peak (SM 44 %, DRAM 17 %). (SM throughput 44 %; 24 % warps active, equal to
#   the occupancy limit of 25 %; DRAM 17 %; 96 % L2 hits)

import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def fused_gemm_scale_kernel(
    a_ptr,  # [M, K]
    b_ptr,  # [K, N]
    bias_ptr,  # [N]
    scale_ptr,  # [N]
    c_ptr,  # [M, N]
    M, N, K,
    stride_am, stride_ak,
    stride_bk, stride_bn,
    stride_cm, stride_cn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Program ids for 2D tiling of the output matrix
    pid_m = tl.program_id(0)
    pid_n = tl.program_id(1)

    # Tile offsets
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)

    # Pointers for the first K-tile
    a_ptrs = a_ptr + offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak
    b_ptrs = b_ptr + offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn

    # Accumulator in fp32 for better precision
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)

    # Loop over K dimension
    for k in range(0, K, BLOCK_K):
        k_remaining = K - k

        a_mask = (offs_m[:, None] < M) & (offs_k[None, :] < k_remaining)
        b_mask = (offs_k[:, None] < k_remaining) & (offs_n[None, :] < N)

        a = tl.load(a_ptrs, mask=a_mask, other=0.0)
        b = tl.load(b_ptrs, mask=b_mask, other=0.0)

        acc += tl.dot(a, b, allow_tf32=True)

        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk

    # Load bias and scale (per output feature) and apply: (acc + bias) * scale
    bias = tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0)
    scale = tl.load(scale_ptr + offs_n, mask=offs_n < N, other=1.0)
    acc = acc + bias[None, :]
    acc = acc * scale[None, :]

    # Store result
    c_ptrs = c_ptr + offs_m[:, None] * stride_cm + offs_n[None, :] * stride_cn
    c_mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    tl.store(c_ptrs, acc, mask=c_mask)


def fused_gemm_scale(x: torch.Tensor,
                     weight: torch.Tensor,
                     bias: torch.Tensor,
                     scale: torch.Tensor) -> torch.Tensor:
    """
    Fused operation:
        y = (x @ weight.T + bias) * scale

    x:      [M, K]
    weight: [N, K]  (same layout as nn.Linear.weight)
    bias:   [N]
    scale:  [N]
    """
    assert x.is_cuda and weight.is_cuda and bias.is_cuda and scale.is_cuda, \
        "All tensors must be on CUDA for Triton kernels."

    M, K = x.shape
    N = weight.shape[0]
    assert weight.shape[1] == K, "weight shape must be [N, K]"
    assert bias.shape[0] == N and scale.shape[0] == N, "bias/scale must have shape [N]"

    # Prepare output tensor
    out = torch.empty((M, N), device=x.device, dtype=x.dtype)

    # We use weight.T as B in GEMM, so that B is [K, N]
    b = weight.t().contiguous()

    # Strides
    stride_am, stride_ak = x.stride()
    stride_bk, stride_bn = b.stride()
    stride_cm, stride_cn = out.stride()

    # Define kernel launch grid
    def grid(meta):
        return (
            triton.cdiv(M, meta["BLOCK_M"]),
            triton.cdiv(N, meta["BLOCK_N"]),
        )

    # fusetune: BLOCK_M=64 BLOCK_N=128 BLOCK_K=16 w2 s5: 688 us, was 2.77 ms with BLOCK_M=64 BLOCK_N=64 BLOCK_K=32 w4 s3.
    # fusetune: Gain +75.2 % in [+75.1, +75.3] % at 95 %.
    # fusetune: Over 4 warps / 2 stages +74.7 % in [+74.7, +74.7] %.
    # fusetune: NVIDIA H200, run 20261130T193324-fbffe9, 2026-11-30.
    fused_gemm_scale_kernel[grid](
        x, b, bias, scale, out,
        M, N, K,
        stride_am, stride_ak,
        stride_bk, stride_bn,
        stride_cm, stride_cn,
        BLOCK_M=64,
        BLOCK_N=128,
        BLOCK_K=16,
        num_warps=2,
        num_stages=5,
    )

    return out


class ModelNew(nn.Module):
    """
    Triton-accelerated version of the original model:

        x -> Linear -> elementwise scale -> BatchNorm1d

    The GEMM + bias + scale are fused into a single Triton kernel.
    BatchNorm is kept as PyTorch for correctness (training/eval behavior).
    """
    def __init__(self, in_features, out_features, scale_shape, eps=1e-5, momentum=0.1):
        super(ModelNew, self).__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(scale_shape))
        self.bn = nn.BatchNorm1d(out_features, eps=eps, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Fused GEMM + bias + scale
        y = fused_gemm_scale(x, self.gemm.weight, self.gemm.bias, self.scale)
        # BatchNorm remains in PyTorch
        y = self.bn(y)
        return y
