"""What a kernel's source tells of the tiles of its constants."""

from __future__ import annotations

import triton.language as tl
from triton.runtime.jit import JITFunction

from fusetune.capture.tiling import tiling_of
from tests.support import launched_kernels as programs


@JITFunction
def swizzled(x_ptr, M, N, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, GROUP: tl.constexpr):
    program = tl.program_id(axis=0)
    down, across = (M + BLOCK_H - 1) // BLOCK_H, tl.cdiv(N, BLOCK_W)
    first = program // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    row, column = first + program % height, program % (GROUP * across) // height
    rows = (row * BLOCK_H + tl.arange(0, BLOCK_H)) % M
    columns = column * BLOCK_W + tl.arange(0, BLOCK_W)
    index = tl.load(x_ptr + rows)
    tl.store(x_ptr + index * BLOCK_W + columns, 1.0, mask=columns < N)


@JITFunction
def by_blocks(x_ptr, y_ptr, M, N, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    at = (tl.program_id(1) * BLOCK_H, tl.program_id(0) * BLOCK_W)
    block = tl.make_block_ptr(
        x_ptr,
        shape=(M, N),
        strides=(N, 1),
        offsets=(tl.program_id(1) * BLOCK_H, tl.program_id(0) * BLOCK_W),
        block_shape=(BLOCK_H, BLOCK_W),
        order=(1, 0),
    )
    tl.store(y_ptr + at[0], tl.load(block))


def test_tiles_are_told_by_the_programs_numbers_and_by_what_they_are_held_against():
    axes, covers, _ = tiling_of(programs.tiled)
    assert (axes["BLOCK_H"], axes["BLOCK_W"], "BLOCK_D" in axes) == ({0}, {1}, False)
    assert (covers["BLOCK_H"], covers["BLOCK_W"]) == ({"M"}, {"N"})


def test_a_swizzled_order_of_programs_is_followed():
    axes, covers, _ = tiling_of(swizzled)
    assert (axes["BLOCK_H"], axes["BLOCK_W"]) == ({0}, {0})
    assert (covers["BLOCK_H"], covers["BLOCK_W"]) == ({"M"}, {"N"})


def test_blocks_by_their_pointers_tell_it_too():
    axes, covers, _ = tiling_of(by_blocks)
    assert (axes["BLOCK_H"], axes["BLOCK_W"]) == ({1}, {0})
    assert (covers["BLOCK_H"], covers["BLOCK_W"]) == ({"M"}, {"N"})


def test_a_kernel_whose_source_is_not_there_tells_nothing():
    assert tiling_of(len) == ({}, {}, {})
