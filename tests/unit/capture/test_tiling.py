"""What a kernel's source tells of the tiles of its constants."""

from __future__ import annotations

import triton.language as tl
from triton.runtime.jit import JITFunction

from fusetune.capture.tiling import tiling_of
from tests.support import launched_kernels as programs


@JITFunction
def swizzled(x_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    program = tl.program_id(axis=0)
    down, across = (M + BLOCK_M - 1) // BLOCK_M, tl.cdiv(N, BLOCK_N)
    first = program // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    row, column = first + program % height, program % (GROUP * across) // height
    rows = (row * BLOCK_M + tl.arange(0, BLOCK_M)) % M
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    index = tl.load(x_ptr + rows)
    tl.store(x_ptr + index * BLOCK_N + columns, 1.0, mask=columns < N)


@JITFunction
def by_blocks(x_ptr, y_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    at = (tl.program_id(1) * BLOCK_M, tl.program_id(0) * BLOCK_N)
    block = tl.make_block_ptr(
        x_ptr,
        shape=(M, N),
        strides=(N, 1),
        offsets=(tl.program_id(1) * BLOCK_M, tl.program_id(0) * BLOCK_N),
        block_shape=(BLOCK_M, BLOCK_N),
        order=(1, 0),
    )
    tl.store(y_ptr + at[0], tl.load(block))


def test_tiles_are_told_by_the_programs_numbers_and_by_what_they_are_held_against():
    axes, covers, _ = tiling_of(programs.tiled)
    assert (axes["BLOCK_M"], axes["BLOCK_N"], "BLOCK_K" in axes) == ({0}, {1}, False)
    assert (covers["BLOCK_M"], covers["BLOCK_N"]) == ({"M"}, {"N"})


def test_a_swizzled_order_of_programs_is_followed():
    axes, covers, _ = tiling_of(swizzled)
    assert (axes["BLOCK_M"], axes["BLOCK_N"]) == ({0}, {0})
    assert (covers["BLOCK_M"], covers["BLOCK_N"]) == ({"M"}, {"N"})


def test_blocks_by_their_pointers_tell_it_too():
    axes, covers, _ = tiling_of(by_blocks)
    assert (axes["BLOCK_M"], axes["BLOCK_N"]) == ({1}, {0})
    assert (covers["BLOCK_M"], covers["BLOCK_N"]) == ({"M"}, {"N"})


def test_a_kernel_whose_source_is_not_there_tells_nothing():
    assert tiling_of(len) == ({}, {}, {})
