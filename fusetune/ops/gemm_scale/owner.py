"""Triton code of the variant `owner`: in training one kernel does all that follows the products.

Each of its CTAs owns a few columns, whole, and so needs nobody else's moments. What it reads a second time is still in
L2, as long as all of y, or what CTAs that run at once own of it, fits there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.endings import await_others, batch_factor, prefetch_vectors, update_running


@triton.jit
def normalize_owned_columns(  # type: ignore[no-untyped-def]
    y_ptr,  # [M, N], contiguous: acc before, BatchNorm's output after
    bias_ptr,
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    tracked_ptr,
    eps,
    momentum,
    M,
    N,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN_ROWS: tl.constexpr,
    COUNTER: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PREFETCHES: tl.constexpr,
):
    """The moments of COLUMNS columns, then these normalized in place, ROWS rows at a time; updates their statistics.

    Moments as `moments_of_rows` takes them (Welford, 1962), beginning with the last rows, which were written last.
    """
    local_m = tl.arange(0, ROWS)
    offs_n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_n = offs_n < N
    if PREFETCHES:
        prefetch_vectors(offs_n, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, "columns")
    if OVERLAPS:
        await_others()
    mean = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    m2 = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    steps = tl.cdiv(M, ROWS)
    for step in tl.range(0, steps, num_stages=STAGES):
        offs_m = (steps - 1 - step) * ROWS + local_m
        places = y_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]
        if EVEN_ROWS:
            acc = tl.load(places, mask=in_n[None, :], other=0.0).to(tl.float32)
            apart = acc - mean
            mean += apart * (1.0 / (step + 1))
            m2 += apart * (acc - mean)
        else:
            held = (offs_m < M)[:, None] & in_n[None, :]
            acc = tl.load(places, mask=held, other=0.0).to(tl.float32)
            # The last rows are read first, and not all places may have one of them.
            seen = (step + tl.where(steps * ROWS - M > ROWS - 1 - local_m, 0, 1)).to(tl.float32)
            apart = tl.where(held, acc - mean, 0.0)
            mean += apart * (1.0 / tl.maximum(seen, 1.0))[:, None]
            m2 += apart * tl.where(held, acc - mean, 0.0)
    seen = tl.cdiv(tl.maximum(M - local_m, 0), ROWS).to(tl.float32)[:, None]
    joined = tl.sum(mean * seen, axis=0) / M
    apart = mean - joined[None, :]
    m2_joined = tl.sum(m2 + seen * apart * apart, axis=0)
    factor = batch_factor(m2_joined, offs_n, in_n, scale_ptr, gamma_ptr, eps, M)
    beta = tl.load(beta_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    update_running(
        joined, m2_joined, offs_n, in_n, bias_ptr, scale_ptr, mean_ptr, var_ptr, tracked_ptr, momentum, M, COUNTER
    )
    for step in tl.range(0, steps, num_stages=STAGES):
        offs_m = step * ROWS + local_m
        places = y_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]
        held = (offs_m < M)[:, None] & in_n[None, :]
        # Neither is read again here: what goes first of L2 is this, and not rows that are still to be read.
        acc = tl.load(places, mask=held, other=0.0, eviction_policy="evict_first").to(tl.float32)
        y = (acc - joined[None, :]) * factor[None, :] + beta[None, :]
        tl.store(places, y.to(y_ptr.dtype.element_ty), mask=held, eviction_policy="evict_first")
