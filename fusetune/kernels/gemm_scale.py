"""gemm_scale: y = (x @ W.T + bias) * scale, with W [N, K] read as nn.Linear keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import triton
import triton.language as tl

from fusetune.core.config import Config
from fusetune.core.problem import DTYPES, Problem
from fusetune.core.space import GEMM_SPACE
from fusetune.errors import UnsupportedProblemError
from fusetune.kernels.spec import Launch, Operand, Tolerance, hash_kernels


@triton.jit
def gemm_scale_tiled(  # type: ignore[no-untyped-def]
    x_ptr,  # [M, K]
    w_ptr,  # [N, K]
    bias_ptr,  # [N]
    scale_ptr,  # [N]
    y_ptr,  # [M, N], contiguous
    M,
    N,
    K,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One CTA computes one BLOCK_M x BLOCK_N tile of y."""
    # GROUP_M rows of tiles are walked column by column, so that CTAs running together share columns of W in L2.
    tile = tl.program_id(0)
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group_tiles = GROUP_M * tiles_n
    first_m = tile // group_tiles * GROUP_M
    rows = min(tiles_m - first_m, GROUP_M)
    tile_m = first_m + tile % group_tiles % rows
    tile_n = tile % group_tiles // rows
    start_m = tile_m * BLOCK_M
    start_n = tile_n * BLOCK_N

    # The tile's corner is a 64-bit scalar, so that tensors beyond 2**31 elements work and offsets within a tile stay
    # cheap 32-bit ones. Rows past the edge read the last row again: no mask in the loop, and the store leaves them out.
    local_m = tl.arange(0, BLOCK_M)
    local_n = tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    read_m = tl.minimum(local_m, M - 1 - start_m)
    read_n = tl.minimum(local_n, N - 1 - start_n)
    x_tile = x_ptr + start_m.to(tl.int64) * stride_xm
    w_tile = w_ptr + start_n.to(tl.int64) * stride_wn
    x_ptrs = x_tile + read_m[:, None] * stride_xm + offs_k[None, :] * stride_xk
    w_ptrs = w_tile + read_n[None, :] * stride_wn + offs_k[:, None] * stride_wk

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_ptrs)
            w = tl.load(w_ptrs)
        else:
            x = tl.load(x_ptrs, mask=offs_k[None, :] < K - k, other=0.0)
            w = tl.load(w_ptrs, mask=offs_k[:, None] < K - k, other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        x_ptrs += BLOCK_K * stride_xk
        w_ptrs += BLOCK_K * stride_wk

    offs_n = start_n + local_n
    in_n = offs_n < N
    bias = tl.load(bias_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    y = (acc + bias[None, :]) * scale[None, :]
    y_ptrs = y_ptr + start_m.to(tl.int64) * N + local_m[:, None] * N + offs_n[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=(start_m + local_m < M)[:, None] & in_n[None, :])


class GemmScale:
    """The KernelSpec of gemm_scale."""

    name = "gemm_scale"
    space = GEMM_SPACE
    dtypes = DTYPES
    modes = (None,)
    staged_loads = 2  # x and W; bias and scale are loaded once, after the loop

    def operands(self, problem: Problem) -> tuple[Operand, ...]:
        """x, weight, bias, scale and y; the weight is spread as nn.Linear spreads it, so that y is of order one."""
        if problem.mode is not None:
            raise UnsupportedProblemError(
                f"gemm_scale has no mode {problem.mode!r}: training and evaluation are the same"
            )
        M, N, K, dtype = problem.M, problem.N, problem.K, problem.dtype
        return (
            Operand("x", (M, K), dtype),
            Operand("weight", (N, K), dtype, std=1 / math.sqrt(3 * K)),
            Operand("bias", (N,), dtype, std=1 / math.sqrt(3 * K)),
            Operand("scale", (N,), dtype),
            Operand("y", (M, N), dtype, role="output"),
        )

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        """One launch of the variant that the config names."""
        if config.variant != "tiled" or config.SPLIT_K != 1:
            raise UnsupportedProblemError(
                f"gemm_scale has no variant {config.label()!r}; this version knows tiled, SPLIT_K 1"
            )
        stride_xm, stride_xk = tensors["x"].stride()
        stride_wn, stride_wk = tensors["weight"].stride()
        grid = (triton.cdiv(problem.M, config.BLOCK_M) * triton.cdiv(problem.N, config.BLOCK_N),)
        launch = Launch(
            kernel=gemm_scale_tiled,
            grid=grid,
            arguments={
                "x_ptr": tensors["x"],
                "w_ptr": tensors["weight"],
                "bias_ptr": tensors["bias"],
                "scale_ptr": tensors["scale"],
                "y_ptr": tensors["y"],
                "M": problem.M,
                "N": problem.N,
                "K": problem.K,
                "stride_xm": stride_xm,
                "stride_xk": stride_xk,
                "stride_wn": stride_wn,
                "stride_wk": stride_wk,
            },
            constants={
                "BLOCK_M": config.BLOCK_M,
                "BLOCK_N": config.BLOCK_N,
                "BLOCK_K": config.BLOCK_K,
                "GROUP_M": config.GROUP_M,
                "EVEN_K": problem.K % config.BLOCK_K == 0,
                "PRECISION": problem.precision or "ieee",
            },
            # Set although it is today's default: a later Triton turns contraction into FMA off.
            options={"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True},
        )
        return (launch,)

    def reference(self, problem: Problem, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """PyTorch in float64."""
        x, weight, bias, scale = (inputs[name].double() for name in ("x", "weight", "bias", "scale"))
        return {"y": (x @ weight.T + bias) * scale}

    def tolerance(self, problem: Problem) -> Tolerance:
        """By precision: about three times the error that rounding the inputs (and a 16-bit y) makes on random data.

        Rounding to p bits errs by 2**-p / sqrt(3) in the mean square, whatever K is; float32 accumulation adds an
        error that grows with sqrt(K). TF32 keeps 11 bits and truncates, which doubles it.
        """
        by_precision = {"tf32": 1.2e-3, "ieee": 4e-7, "tf32x3": 2e-6, "bf16x3": 6e-5}
        by_dtype = {"float16": 6e-4, "bfloat16": 5e-3}
        inputs = by_precision[problem.precision] if problem.precision else by_dtype[problem.dtype]
        accumulation = 1.2e-7 * math.sqrt(problem.K)
        frobenius = inputs + accumulation
        # The largest of 1e8 errors, in a column with a scale of five, is 25 times the mean square one; a wrong element
        # is off by as much as y itself, a thousand times.
        return Tolerance(frobenius=frobenius, maximum=40 * frobenius)

    def flops(self, problem: Problem) -> float:
        """Two a multiply-add, and two an output for bias and scale."""
        return 2.0 * problem.M * problem.N * (problem.K + 1)

    def bytes(self, problem: Problem) -> float:
        """x, W, bias, scale and y once each."""
        return float(sum(operand.numel for operand in self.operands(problem)) * problem.element_bytes)

    def deterministic(self, config: Config) -> bool:
        """Every tile is summed by one CTA in a fixed order."""
        return True

    def source_hash(self) -> str:
        """The hash of the tiled kernel."""
        return hash_kernels(gemm_scale_tiled)


SPEC = GemmScale()
