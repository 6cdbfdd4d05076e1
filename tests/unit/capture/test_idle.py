"""Programs of a grid that do nothing are counted where a kernel's own source says so, and nowhere else."""

from __future__ import annotations

import pytest
import triton
import triton.language as tl

from fusetune.capture.idle import idle_programs


@triton.jit
def along_rows(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def in_tiles(x_ptr, y_ptr, m, n, TALL: tl.constexpr, WIDE: tl.constexpr):
    pid_m, pid_n = tl.program_id(0), tl.program_id(1)
    rows = pid_m * TALL + tl.arange(0, TALL)
    columns = pid_n * WIDE + tl.arange(0, WIDE)
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    at = rows[:, None] * n + columns[None, :]
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=mask), mask=mask)


@triton.jit
def sums(x_ptr, part_ptr, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    at = pid * BLOCK + tl.arange(0, BLOCK)
    tl.store(part_ptr + pid, tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0)), mask=pid >= 0)


@triton.jit
def of_many(x_ptr, y_ptr, n, tiles, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    at = (pid % tiles) * BLOCK + tl.arange(0, BLOCK)
    row = (pid // tiles) * n
    tl.store(y_ptr + row + at, tl.load(x_ptr + row + at, mask=at < n), mask=at < n)


@triton.jit
def padded(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0))


def test_those_behind_the_end_of_an_axis_are_counted() -> None:
    found = idle_programs(along_rows, (256,), {"n": 65436, "BLOCK": 1024})
    assert found == "of the 256 programs that it launches 192 do nothing: 256 on axis 0, where cdiv(n, BLOCK) is 64"
    sizes = {"m": 100, "n": 4096, "TALL": 64, "WIDE": 64}
    found = idle_programs(in_tiles, (4, 128), sizes)
    assert found is not None
    assert found.startswith("of the 512 programs that it launches 384 do nothing: 4 on axis 0, where cdiv(m, TALL)")
    assert found.endswith(" is 2 and 128 on axis 1, where cdiv(n, WIDE) is 64")


@pytest.mark.parametrize(
    ("kernel", "grid", "sizes"),
    [
        (along_rows, (64,), {"n": 65436, "BLOCK": 1024}),
        (along_rows, (32,), {"n": 65436, "BLOCK": 1024}),
        (along_rows, (1025,), {"n": 1 << 20, "BLOCK": 1024}),  # One in a thousand.
        (along_rows, (256,), {"n": 6.0, "BLOCK": 1024}),
        (sums, (256,), {"n": 65436, "BLOCK": 1024}),  # Each writes a sum.
        (of_many, (256,), {"n": 65436, "tiles": 64, "BLOCK": 1024}),  # Of four rows.
        (padded, (256,), {"n": 65436, "BLOCK": 1024}),  # Each writes zeros.
    ],
)
def test_nothing_is_said_where_all_are_needed_or_it_is_not_clear(kernel, grid, sizes) -> None:
    assert idle_programs(kernel, grid, sizes) is None
