"""Triton code of the variant `vectored`: rows that begin on 2, 4 or 8 elements, moved as many at a time.

Triton's JIT knows of an integer whether 16 divides it, and no other power of two. Where 16 does not divide K, the rows
of x and W may begin anywhere for all that the compiler sees: it moves one element at a time, and 16-bit rows, whose
elements are shorter than the least that can be copied asynchronously, are not loaded ahead at all. So it is with N and
the stores.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.tiles import tiled_products


@triton.jit
def vectored_products(  # type: ignore[no-untyped-def]
    x_ptr,
    w_ptr,
    bias_ptr,
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    tracked_ptr,
    moments_ptr,
    partial_ptr,
    arrivals_ptr,
    y_ptr,
    M,
    N,
    K,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    eps,
    momentum,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    EVEN_MN: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDS: tl.constexpr,
    JOINS: tl.constexpr,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PREFETCHES: tl.constexpr,
    UNIT_K: tl.constexpr,
    UNIT_N: tl.constexpr,
):
    """`tiled_products`, where UNIT_K divides K and the strides of rows, and UNIT_N divides N.

    What was divided and multiplied again is seen to be a multiple.
    """
    # fmt: off
    tiled_products(
        x_ptr, w_ptr, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, tracked_ptr, moments_ptr,
        partial_ptr, arrivals_ptr, y_ptr,
        M, N // UNIT_N * UNIT_N, K // UNIT_K * UNIT_K,
        stride_xm // UNIT_K * UNIT_K, stride_xk, stride_wn // UNIT_K * UNIT_K, stride_wk, eps, momentum,
        BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, SPLIT_K, EVEN_K, EVEN_MN, PRECISION, ROUNDS, JOINS, EPILOGUE, COUNTER,
        OVERLAPS, PREFETCHES,
    )
    # fmt: on
