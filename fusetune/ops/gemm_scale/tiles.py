"""Triton code that the ops share: acc = x @ W.T by tiles. What becomes of a tile, `EPILOGUE`, is in endings.py."""

from __future__ import annotations

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.endings import (
    arrives_last,
    await_others,
    finished,
    prefetch_vectors,
    store_moments,
    sum_of_all,
)


@triton.jit
def place_of(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tile's row and column; GROUP_M rows of tiles are walked column by column, to share columns of W in L2."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group_tiles = GROUP_M * tiles_n
    first_m = tile // group_tiles * GROUP_M
    rows = min(tiles_m - first_m, GROUP_M)
    return first_m + tile % group_tiles % rows, tile % group_tiles // rows


@triton.jit
def rounded_to_tf32(x):  # type: ignore[no-untyped-def]
    """The nearest TF32 value; tensor cores would cut the lower bits off."""
    return tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def tiled_products(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915
    x_ptr,  # [M, K]
    w_ptr,  # [N, K]
    bias_ptr,  # [N], as all that follow but moments and y
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    tracked_ptr,  # [] int64
    moments_ptr,
    partial_ptr,  # [tiles, SPLIT_K, BLOCK_M, BLOCK_N] float32, where summands are joined
    arrivals_ptr,  # [tiles] int32, zero; as partial
    y_ptr,  # [M, N], contiguous; partial: [SPLIT_K, M, N] float32
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
):
    """One CTA computes one BLOCK_M x BLOCK_N tile, or one of SPLIT_K summands of it, which JOINS adds up."""
    if OVERLAPS:
        await_others()
    tile = tl.program_id(0)
    tile_m, tile_n = place_of(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    start_m = tile_m * BLOCK_M
    start_n = tile_n * BLOCK_N
    if PREFETCHES:
        columns = start_n + tl.arange(0, BLOCK_N)
        prefetch_vectors(columns, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, EPILOGUE)

    # The tile's corner is a 64-bit scalar, so that tensors beyond 2**31 elements work and offsets within a tile stay
    # cheap 32-bit ones. Rows past the edge read the last row again: no mask in the loop, and the store leaves them out.
    local_m = tl.arange(0, BLOCK_M)
    local_n = tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    read_m, read_n = local_m, local_n
    if not EVEN_MN:
        read_m = tl.minimum(local_m, M - 1 - start_m)
        read_n = tl.minimum(local_n, N - 1 - start_n)
    x_tile = x_ptr + start_m.to(tl.int64) * stride_xm
    w_tile = w_ptr + start_n.to(tl.int64) * stride_wn
    first_k = 0
    end_k = K
    if SPLIT_K > 1:
        share = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K) * BLOCK_K
        first_k = tl.program_id(1) * share
        end_k = min(K, first_k + share)
        x_tile += tl.cast(first_k, tl.int64) * stride_xk
        w_tile += tl.cast(first_k, tl.int64) * stride_wk
    x_ptrs = x_tile + read_m[:, None] * stride_xm + offs_k[None, :] * stride_xk
    w_ptrs = w_tile + read_n[None, :] * stride_wn + offs_k[:, None] * stride_wk

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(first_k, end_k, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_ptrs)
            w = tl.load(w_ptrs)
        else:
            x = tl.load(x_ptrs, mask=offs_k[None, :] < end_k - k, other=0.0)
            w = tl.load(w_ptrs, mask=offs_k[:, None] < end_k - k, other=0.0)
        if ROUNDS:
            x = rounded_to_tf32(x)
            w = rounded_to_tf32(w)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        x_ptrs += BLOCK_K * stride_xk
        w_ptrs += BLOCK_K * stride_wk

    offs_n = start_n + local_n
    given = (bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, tracked_ptr, eps, momentum, M, N)
    if EPILOGUE == "statistics":
        store_moments(acc, start_m, offs_n, local_m, moments_ptr, M, N, BLOCK_M, EVEN_MN)
    if JOINS:
        if arrives_last(
            acc, tile, tl.program_id(1), local_m, local_n, partial_ptr, arrivals_ptr, BLOCK_M, BLOCK_N, SPLIT_K
        ):
            acc = sum_of_all(tile, local_m, local_n, partial_ptr, arrivals_ptr, BLOCK_M, BLOCK_N, SPLIT_K)
            store_finished(acc, start_m, offs_n, local_m, y_ptr, given, EPILOGUE, COUNTER, EVEN_MN)
    else:
        if SPLIT_K > 1:
            y_ptr += tl.program_id(1).to(tl.int64) * M * N
        store_finished(acc, start_m, offs_n, local_m, y_ptr, given, EPILOGUE, COUNTER, EVEN_MN)


@triton.jit
def store_finished(  # type: ignore[no-untyped-def]
    acc, start_m, offs_n, local_m, y_ptr, given, EPILOGUE: tl.constexpr, COUNTER: tl.constexpr, EVEN_MN: tl.constexpr
):
    """Finish a tile and store it in y [M, N]."""
    M, N = given[9], given[10]
    acc = finished(acc, start_m, offs_n, local_m, given, EPILOGUE, COUNTER, EVEN_MN)
    y_ptrs = y_ptr + start_m.to(tl.int64) * N + local_m[:, None] * N + offs_n[None, :]
    if EVEN_MN:
        tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty))
    else:
        in_tile = (start_m + local_m < M)[:, None] & (offs_n < N)[None, :]
        tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=in_tile)


@triton.jit
def joined_products(  # type: ignore[no-untyped-def]
    x_desc,  # [M, K], blocks [BLOCK_M, BLOCK_K]
    w_desc,  # [N, K], blocks [BLOCK_N, BLOCK_K]
    bias_ptr,
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    tracked_ptr,
    partial_ptr,  # [tiles, SPLIT_K, BLOCK_M, BLOCK_N] float32
    arrivals_ptr,  # [tiles] int32, zero
    y_ptr,  # [M, N], contiguous
    M,
    N,
    K,
    eps,
    momentum,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_MN: tl.constexpr,
    PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PREFETCHES: tl.constexpr,
):
    """One CTA computes one of SPLIT_K summands of a tile, and the last one there adds them up.

    The copy engine (TMA) loads, and reads zeros past an edge.
    """
    if OVERLAPS:
        await_others()
    tile = tl.program_id(0)
    split = tl.program_id(1)
    tile_m, tile_n = place_of(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    start_m = tile_m * BLOCK_M
    start_n = tile_n * BLOCK_N
    local_m = tl.arange(0, BLOCK_M)
    local_n = tl.arange(0, BLOCK_N)
    offs_n = start_n + local_n
    if PREFETCHES:
        prefetch_vectors(offs_n, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, EPILOGUE)
    steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(steps):
        k = (split * steps + step) * BLOCK_K
        x = x_desc.load([start_m, k])
        w = w_desc.load([start_n, k])
        acc = tl.dot(x, w.T, acc, input_precision=PRECISION)
    given = (bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, tracked_ptr, eps, momentum, M, N)
    if arrives_last(acc, tile, split, local_m, local_n, partial_ptr, arrivals_ptr, BLOCK_M, BLOCK_N, SPLIT_K):
        acc = sum_of_all(tile, local_m, local_n, partial_ptr, arrivals_ptr, BLOCK_M, BLOCK_N, SPLIT_K)
        store_finished(acc, start_m, offs_n, local_m, y_ptr, given, EPILOGUE, COUNTER, EVEN_MN)


@triton.jit
def persistent_products(  # type: ignore[no-untyped-def]
    x_desc,  # [M, K], blocks [BLOCK_M, BLOCK_K]
    w_desc,  # [N, K], blocks [BLOCK_N, BLOCK_K]
    y_desc,  # [M, N], blocks [BLOCK_M, BLOCK_N / PARTS]; partial: [SPLIT_K, M, N] float32, blocks [1, ...]
    # where MASKED, a pointer to the same, whose rows need not begin on 16 bytes: threads store, behind masks
    bias_ptr,
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    tracked_ptr,
    moments_ptr,
    M,
    N,
    K,
    eps,
    momentum,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    PARTS: tl.constexpr,
    DTYPE: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PREFETCHES: tl.constexpr,
):
    """As many CTAs as run at once walk through all tiles; the copy engine (TMA) loads, and stores parts of a tile.

    One tile's stores run beside the next one's loads. The copy engine reads zeros and writes nothing past an edge.
    """
    if OVERLAPS:
        await_others()
    items = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * SPLIT_K
    steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K)
    if PREFETCHES:  # for the first tile: nobody waits long for the vectors of later ones
        _, first_n = place_of(tl.program_id(0) // SPLIT_K, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        columns = first_n * BLOCK_N + tl.arange(0, BLOCK_N)
        prefetch_vectors(columns, N, bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, EPILOGUE)
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0), flatten=True):
        split = item % SPLIT_K
        tile_m, tile_n = place_of(item // SPLIT_K, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        start_m = tile_m * BLOCK_M
        start_n = tile_n * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            k = (split * steps + step) * BLOCK_K
            x = x_desc.load([start_m, k])
            w = w_desc.load([start_n, k])
            acc = tl.dot(x, w.T, acc, input_precision=PRECISION)
        # In parts, since a whole tile of y does not fit into shared memory beside the pipeline.
        given = (bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, tracked_ptr, eps, momentum, M, N)
        if PARTS == 1:
            if EPILOGUE == "statistics":
                columns = start_n + tl.arange(0, BLOCK_N)
                store_moments(acc, start_m, columns, tl.arange(0, BLOCK_M), moments_ptr, M, N, BLOCK_M, EVEN_M)
            # fmt: off
            store_part(
                acc, split, start_m, start_n, y_desc, given,
                BLOCK_M, BLOCK_N, DTYPE, EPILOGUE, COUNTER, EVEN_M, MASKED
            )
            # fmt: on
        else:
            WIDTH: tl.constexpr = BLOCK_N // 2
            left, right = halves(acc, BLOCK_M, WIDTH)
            # fmt: off
            store_half(
                left, split, start_m, start_n, y_desc, moments_ptr, given,
                BLOCK_M, WIDTH, PARTS // 2, DTYPE, EPILOGUE, COUNTER, EVEN_M, MASKED,
            )
            store_half(
                right, split, start_m, start_n + WIDTH, y_desc, moments_ptr, given,
                BLOCK_M, WIDTH, PARTS // 2, DTYPE, EPILOGUE, COUNTER, EVEN_M, MASKED,
            )
            # fmt: on


@triton.jit
def halves(acc, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The left and the right WIDTH columns of a tile."""
    return tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, WIDTH)), (0, 2, 1)))


@triton.jit
def store_half(  # type: ignore[no-untyped-def]
    acc,
    split,
    start_m,
    start_n,
    y_desc,
    moments_ptr,
    given,
    BLOCK_M: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    DTYPE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    EVEN_M: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Finish and store WIDTH columns in PARTS parts, 1 or 2.

    Moments are taken of all WIDTH columns: of a whole tile they would cost registers, of a part more barriers.
    """
    if EPILOGUE == "statistics":
        offs_n = start_n + tl.arange(0, WIDTH)
        M, N = given[9], given[10]
        store_moments(acc, start_m, offs_n, tl.arange(0, BLOCK_M), moments_ptr, M, N, BLOCK_M, EVEN_M)
    if PARTS == 1:
        # fmt: off
        store_part(
            acc, split, start_m, start_n, y_desc, given, BLOCK_M, WIDTH, DTYPE, EPILOGUE, COUNTER, EVEN_M, MASKED
        )
        # fmt: on
    else:
        HALF: tl.constexpr = WIDTH // 2
        left, right = halves(acc, BLOCK_M, HALF)
        # fmt: off
        store_part(
            left, split, start_m, start_n, y_desc, given, BLOCK_M, HALF, DTYPE, EPILOGUE, COUNTER, EVEN_M, MASKED
        )
        store_part(
            right, split, start_m, start_n + HALF, y_desc, given,
            BLOCK_M, HALF, DTYPE, EPILOGUE, COUNTER, EVEN_M, MASKED
        )
        # fmt: on


@triton.jit
def store_part(  # type: ignore[no-untyped-def]
    acc,
    split,
    start_m,
    start_n,
    y_desc,
    given,
    BLOCK_M: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    COUNTER: tl.constexpr,
    EVEN_M: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Finish and store one part of a tile."""
    offs_n = start_n + tl.arange(0, WIDTH)
    if MASKED:
        acc = finished(acc, start_m, offs_n, tl.arange(0, BLOCK_M), given, EPILOGUE, COUNTER, False)
        first_row = split * given[9] if EPILOGUE == "partial" else 0
        store_masked(acc, first_row, start_m, offs_n, y_desc, given[9], given[10], BLOCK_M, MASKED)
    else:
        acc = finished(acc, start_m, offs_n, tl.arange(0, BLOCK_M), given, EPILOGUE, COUNTER, EVEN_M)
        if EPILOGUE == "partial":
            y_desc.store([split, start_m, start_n], tl.reshape(acc, (1, BLOCK_M, WIDTH)))
        else:
            y_desc.store([start_m, start_n], acc.to(DTYPE))


@triton.jit
def store_masked(  # type: ignore[no-untyped-def]
    acc, first_row, start_m, offs_n, y_ptr, M, N, BLOCK_M: tl.constexpr, MASKED: tl.constexpr
):
    """Store a part of a tile by threads, MASKED elements at once, of which a row has a whole number.

    Of a loop over tiles: rows are counted from y's first one, or all offsets within a tile would be kept in registers.
    """
    N = N // MASKED * MASKED  # What was divided and multiplied again is seen to be a multiple.
    offs_m = start_m + tl.arange(0, BLOCK_M)
    y_ptrs = y_ptr + (first_row + offs_m).to(tl.int64)[:, None] * N + offs_n[None, :]
    tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=(offs_m < M)[:, None] & (offs_n < N)[None, :])
