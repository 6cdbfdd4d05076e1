"""Triton code of the variant `padded`: rows of x and W copied to where each begins on a line, for the copy engine.

Rows of an odd number of elements begin anywhere. Threads load such a tile one element at a time, and in 16 bits none of
it ahead; tensor cores wait. A copy costs a way through memory and back, and all the rest is `masked`. The copy engine
asks for 16 bytes alone, but rows that begin within a line of 128 bytes reach into one more.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.endings import await_others


@triton.jit
def copied_block(  # type: ignore[no-untyped-def]
    from_ptr,
    to_ptr,
    block,
    rows,
    K,
    stride_row,
    stride_k,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Copy ROWS x COLUMNS of a matrix [rows, K] of any strides; columns past K are zeros."""
    length = tl.cdiv(K, UNIT) * UNIT  # What was divided and multiplied again is seen to be a multiple.
    blocks_k = tl.cdiv(length, COLUMNS)
    offs_row = block // blocks_k * ROWS + tl.arange(0, ROWS)
    offs_k = block % blocks_k * COLUMNS + tl.arange(0, COLUMNS)
    in_rows = (offs_row < rows)[:, None]
    from_ptrs = from_ptr + offs_row.to(tl.int64)[:, None] * stride_row + offs_k.to(tl.int64)[None, :] * stride_k
    values = tl.load(from_ptrs, mask=in_rows & (offs_k < K)[None, :], other=0.0)
    # Neighbouring threads load neighbouring elements, and store 16 bytes of them each. As one shape, both would be done
    # in the wider way, and each load of a warp would touch as many lines as eight of these do.
    PARTS: tl.constexpr = COLUMNS // UNIT
    first_k = block % blocks_k * COLUMNS + tl.arange(0, PARTS) * UNIT
    offs_unit = tl.arange(0, UNIT)
    to_rows = to_ptr + offs_row.to(tl.int64)[:, None, None] * length
    in_length = in_rows[:, :, None] & (first_k < length)[None, :, None]
    to_ptrs = to_rows + first_k[None, :, None] + offs_unit[None, None, :]
    tl.store(to_ptrs, tl.reshape(values, (ROWS, PARTS, UNIT)), mask=in_length)


@triton.jit
def padded_rows(  # type: ignore[no-untyped-def]
    x_ptr,  # [M, K]
    w_ptr,  # [N, K]
    x_padded_ptr,  # [M, K up to the next multiple of UNIT], contiguous
    w_padded_ptr,
    M,
    N,
    K,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """X and W with rows of a whole number of UNIT elements, the last of them zeros; one program copies one block."""
    if OVERLAPS:
        await_others()
    block = tl.program_id(0)
    of_x = tl.cdiv(M, ROWS) * tl.cdiv(tl.cdiv(K, UNIT) * UNIT, COLUMNS)
    if block < of_x:
        copied_block(x_ptr, x_padded_ptr, block, M, K, stride_xm, stride_xk, ROWS, COLUMNS, UNIT)
    else:
        copied_block(w_ptr, w_padded_ptr, block - of_x, N, K, stride_wn, stride_wk, ROWS, COLUMNS, UNIT)
