"""Triton code of the variant `deferred`: acc = x @ W.T by tiles, each stored while the next one is multiplied.

A tile's end keeps the tensor cores waiting, so only what needs the accumulators is left there: y = acc * factor + shift
of its columns, rounded to y's 16 bits. It stays in registers, two values in each, until the next tile's first products
are under way, and goes out in four parts during the first four steps. The fifth step reads the vectors for the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.endings import await_others
from fusetune.ops.gemm_scale.tiles import halves, place_of


@triton.jit
def column_affine(offs_n, given, EPILOGUE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(acc + bias) * scale as acc * factor + shift, with BatchNorm's running statistics for eval_folded.

    One thread computes a column's two, and they are handed on as one value of 64 bits: shift above, factor below.
    """
    bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, eps, N = given
    in_n = offs_n < N
    factor = tl.load(scale_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
    shift = tl.load(bias_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32) * factor
    if EPILOGUE == "eval_folded":
        mean = tl.load(mean_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
        var = tl.load(var_ptr + offs_n, mask=in_n, other=1.0).to(tl.float32)
        gamma = tl.load(gamma_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
        beta = tl.load(beta_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
        normal = gamma * tl.rsqrt(var + eps)
        shift = (shift - mean) * normal + beta
        factor *= normal
    return (shift.to(tl.uint32, bitcast=True).to(tl.uint64) << 32) | factor.to(tl.uint32, bitcast=True).to(tl.uint64)


@triton.jit
def with_affine(acc, affine, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile [BLOCK_M, WIDTH] times factor plus shift of its columns, from `column_affine`.

    A gather goes through shared memory, whose reads bring both of two columns at once. Without it every thread would
    load, convert and fold each of its columns again: twice the instructions that all the rest of the end has.
    """
    own = tl.gather(affine, tl.arange(0, WIDTH), axis=0)
    factor = own.to(tl.uint32).to(tl.float32, bitcast=True)
    shift = (own >> 32).to(tl.uint32).to(tl.float32, bitcast=True)
    return acc * factor[None, :] + shift[None, :]


@triton.jit
def as_pairs(acc, DTYPE: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr, CONVERTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile [BLOCK_M, WIDTH] rounded to DTYPE, two neighbours of a row in each of [BLOCK_M, WIDTH / 2] uint32.

    Carried one by one, 16-bit values would take a register each. CONVERTS lets one instruction round and pack.
    """
    even, odd = tl.split(tl.reshape(acc, (BLOCK_M, WIDTH // 2, 2)))
    if CONVERTS:
        if DTYPE == tl.float16:  # noqa: SIM300 - Triton's types are written in capitals here
            return tl.inline_asm_elementwise(
                "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", [even, odd], dtype=tl.uint32, is_pure=True, pack=1
            )
        else:  # noqa: RET505 - Triton compiles one of the two
            return tl.inline_asm_elementwise(
                "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [even, odd], dtype=tl.uint32, is_pure=True, pack=1
            )
    low = even.to(DTYPE).to(tl.uint16, bitcast=True).to(tl.uint32)
    high = odd.to(DTYPE).to(tl.uint16, bitcast=True).to(tl.uint32)
    return (high << 16) | low


@triton.jit
def from_pairs(pairs, DTYPE: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The [BLOCK_M, WIDTH] values of DTYPE that `as_pairs` packed."""
    both = tl.join(pairs.to(tl.uint16), (pairs >> 16).to(tl.uint16))
    return tl.reshape(both, (BLOCK_M, WIDTH)).to(DTYPE, bitcast=True)


@triton.jit
def store_pairs(  # type: ignore[no-untyped-def]
    pairs, start_m, start_n, y_ptr, M, N, DTYPE: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr
):
    """Store a part of the last tile, by threads: nothing is left to hide it behind."""
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, WIDTH)
    y_ptrs = y_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]
    tl.store(y_ptrs, from_pairs(pairs, DTYPE, BLOCK_M, WIDTH), mask=(offs_m < M)[:, None] & (offs_n < N)[None, :])


@triton.jit
def deferred_products(  # type: ignore[no-untyped-def]  # noqa: PLR0915
    x_desc,  # [M, K], blocks [BLOCK_M, BLOCK_K]
    w_desc,  # [N, K], blocks [BLOCK_N, BLOCK_K]
    y_desc,  # [M, N], blocks [BLOCK_M, BLOCK_N / 4]
    y_ptr,  # the same [M, N], contiguous
    bias_ptr,  # [N], as the next five
    scale_ptr,
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    var_ptr,
    M,
    N,
    K,
    eps,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    DTYPE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    CONVERTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """As many CTAs as run at once walk through all tiles, and store a tile during the next one's first four steps.

    The copy engine (TMA) reads zeros and writes nothing past an edge. K takes six steps or more. One loop makes the
    steps of all tiles, so that loads run ahead into the next tile.
    """
    if OVERLAPS:
        await_others()
    items = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    steps = tl.cdiv(K, BLOCK_K)
    WIDTH: tl.constexpr = BLOCK_N // 4
    HALF: tl.constexpr = BLOCK_N // 2
    given = (bias_ptr, scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, eps, N)
    # y of the tile before, in four parts, and where it belongs. At first that is past the edges, where nothing is
    # written, and not where the first tile seems to be: Triton takes variables that begin as one value for one.
    part_0 = tl.zeros((BLOCK_M, WIDTH // 2), dtype=tl.uint32)
    part_1 = tl.zeros((BLOCK_M, WIDTH // 2), dtype=tl.uint32)
    part_2 = tl.zeros((BLOCK_M, WIDTH // 2), dtype=tl.uint32)
    part_3 = tl.zeros((BLOCK_M, WIDTH // 2), dtype=tl.uint32)
    held_m = M + BLOCK_M
    held_n = N + BLOCK_N
    start_m = M
    start_n = N
    left = tl.zeros((HALF,), dtype=tl.uint64)
    right = tl.zeros((HALF,), dtype=tl.uint64)
    item = tl.program_id(0) - tl.num_programs(0)
    own_items = tl.cdiv(items - tl.program_id(0), tl.num_programs(0))
    # A zero that the compiler does not know of: to clear a register with one that it knows, it takes two instructions.
    zero = (tl.num_programs(1) - 1).to(tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32) + zero
    step = steps - 1
    for _ in range(own_items * steps):
        step = tl.where(step == steps - 1, 0, step + 1)
        if step == 0:
            held_m = start_m
            held_n = start_n
            item += tl.num_programs(0)
            tile_m, tile_n = place_of(item, M, N, BLOCK_M, BLOCK_N, GROUP_M)
            start_m = tile_m * BLOCK_M
            start_n = tile_n * BLOCK_N
        x = x_desc.load([start_m, step * BLOCK_K])
        w = w_desc.load([start_n, step * BLOCK_K])
        acc = tl.dot(x, w.T, acc)
        # While these products are under way; one chain of conditions, or values would be carried twice.
        if step == steps - 1:
            acc_left, acc_right = halves(acc, BLOCK_M, HALF)
            if EPILOGUE != "products":
                acc_left = with_affine(acc_left, left, HALF)
                acc_right = with_affine(acc_right, right, HALF)
            acc_0, acc_1 = halves(acc_left, BLOCK_M, WIDTH)
            acc_2, acc_3 = halves(acc_right, BLOCK_M, WIDTH)
            part_0 = as_pairs(acc_0, DTYPE, BLOCK_M, WIDTH, CONVERTS)
            part_1 = as_pairs(acc_1, DTYPE, BLOCK_M, WIDTH, CONVERTS)
            part_2 = as_pairs(acc_2, DTYPE, BLOCK_M, WIDTH, CONVERTS)
            part_3 = as_pairs(acc_3, DTYPE, BLOCK_M, WIDTH, CONVERTS)
            acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32) + zero
        elif step == 0:
            y_desc.store([held_m, held_n], from_pairs(part_0, DTYPE, BLOCK_M, WIDTH))
        elif step == 1:
            y_desc.store([held_m, held_n + WIDTH], from_pairs(part_1, DTYPE, BLOCK_M, WIDTH))
        elif step == 2:
            y_desc.store([held_m, held_n + 2 * WIDTH], from_pairs(part_2, DTYPE, BLOCK_M, WIDTH))
        elif step == 3:
            y_desc.store([held_m, held_n + 3 * WIDTH], from_pairs(part_3, DTYPE, BLOCK_M, WIDTH))
        elif step == 4:  # noqa: SIM102 - the inner condition is the compiler's
            if EPILOGUE != "products":
                left = column_affine(start_n + tl.arange(0, HALF), given, EPILOGUE)
                right = column_affine(start_n + HALF + tl.arange(0, HALF), given, EPILOGUE)
    store_pairs(part_0, start_m, start_n, y_ptr, M, N, DTYPE, BLOCK_M, WIDTH)
    store_pairs(part_1, start_m, start_n + WIDTH, y_ptr, M, N, DTYPE, BLOCK_M, WIDTH)
    store_pairs(part_2, start_m, start_n + 2 * WIDTH, y_ptr, M, N, DTYPE, BLOCK_M, WIDTH)
    store_pairs(part_3, start_m, start_n + 3 * WIDTH, y_ptr, M, N, DTYPE, BLOCK_M, WIDTH)
