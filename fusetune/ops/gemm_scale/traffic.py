"""Bytes that a product moves through L2 and through device memory, by the order in which its tiles are computed."""

from __future__ import annotations

from typing import Final

import msgspec

from fusetune.core.target import Target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.machine import Machine

L2_KEEPS_ALL: Final = 0.6
"""Operands up to this share of L2 stay there from one use to the next."""
L2_KEEPS_NONE: Final = 1.0
"""Of operands from this share on, read round and round, nothing is left when they are read again."""
LINE_BYTES: Final = 128
NEIGHBOURS: Final = 16
"""CTAs whose reads of the same bytes L2 may merge: about as many as a GPC of sm_90 has SMs (16 or 18). Not measured:
with 8 or 32 the sweeps that sm_90 was fitted to come out a little worse."""


class Work(msgspec.Struct, frozen=True):
    """One product to be computed, whatever kernel does: `batch` times x [M, K] by W [N, K].

    kind: how it is multiplied (tf32, ieee, tf32x3, bf16x3, float16, bfloat16). load_bytes and store_bytes: of one
    element of x and W, and of y, in memory. rounds: threads round inputs to TF32. row_by_row: tiles of one row of tiles
    follow one another (False: of one column, as in a grid whose first axis is M). copied_bytes: what one thread's
    asynchronous copy moves, 16 where rows begin on 16 bytes.
    """

    M: int
    N: int
    K: int
    kind: str
    load_bytes: int
    store_bytes: int
    batch: int = 1
    rounds: bool = False
    row_by_row: bool = True
    copied_bytes: int = 16


class Traffic(msgspec.Struct, frozen=True):
    """Bytes of one launch: through L2 to the SMs, and through device memory with the share of its rate they reach."""

    l2_bytes: float
    dram_bytes: float
    dram_share: float


def traffic(config: Config, work: Work, target: Target, machine: Machine, running: int) -> Traffic:
    """What `running` CTAs at once, in the order that GROUP_M gives the tiles, read and write.

    Tiles are computed in groups of GROUP_M rows, column by column within a group. So a column of W's tiles is read
    once a group, and a group's rows of x once a column. What fits in L2 stays there for the next time; of what does
    not, CTAs of several groups or columns that happen to run at once share a part.
    """
    M, N, K, size = work.M, work.N, work.K, work.load_bytes
    tiles_m, tiles_n = -(-M // config.BLOCK_M), -(-N // config.BLOCK_N)
    rows = _group_rows(config, work, tiles_m)
    groups = -(-tiles_m // rows)
    x_bytes, w_bytes, y_bytes = M * K * size, N * K * size, M * N * work.store_bytes

    w_again = _again(groups, running / (rows * tiles_n), machine) * _lost(w_bytes, target)
    x_again = _again(tiles_n, running / rows, machine) * _lost(rows * config.BLOCK_M * K * size, target)
    read = x_bytes * (1 + x_again) + w_bytes * (1 + w_again)

    # A row of a tile that is shorter than a line of L2 leaves the rest of what memory delivers unused.
    row_bytes = min(config.BLOCK_K, K) * size
    share = machine.dram_efficiency * (machine.short_rows if row_bytes * 2 <= LINE_BYTES else 1.0)
    operands = tiles_m * tiles_n * (config.BLOCK_M + config.BLOCK_N) * K * size
    return Traffic(
        l2_bytes=work.batch * (operands + y_bytes),
        dram_bytes=work.batch * (read + y_bytes),
        dram_share=share,
    )


def distinct_share(config: Config, work: Work) -> float:
    """Of what NEIGHBOURS that run side by side read, the share that is left where each tile of x and W counts once.

    They are CTAs in the order of their tiles: several columns of a group, or a part of one. Those that share a tile of
    y along K have no operand in common.
    """
    tiles_m, tiles_n = -(-work.M // config.BLOCK_M), -(-work.N // config.BLOCK_N)
    tiles = max(1, min(NEIGHBOURS // config.SPLIT_K, tiles_m * tiles_n))
    columns = min(float(tiles_n), tiles / min(_group_rows(config, work, tiles_m), tiles))
    rows = min(float(tiles_m), tiles / columns)
    return (rows * config.BLOCK_M + columns * config.BLOCK_N) / (tiles * (config.BLOCK_M + config.BLOCK_N))


def _group_rows(config: Config, work: Work, tiles_m: int) -> int:
    """Rows of tiles that are computed column by column before the next ones."""
    if config.GROUP_M == 1 and not work.row_by_row:
        return tiles_m
    return min(config.GROUP_M, tiles_m)


def _again(passes: int, at_once: float, machine: Machine) -> float:
    """How often an operand that L2 does not keep is read again, of which `at_once` of its passes run at a time.

    The first ones begin together and share all; later ones come after one another, and share little.
    """
    at_once = max(1.0, at_once)
    return max(0.0, passes - at_once) / float(at_once**machine.concurrent_reuse)


def _lost(size_bytes: float, target: Target) -> float:
    """The share of an operand that has left L2 when it is read again from its beginning."""
    if target.l2_bytes is None:
        return 0.0
    held = size_bytes / target.l2_bytes
    return min(1.0, max(0.0, (held - L2_KEEPS_ALL) / (L2_KEEPS_NONE - L2_KEEPS_ALL)))
