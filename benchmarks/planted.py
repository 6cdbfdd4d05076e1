"""gemm_scale with a known amount of extra work: `GROUP_M - 1` units of it in every CTA. For decision.py.

The tile order is that of GROUP_M 1 throughout, so that nothing but the extra work differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import GemmScale
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.tiles import rounded_to_tf32
from fusetune.ops.spec import Launch

STEPS_PER_UNIT = 4


@triton.jit
def gemm_scale_planted(
    x_ptr,  # [M, K]
    w_ptr,  # [N, K]
    bias_ptr,  # [N]
    scale_ptr,  # [N]
    y_ptr,  # [M, N]
    M,
    N,
    K,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    spin,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    tile = tl.program_id(0)
    tiles_n = tl.cdiv(N, BLOCK_N)
    offs_m = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + offs_m[:, None] * stride_xm + offs_k[None, :] * stride_xk
    w_ptrs = w_ptr + offs_n[None, :] * stride_wn + offs_k[:, None] * stride_wk
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(0, K, BLOCK_K):
        x = tl.load(x_ptrs)
        w = tl.load(w_ptrs)
        if ROUNDS:
            x = rounded_to_tf32(x)
            w = rounded_to_tf32(w)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        x_ptrs += BLOCK_K * stride_xk
        w_ptrs += BLOCK_K * stride_wk
    bias = tl.load(bias_ptr + offs_n).to(tl.float32)
    scale = tl.load(scale_ptr + offs_n).to(tl.float32)
    # A chain of dependent multiply-adds that nothing can shorten and whose value changes nothing.
    value = tl.load(scale_ptr).to(tl.float32)
    for _ in range(spin):
        value = value * 0.5 + 1.0
    y = (acc + bias[None, :]) * scale[None, :] + tl.where(value == 1.0e30, 1.0, 0.0)
    tl.store(y_ptr + offs_m[:, None].to(tl.int64) * N + offs_n[None, :], y.to(y_ptr.dtype.element_ty))


class PlantedGemmScale(GemmScale):
    """The KernelSpec; its problems are multiples of the tile."""

    name = "planted_gemm_scale"

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        (plain,) = super().launches(problem, config, tensors)
        taken = gemm_scale_planted.arg_names
        constants = {name: value for name, value in plain.constants.items() if name in taken}
        # Never 0, 1 or a multiple of 16, which Triton would compile to other code.
        spin = (config.GROUP_M - 1) * STEPS_PER_UNIT + 2
        arguments = {**{name: value for name, value in plain.arguments.items() if name in taken}, "spin": spin}
        return (Launch(gemm_scale_planted, plain.grid, arguments, constants, plain.options),)


SPEC = PlantedGemmScale()
