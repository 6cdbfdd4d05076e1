"""Triton code that the ops share: what becomes of acc = x @ W.T.

A tile of products ends in one of these ways, `EPILOGUE`:

    scale       y = (acc + bias) * scale
    eval        that, then BatchNorm with the running statistics; eval_folded with one factor a column
    columns     that, then BatchNorm with the statistics of the tile's own columns, which it holds whole
    statistics  acc itself, and each column's mean and sum of squared deviations over the tile's rows
    products    acc itself, in y's type
    partial     acc itself, in float32, one of SPLIT_K summands

The last three leave the rest to other kernels: `normalize_columns`, after `moments_of_rows` for products, and
`finish_split`. Where few summands make a tile, the
CTA that is last there adds them up (`arrives_last`, `sum_of_all`) and ends in one of the first three ways.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def await_others():  # type: ignore[no-untyped-def]
    """First of all in a kernel with programmatic dependent launch, which begins before the one ahead of it ends.

    The kernel behind may begin too: it does nothing until this one has ended, so that only launching overlaps. Nothing
    of global memory may be touched before this. Needs sm_90 and the option launch_pdl.
    """
    gdc_launch_dependents()
    gdc_wait()


@triton.jit
def prefetch(ptr, offs_n, N):  # type: ignore[no-untyped-def]
    """Have columns of a vector [N] brought into L2; nothing waits for it."""
    # Past the edge, the last column again.
    places = ptr + tl.minimum(offs_n, N - 1)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [places], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def prefetch_vectors(  # type: ignore[no-untyped-def]
    offs_n, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, EPILOGUE: tl.constexpr
):
    """Have all vectors that an ending of this kind reads brought into L2, while the products are made.

    Read at the end they would have to be waited for, and a small problem takes a few microseconds in all. L2 is the one
    place that all of the GPU writes to, so that this may be done before a kernel that writes them has ended.
    """
    if EPILOGUE != "statistics" and EPILOGUE != "products" and EPILOGUE != "partial":  # noqa: PLR1714 - no `in` there
        prefetch(bias_ptr, offs_n, N)
        prefetch(scale_ptr, offs_n, N)
        if EPILOGUE != "scale":
            prefetch(gamma_ptr, offs_n, N)
            prefetch(beta_ptr, offs_n, N)
            prefetch(mean_ptr, offs_n, N)
            prefetch(var_ptr, offs_n, N)


@triton.jit
def scaled(acc, offs_n, in_n, bias_ptr, scale_ptr):  # type: ignore[no-untyped-def]
    """(acc + bias) * scale."""
    bias = tl.load(bias_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    return (acc + bias[None, :]) * scale[None, :]


@triton.jit
def normalized_by_running(  # type: ignore[no-untyped-def]
    acc, offs_n, in_n, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, eps, FOLDS: tl.constexpr
):
    """BatchNorm of (acc + bias) * scale in evaluation.

    FOLDS makes one factor and one summand a column of it, which costs the fewest registers and up to two roundings of
    acc * factor: nothing, beside what rounding the inputs to tf32, bfloat16 or float16 costs. Without it a large mean
    is subtracted before anything is multiplied, as PyTorch does.
    """
    bias = tl.load(bias_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    mean = tl.load(mean_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    var = tl.load(var_ptr + offs_n, mask=in_n, other=1.0).to(tl.float32)
    gamma = tl.load(gamma_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    shift = bias * scale - mean
    if FOLDS:
        factor = gamma * tl.rsqrt(var + eps)
        return acc * (scale * factor)[None, :] + (shift * factor + beta)[None, :]
    factor = gamma / tl.sqrt_rn(var + eps)
    return (acc * scale[None, :] + shift[None, :]) * factor[None, :] + beta[None, :]


@triton.jit
def column_moments(acc, in_m, rows, EVEN_M: tl.constexpr):  # type: ignore[no-untyped-def]
    """Mean and sum of squared deviations of each column over its `rows` rows: two passes, no cancellation.

    EVEN_M says that all rows count.
    """
    if EVEN_M:
        mean = tl.sum(acc, axis=0) / rows
        deviation = acc - mean[None, :]
    else:
        mean = tl.sum(tl.where(in_m[:, None], acc, 0.0), axis=0) / rows
        deviation = tl.where(in_m[:, None], acc - mean[None, :], 0.0)
    return mean, tl.sum(deviation * deviation, axis=0)


@triton.jit
def store_moments(acc, start_m, offs_n, local_m, moments_ptr, M, N, BLOCK_M: tl.constexpr, EVEN_M: tl.constexpr):  # type: ignore[no-untyped-def]
    """Leave the column moments of a tile in moments [2, tiles_m, N] float32, for `normalize_columns` to join."""
    rows = min(M - start_m, BLOCK_M)
    mean, m2 = column_moments(acc, local_m < rows, rows, EVEN_M)
    moments = moments_ptr + tl.cast(start_m // BLOCK_M, tl.int64) * N + offs_n
    tl.store(moments, mean, mask=offs_n < N)
    tl.store(moments + tl.cast(tl.cdiv(M, BLOCK_M), tl.int64) * N, m2, mask=offs_n < N)


@triton.jit
def batch_factor(m2, offs_n, in_n, scale_ptr, gamma_ptr, eps, M):  # type: ignore[no-untyped-def]
    """What a deviation of acc is multiplied by: the bias cancels, and var(y) = scale^2 var(acc)."""
    scale = tl.load(scale_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    gamma = tl.load(gamma_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    return scale * gamma / tl.sqrt_rn(scale * scale * (m2 / M) + eps)


@triton.jit
def update_running(  # type: ignore[no-untyped-def]
    mean, m2, offs_n, in_n, bias_ptr, scale_ptr, mean_ptr, var_ptr, tracked_ptr, momentum, M, COUNTER: tl.constexpr
):
    """Let running be (1 - momentum) running + momentum batch, with the unbiased variance, as PyTorch does.

    COUNTER says what becomes of num_batches_tracked: `none`, `count` (this batch too), or `average`: it counts this
    batch already, and momentum None takes its inverse.
    """
    bias = tl.load(bias_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    share = momentum
    if COUNTER == "average":
        share = 1.0 / tl.load(tracked_ptr).to(tl.float32)
    old_mean = tl.load(mean_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    old_var = tl.load(var_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    new_mean = (1.0 - share) * old_mean + share * (scale * (mean + bias))
    new_var = (1.0 - share) * old_var + share * (scale * scale * (m2 / (M - 1)))
    tl.store(mean_ptr + offs_n, new_mean.to(mean_ptr.dtype.element_ty), mask=in_n)
    tl.store(var_ptr + offs_n, new_var.to(var_ptr.dtype.element_ty), mask=in_n)
    if COUNTER == "count":  # noqa: SIM102 - the outer one is decided by the compiler
        if tl.min(offs_n, axis=0) == 0:
            tl.store(tracked_ptr, tl.load(tracked_ptr) + 1)


@triton.jit
def arrives_last(  # type: ignore[no-untyped-def]
    acc, tile, split, local_m, local_n, partial_ptr, arrivals_ptr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """Leave one summand of a tile in partial [tiles, SPLIT_K, BLOCK_M, BLOCK_N]; whether all others are there too.

    Nobody waits for anybody: the last CTA at a tile is told so, and adds up. arrivals [tiles] int32 counts them.
    """
    place = partial_ptr + tl.cast(tile * SPLIT_K + split, tl.int64) * (BLOCK_M * BLOCK_N)
    tl.store(place + local_m[:, None] * BLOCK_N + local_n[None, :], acc)
    # One thread counts; the barrier puts every thread's stores before what that thread releases.
    tl.debug_barrier()
    return tl.atomic_add(arrivals_ptr + tile, 1, sem="acq_rel", scope="gpu") == SPLIT_K - 1


@triton.jit
def sum_of_all(  # type: ignore[no-untyped-def]
    tile, local_m, local_n, partial_ptr, arrivals_ptr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """The summands of a tile added up in order, whoever came last, so that every run gives the same bits.

    The count of arrivals is zero again for the next launch.
    """
    tl.store(arrivals_ptr + tile, 0)
    places = partial_ptr + tl.cast(tile * SPLIT_K, tl.int64) * (BLOCK_M * BLOCK_N)
    places += local_m[:, None] * BLOCK_N + local_n[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for split in tl.static_range(SPLIT_K):
        # Past L1, which may hold what was there before.
        acc += tl.load(places + split * (BLOCK_M * BLOCK_N), cache_modifier=".cg")
    return acc


@triton.jit
def finished(  # type: ignore[no-untyped-def]
    acc,
    start_m,
    offs_n,
    local_m,
    given,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    EVEN_M: tl.constexpr,
):
    """What a tile of acc is stored as; `columns` also updates the running statistics.

    `given` is what every kernel passes on, in one order.
    """
    bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, tracked_ptr, eps, momentum, M, N = given
    in_n = offs_n < N
    if EPILOGUE == "scale":
        acc = scaled(acc, offs_n, in_n, bias_ptr, scale_ptr)
    elif EPILOGUE == "eval" or EPILOGUE == "eval_folded":  # noqa: PLR1714 - Triton compiles no `in`
        acc = normalized_by_running(
            acc, offs_n, in_n, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, eps,
            EPILOGUE == "eval_folded",
        )  # fmt: skip
    elif EPILOGUE == "columns":
        mean, m2 = column_moments(acc, local_m < M, M, EVEN_M)
        factor = batch_factor(m2, offs_n, in_n, scale_ptr, gamma_ptr, eps, M)
        beta = tl.load(beta_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
        update_running(
            mean, m2, offs_n, in_n, bias_ptr, scale_ptr, mean_ptr, var_ptr, tracked_ptr, momentum, M, COUNTER
        )
        acc = (acc - mean[None, :]) * factor[None, :] + beta[None, :]
    return acc


@triton.jit
def moments_of_rows(  # type: ignore[no-untyped-def]
    y_ptr,  # [M, N], contiguous
    moments_ptr,  # [2, tiles_m, N] float32
    M,
    N,
    TILE_M: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """What `statistics` learns of a tile, from products that lie in y: TILE_M rows of COLUMNS columns, ROWS at a time.

    Each thread keeps the mean and the sum of squared deviations of what it has seen in a place of the ROWS x COLUMNS
    (Welford, 1962); places of a column are joined once, at the end. The last rows first: they were written last, and
    some of them are still in L2. `normalize_columns` then begins with the first ones, which this kernel reads last.
    """
    if OVERLAPS:
        await_others()
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * TILE_M
    local_m = tl.arange(0, ROWS)
    offs_n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_n = offs_n < N
    rows = min(M - start_m, TILE_M)
    y_tile = y_ptr + start_m.to(tl.int64) * N
    mean = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    m2 = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    steps = tl.cdiv(rows, ROWS)
    for step in tl.range(0, steps, num_stages=STAGES):
        from_last = steps - 1 - step
        offs_m = from_last * ROWS + local_m
        held = (offs_m < rows)[:, None] & in_n[None, :]
        acc = tl.load(y_tile + offs_m[:, None] * N + offs_n[None, :], mask=held, other=0.0).to(tl.float32)
        # The last rows are read first, and not all places may have one of them.
        seen = (step + tl.where(steps * ROWS - rows > ROWS - 1 - local_m, 0, 1)).to(tl.float32)
        apart = tl.where(held, acc - mean, 0.0)
        mean += apart * (1.0 / tl.maximum(seen, 1.0))[:, None]
        m2 += apart * tl.where(held, acc - mean, 0.0)
    seen = tl.cdiv(tl.maximum(rows - local_m, 0), ROWS).to(tl.float32)[:, None]
    joined = tl.sum(mean * seen, axis=0) / rows
    apart = mean - joined[None, :]
    m2_joined = tl.sum(m2 + seen * apart * apart, axis=0)
    moments = moments_ptr + tl.cast(start_m // TILE_M, tl.int64) * N + offs_n
    tl.store(moments, joined, mask=in_n)
    tl.store(moments + tl.cast(tl.cdiv(M, TILE_M), tl.int64) * N, m2_joined, mask=in_n)


@triton.jit
def normalize_columns(  # type: ignore[no-untyped-def]
    y_ptr,  # [M, N], contiguous: acc before, BatchNorm's output after
    moments_ptr,  # [2, tiles_m, N] float32
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
    rows_per_cta,
    TILE_M: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UPWARDS: tl.constexpr,
    COUNTER: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PREFETCHES: tl.constexpr,
):
    """Last kernel of `statistics`: join the tiles' moments, normalize rows_per_cta rows of COLUMNS columns in place.

    Moments are joined as Chan, Golub and LeVeque do (1983): M2 = sum M2_t + sum rows_t (mean_t - mean)^2, always in the
    same order. The first CTAs also update the running statistics. UPWARDS begins with the last rows: begin where the
    kernel before ended, since some of that is still in L2.
    """
    offs_n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_n = offs_n < N
    if PREFETCHES:
        prefetch_vectors(offs_n, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, "columns")
    if OVERLAPS:
        await_others()
    tiles_m = tl.cdiv(M, TILE_M)
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for first in range(0, tiles_m, TILES):
        tiles = first + tl.arange(0, TILES)
        places = tiles.to(tl.int64)[:, None] * N + offs_n[None, :]
        rows = tl.maximum(tl.minimum(M - tiles * TILE_M, TILE_M), 0).to(tl.float32)
        means = tl.load(moments_ptr + places, mask=(tiles < tiles_m)[:, None] & in_n[None, :], other=0.0)
        total += tl.sum(means * rows[:, None], axis=0)
    mean = total / M
    m2 = tl.zeros((COLUMNS,), dtype=tl.float32)
    for first in range(0, tiles_m, TILES):
        tiles = first + tl.arange(0, TILES)
        places = tiles.to(tl.int64)[:, None] * N + offs_n[None, :]
        rows = tl.maximum(tl.minimum(M - tiles * TILE_M, TILE_M), 0).to(tl.float32)
        held = (tiles < tiles_m)[:, None] & in_n[None, :]
        means = tl.load(moments_ptr + places, mask=held, other=0.0)
        own = tl.load(moments_ptr + tl.cast(tiles_m, tl.int64) * N + places, mask=held, other=0.0)
        apart = means - mean[None, :]
        m2 += tl.sum(own + rows[:, None] * apart * apart, axis=0)
    factor = batch_factor(m2, offs_n, in_n, scale_ptr, gamma_ptr, eps, M)
    beta = tl.load(beta_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    place = tl.program_id(1)
    if UPWARDS:
        place = tl.num_programs(1) - 1 - place
    first_m = place * rows_per_cta
    for start in range(first_m, min(M, first_m + rows_per_cta), ROWS):
        offs_m = start + tl.arange(0, ROWS)
        places = y_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]
        held = (offs_m < M)[:, None] & in_n[None, :]
        # Neither is read again here: what goes first of L2 is this, and not rows that are still to be read.
        acc = tl.load(places, mask=held, other=0.0, eviction_policy="evict_first").to(tl.float32)
        y = (acc - mean[None, :]) * factor[None, :] + beta[None, :]
        tl.store(places, y.to(y_ptr.dtype.element_ty), mask=held, eviction_policy="evict_first")
    if tl.program_id(1) == 0:
        update_running(
            mean, m2, offs_n, in_n, bias_ptr, scale_ptr, mean_ptr, var_ptr, tracked_ptr, momentum, M, COUNTER
        )


@triton.jit
def finish_split(  # type: ignore[no-untyped-def]
    partial_ptr,  # [SPLIT_K, M, N] float32; or y itself, where a library left the products
    bias_ptr,
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    tracked_ptr,
    y_ptr,
    eps,
    momentum,
    M,
    N,
    SPLIT_K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PREFETCHES: tl.constexpr,
):
    """Second kernel of `partial`: add the summands of ROWS x COLUMNS elements in order, finish and store them."""
    start_m = tl.program_id(1) * ROWS
    local_m = tl.arange(0, ROWS)
    offs_n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    places = (start_m + local_m).to(tl.int64)[:, None] * N + offs_n[None, :]
    held = (start_m + local_m < M)[:, None] & (offs_n < N)[None, :]
    if PREFETCHES:
        prefetch_vectors(offs_n, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, EPILOGUE)
    if OVERLAPS:
        await_others()
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for split in tl.static_range(SPLIT_K):
        part = tl.load(partial_ptr + tl.cast(split * M, tl.int64) * N + places, mask=held, other=0.0)
        acc += part.to(tl.float32)
    given = (bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, tracked_ptr, eps, momentum, M, N)
    acc = finished(acc, start_m, offs_n, local_m, given, EPILOGUE, COUNTER, False)
    tl.store(y_ptr + places, acc.to(y_ptr.dtype.element_ty), mask=held)
