"""Kernels and the functions that launch them, one for each way in which programs come by a tile and a grid."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from fusetune.capture.grids import GridRule, rule_of
from fusetune.capture.inferred import Point
from fusetune.ops.parameters import is_constexpr, parameters_of

TILE = 1024


class Launched(NamedTuple):
    """One launch as a recorder sees it."""

    kernel: Any
    given: Any
    real: tuple[int, ...]
    named: Mapping[str, Any]
    constants: Mapping[str, Any]
    rule: GridRule

    def point(self) -> Point:
        return Point(self.real, self.named, self.constants)


@contextmanager
def recording() -> Iterator[list[Launched]]:
    """Record launches in place of them, as JITFunction.run sees them; their rules are made while the caller waits."""
    found: list[Launched] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and "triton/" in frame.f_code.co_filename:
            frame = frame.f_back
        parameters = parameters_of(self)
        bound = inspect.signature(self.fn).bind(
            *args, **{name: one for name, one in kwargs.items() if name in parameters}
        )
        bound.apply_defaults()
        named = dict(bound.arguments)
        constants = {name: named[name] for name, one in parameters.items() if is_constexpr(one)}
        real = tuple(grid(named) if callable(grid) else grid)
        rule = rule_of(grid, real, named, constants, kernel=self, frame=frame)
        found.append(Launched(self, grid, real, named, constants, rule))

    before = JITFunction.run
    JITFunction.run = run
    try:
        yield found
    finally:
        JITFunction.run = before


def launched(function: Any, *args: Any, **kwargs: Any) -> Launched:
    """The one launch that a call makes."""
    with recording() as found:
        function(*args, **kwargs)
    (one,) = found
    return one


@JITFunction
def scaled(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2.0, mask=at < n)


@JITFunction
def softmax(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * columns + at, mask=at < columns, other=-float("inf"))
    x = tl.exp(x - tl.max(x))
    tl.store(y_ptr + row * columns + at, x / tl.sum(x), mask=at < columns)


@JITFunction
def row_sum(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + row * columns + at, mask=at < columns, other=0.0)
    tl.store(y_ptr + row, tl.sum(total))


@JITFunction
def product(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N,
    K,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
):
    program = tl.program_id(0)
    across = tl.cdiv(N, BLOCK_W)
    rows = program // across * BLOCK_H + tl.arange(0, BLOCK_H)
    columns = program % across * BLOCK_W + tl.arange(0, BLOCK_W)
    depth = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_H, BLOCK_W), tl.float32)
    for step in range(tl.cdiv(K, BLOCK_D)):
        at = step * BLOCK_D + depth
        a = tl.load(a_ptr + rows[:, None] * K + at[None, :])
        b = tl.load(b_ptr + at[:, None] * N + columns[None, :])
        total += tl.dot(a, b)
    tl.store(c_ptr + rows[:, None] * N + columns[None, :], total)


@JITFunction
def tiled(
    x_ptr, y_ptr, M, N, K, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr = 1
):
    rows, columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H), tl.program_id(1) * BLOCK_W
    columns += tl.arange(0, BLOCK_W)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    total = tl.zeros((BLOCK_H, BLOCK_W), tl.float32)
    for first in range(0, K, BLOCK_D):
        x = tl.load(x_ptr + rows[:, None] * K + first + tl.arange(0, BLOCK_D)[None, :], mask=rows[:, None] < M)
        total += tl.sum(x, axis=1)[:, None]
    tl.store(y_ptr + rows[:, None] * N + columns[None, :], total, mask=inside)


@JITFunction
def _placed(program, tile):
    return program * tile + tl.arange(0, 64)


@JITFunction
def placed_elsewhere(y_ptr, M, N, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    rows, columns = _placed(tl.program_id(0), BLOCK_H), _placed(tl.program_id(1), BLOCK_W)
    tl.store(y_ptr + rows[:, None] * N + columns[None, :], 1.0, mask=(rows[:, None] < M) & (columns[None, :] < N))


@JITFunction
def partial_sums(x_ptr, part_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(part_ptr + tl.program_id(0), tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0)))


@JITFunction
def single(x_ptr, y_ptr, n):
    at = tl.program_id(0)
    tl.store(y_ptr + at, tl.load(x_ptr + at))


@JITFunction
def pages(x_ptr, y_ptr, table_ptr, n, PAGE_SIZE: tl.constexpr):
    total = tl.zeros((PAGE_SIZE,), tl.float32)
    for start in range(0, n, PAGE_SIZE):
        page = tl.load(table_ptr + start // PAGE_SIZE)
        total += tl.load(x_ptr + page * PAGE_SIZE + tl.arange(0, PAGE_SIZE))
    tl.store(y_ptr + tl.program_id(0), tl.sum(total))


@JITFunction
def grouped(x_ptr, scale_ptr, y_ptr, K, group_size, BLOCK_D: tl.constexpr):
    total = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, K, BLOCK_D):
        scale = tl.load(scale_ptr + start // group_size)
        total += tl.load(x_ptr + start + tl.arange(0, BLOCK_D)) * scale
    tl.store(y_ptr + tl.program_id(0), tl.sum(total))


@JITFunction
def persistent(x_ptr, part_ptr, rows, columns, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    tiles = tl.cdiv(rows * columns, BLOCK)
    for tile in range(tl.program_id(0), tiles, PROGRAMS):
        at = tile * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + at, mask=at < rows * columns, other=0.0)
    tl.store(part_ptr + tl.program_id(0), tl.sum(total))


@JITFunction
def counted(x_ptr, y_ptr, n, blocks, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = (blocks - 1 - tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=EVEN or (at < n)), mask=EVEN or (at < n))


@JITFunction
def _doubled(x, ACTIVATION: tl.constexpr, SQUARE: tl.constexpr):
    x = x * x if SQUARE else x
    return tl.maximum(x, 0.0) if ACTIVATION == "relu" else x


@JITFunction
def reversed_blocks(x_ptr, y_ptr, n, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    at = (COUNT - 1 - tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@JITFunction
def scaled_twice(x_ptr, scale_ptr, n, SCALES: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    scales = program * SCALES + tl.arange(0, SCALES)
    scale = tl.load(scale_ptr + scales, mask=scales < n)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) * scale, mask=at < n)


@JITFunction
def values_of(x_ptr, n, V: tl.constexpr, BV: tl.constexpr):
    at = tl.program_id(0) * BV + tl.arange(0, BV)
    tl.store(x_ptr + tl.program_id(1) * V + at, 1.0, mask=at < V)


@JITFunction
def many_kinds(
    x_ptr, bias_ptr, y_ptr, n, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr, SQUARE: tl.constexpr, TO: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = _doubled(tl.load(x_ptr + at, mask=at < n), ACTIVATION, SQUARE)
    if bias_ptr is not None:
        x += tl.load(bias_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x.to(TO), mask=at < n)


def by_callable(x: torch.Tensor) -> None:
    n = x.numel()
    scaled[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, torch.empty_like(x), n, BLOCK=512)


def by_callable_of_arguments(x: torch.Tensor) -> None:
    def grid(meta: Mapping[str, Any]) -> tuple[int, ...]:
        blocks = triton.cdiv(meta["n"], meta["BLOCK"])
        return (blocks,)

    scaled[grid](x, torch.empty_like(x), x.numel(), BLOCK=512)


def by_callable_around_a_local(x: torch.Tensor) -> None:
    size = 256
    grid = lambda meta: (triton.cdiv(x.numel(), size),)  # noqa: E731
    scaled[grid](x, torch.empty_like(x), x.numel(), BLOCK=size)


def by_callable_around_a_count(x: torch.Tensor, size: int = 256, sizes: list[int] | None = None) -> None:
    blocks = triton.cdiv(x.numel(), size) if sizes is None else len(sizes)

    def grid(meta: Mapping[str, Any]) -> tuple[int, ...]:
        """The blocks of the whole."""
        return (blocks, 1)

    scaled[grid](x, torch.empty_like(x), x.numel(), BLOCK=size)


class Launcher:
    """What stands between a program and a kernel, as an autotuner does."""

    def __init__(self, kernel: Any) -> None:
        self.fn = kernel

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self.run(*args, grid=grid, warmup=False, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn.run(*args, **kwargs)


launcher = Launcher(scaled)


def by_a_launcher(x: torch.Tensor, size: int = 256) -> None:
    grid = (triton.cdiv(x.numel(), size),)
    launcher[grid](x, torch.empty_like(x), x.numel(), BLOCK=size)


def by_run(x: torch.Tensor, size: int = 256) -> None:
    scaled.run(x, torch.empty_like(x), x.numel(), grid=(triton.cdiv(x.numel(), size),), warmup=False, BLOCK=size)


def reassigned(x: torch.Tensor, size: int = 256) -> None:
    grid = (triton.cdiv(x.numel(), size),)
    size = 2 * size
    scaled[grid](x, torch.empty_like(x), x.numel(), BLOCK=size)


def kept_for_later(x: torch.Tensor, kept: Any, size: int = 256) -> None:
    scaled[kept.grid](x, torch.empty_like(x), x.numel(), BLOCK=size)


def by_callable_of_another_literal(x: torch.Tensor) -> None:
    scaled[lambda meta: (triton.cdiv(x.numel(), 512),)](x, torch.empty_like(x), x.numel(), BLOCK=1024)


def by_tuple(x: torch.Tensor) -> None:
    y = torch.empty_like(x)
    n = x.numel()
    size = 256
    grid = (triton.cdiv(n, size),)
    scaled[grid](
        x,
        y,
        n,
        BLOCK=size,
    )


def by_position(x: torch.Tensor, size: int = 256) -> None:
    blocks = (x.numel() + size - 1) // size
    scaled[(blocks, 1, 1)](x, torch.empty_like(x), x.numel(), size)


def by_module_constant(x: torch.Tensor) -> None:
    scaled[(triton.cdiv(x.shape[0], TILE),)](x, torch.empty_like(x), x.shape[0], BLOCK=TILE)


def by_settings(x: torch.Tensor) -> None:
    settings = {"BLOCK": 128}
    scaled[(triton.cdiv(x.numel(), settings["BLOCK"]),)](x, torch.empty_like(x), x.numel(), **settings)


def literal_written_twice(x: torch.Tensor) -> None:
    scaled[((x.numel() + 1023) // 1024,)](x, torch.empty_like(x), x.numel(), BLOCK=1024)


def over_launched(x: torch.Tensor) -> None:
    scaled[(triton.cdiv(x.numel(), 512),)](x, torch.empty_like(x), x.numel(), BLOCK=1024)


def given_grid(x: torch.Tensor, grid: tuple[int, ...], size: int) -> None:
    scaled[grid](x, torch.empty_like(x), x.numel(), BLOCK=size)


def softmax_by_rows(x: torch.Tensor) -> None:
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    softmax[(rows,)](x, torch.empty_like(x), columns, BLOCK=block)


def softmax_of_columns(x: torch.Tensor, size: int) -> None:
    softmax[(x.shape[0],)](x, torch.empty_like(x), x.shape[1], BLOCK=size)


def sum_by_rows(x: torch.Tensor, size: int = 64) -> None:
    row_sum[(x.shape[0],)](x, torch.empty(x.shape[0]), x.shape[1], BLOCK=size)


def multiplied(a: torch.Tensor, b: torch.Tensor, tiles: tuple[int, int, int] = (128, 64, 32)) -> None:
    (M, K), N = a.shape, b.shape[1]
    BM, BN, BK = tiles
    c = torch.empty(M, N)
    product[(triton.cdiv(M, BM) * triton.cdiv(N, BN),)](a, b, c, M, N, K, BM, BN, BK, GROUP=8)


def multiplied_by_one_tile(a: torch.Tensor, b: torch.Tensor, size: int = 64) -> None:
    (M, K), N = a.shape, b.shape[1]
    c = torch.empty(M, N)
    grid = (triton.cdiv(M, size) * triton.cdiv(N, size),)
    product[grid](a, b, c, M, N, K, BLOCK_H=size, BLOCK_W=size, BLOCK_D=32, GROUP=8)


def tiled_by_numbers(x: torch.Tensor, N: int) -> None:
    M, K = x.shape
    tiled[(triton.cdiv(M, 64), triton.cdiv(N, 64))](x, torch.empty(M, N), M, N, K, BLOCK_H=64, BLOCK_W=64, BLOCK_D=64)


def tiled_by_counts_of_numbers(x: torch.Tensor, width: int) -> None:
    height = x.shape[0]
    across = (width + 63) // 64
    grid = (-(-height // 64), across)
    tiled[grid](x, torch.empty(height, width), height, width, x.shape[1], 64, 64, 32)


def tiled_by_names_of_one_number(x: torch.Tensor, N: int) -> None:
    M, K = x.shape
    BM = BN = 64
    tiled[(triton.cdiv(M, BM), triton.cdiv(N, BN))](x, torch.empty(M, N), M, N, K, BLOCK_H=64, BLOCK_W=64, BLOCK_D=32)


def tiled_by_a_name_and_a_number(x: torch.Tensor, N: int, size: int = 64) -> None:
    M, K = x.shape
    tiled[(triton.cdiv(M, size), triton.cdiv(N, 64))](
        x, torch.empty(M, N), M, N, K, BLOCK_H=size, BLOCK_W=64, BLOCK_D=32
    )


def tiled_beside_another_number(x: torch.Tensor, N: int) -> None:
    M, K = x.shape
    tiled[(triton.cdiv(M, 64), triton.cdiv(N, 32))](x, torch.empty(M, N), M, N, K, BLOCK_H=64, BLOCK_W=64, BLOCK_D=32)


def tiled_twice_over(x: torch.Tensor, N: int) -> None:
    M, K = x.shape
    tiled[(triton.cdiv(M + 999, 64), triton.cdiv(N, 64))](
        x, torch.empty(M, N), M, N, K, BLOCK_H=64, BLOCK_W=64, BLOCK_D=32
    )


def tiled_by_a_grid_from_elsewhere(x: torch.Tensor, N: int, grid: tuple[int, ...]) -> None:
    M, K = x.shape
    tiled[grid](x, torch.empty(M, N), M, N, K, BLOCK_H=64, BLOCK_W=64, BLOCK_D=32)


def tiled_with_one_count(x: torch.Tensor) -> None:
    n = x.shape[0]
    count = triton.cdiv(n, 64)
    tiled[(count, count)](x, torch.empty(n, n), n, n, x.shape[1], BLOCK_H=64, BLOCK_W=64, BLOCK_D=32)


def tiled_by_a_copy(x: torch.Tensor, N: int) -> None:
    M, K = x.shape
    size = 64
    same = size
    grid = (triton.cdiv(M, size), triton.cdiv(N, same))
    tiled[grid](x, torch.empty(M, N), M, N, K, BLOCK_H=size, BLOCK_W=same, BLOCK_D=32)


def tiled_by_one_size(x: torch.Tensor, N: int, size: int = 64) -> None:
    M, K = x.shape
    tiled[(triton.cdiv(M, size), triton.cdiv(N, size))](x, torch.empty(M, N), M, N, K, size, size, BLOCK_D=size)


def tiled_by_one_size_and_a_fixed_width(x: torch.Tensor, N: int, size: int = 64) -> None:
    M, K = x.shape
    tiled[(triton.cdiv(M, size), 16)](x, torch.empty(M, N), M, N, K, size, size, BLOCK_D=32)


def by_a_count_that_is_a_constant(x: torch.Tensor, size: int = 256) -> None:
    n = x.numel()
    count = triton.cdiv(n, size)
    warps = 8 if size > 512 else 4
    reversed_blocks[(count,)](x, torch.empty_like(x), n, BLOCK=size, COUNT=count, num_warps=warps)


def by_a_count_at_the_launch(x: torch.Tensor, size: int = 256) -> None:
    n = x.numel()
    reversed_blocks[(triton.cdiv(n, size),)](x, torch.empty_like(x), n, BLOCK=size, COUNT=triton.cdiv(n, size))


def by_one_size_for_the_same(x: torch.Tensor, size: int = 256) -> None:
    sizes = {"tile": size}
    grid = lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)  # noqa: E731
    scaled_twice[grid](x, torch.empty_like(x), x.numel(), SCALES=sizes["tile"], BLOCK=sizes["tile"])


def by_a_tile_of_a_constant_size(x: torch.Tensor) -> None:
    rows, V = x.shape
    BV = min(64, triton.next_power_of_2(V))
    values_of[(triton.cdiv(V, BV), rows)](x, rows, V=V, BV=BV)


def multiplied_by_numbers(a: torch.Tensor, b: torch.Tensor) -> None:
    (M, K), N = a.shape, b.shape[1]
    c = torch.empty(M, N)
    product[(triton.cdiv(M, 64) * triton.cdiv(N, 64),)](a, b, c, M, N, K, BLOCK_H=64, BLOCK_W=64, BLOCK_D=32, GROUP=8)


def placed_by_numbers(y: torch.Tensor) -> None:
    M, N = y.shape
    placed_elsewhere[(triton.cdiv(M, 64), triton.cdiv(N, 64))](y, M, N, BLOCK_H=64, BLOCK_W=64)


def rounded_by_the_size(n: int = 64) -> None:
    x = torch.empty(64)
    scaled[((64 + 63) // 64,)](x, torch.empty_like(x), 64, BLOCK=64)


def summed_in_parts(x: torch.Tensor, size: int = 512) -> None:
    blocks = triton.cdiv(x.numel(), size)
    part = torch.empty(blocks)
    partial_sums[(blocks,)](x, part, x.numel(), BLOCK=size)


def summed_into(x: torch.Tensor, part: torch.Tensor) -> None:
    partial_sums[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, part, x.numel(), BLOCK=512)


def one_by_one(x: torch.Tensor) -> None:
    single[(x.numel(),)](x, torch.empty_like(x), x.numel())


def paged(x: torch.Tensor, table: torch.Tensor) -> None:
    pages[(1,)](x, torch.empty(1), table, x.numel(), PAGE_SIZE=16)


def dequantised(x: torch.Tensor, group_size: int = 128) -> None:
    scales = torch.empty(x.shape[1] // group_size)
    grouped[(1,)](x, scales, torch.empty(1), x.shape[1], group_size, BLOCK_D=64)


def on_every_processor(x: torch.Tensor, programs: int = 132) -> None:
    part = torch.empty(programs)
    persistent[(programs,)](x, part, x.shape[0], x.shape[1], BLOCK=256, PROGRAMS=programs)


def by_a_count(x: torch.Tensor, size: int = 256) -> None:
    n = x.numel()
    blocks = triton.cdiv(n, size)
    counted[(blocks,)](x, torch.empty_like(x), n, blocks, BLOCK=size, EVEN=n % size == 0)


def by_a_count_made_elsewhere(x: torch.Tensor, size: int = 256) -> None:
    n = x.numel()
    counted[(triton.cdiv(n, size),)](x, torch.empty_like(x), n, round(n / size + 0.5), BLOCK=size, EVEN=False)


def softmax_of_a_square(x: torch.Tensor) -> None:
    n = x.shape[0]
    softmax[(n,)](x, torch.empty_like(x), n, BLOCK=n)


def of_many_kinds(x: torch.Tensor) -> None:
    grid = lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)  # noqa: E731
    many_kinds[grid](x, None, torch.empty_like(x), x.numel(), BLOCK=256, ACTIVATION="relu", SQUARE=True, TO=tl.float32)
