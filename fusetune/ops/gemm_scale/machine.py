"""What the cost model takes for granted of a compute capability: rates, latencies and shares, a few of each.

They are no figures of a data sheet, which `Target` holds. Those of sm_89 were chosen with Nsight Compute's published
figures of RTX 4090 cards in view (`benchmarks/ada.py`), those of sm_90 were fitted to measured sweeps
(`benchmarks/fit.py`, judged on others by `benchmarks/prediction.py`). Capabilities without measurements take a
neighbour's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fusetune.core.target import Target


class Machine(msgspec.Struct, frozen=True):
    """Constants of one compute capability.

    sustained: share of the boost clock that is held under load. mma_efficiency: share of the dense peak that a full
    pipeline of mma.sync reaches, of the rate `mma_share` of the peak that this instruction has. fma_efficiency: the
    same for float32 products without tensor cores, of the float32 peak. wgmma_efficiency: the same for warpgroup
    instructions fed by the copy engine; threads_feed: what remains of it where threads load. l2_bytes_per_clock: bytes
    that one SM gets from L2 in a clock while all others read too. merged_reads: the share of that time which is saved
    where neighbours read the same bytes, were they all the same. short_boxes: how many times as long L2 takes for rows
    of 64 bytes that the copy engine asks for. fill_bytes_per_clock: what it gets while they wait. latency_ns: from a
    load's issue to its tile in shared memory. mma_latency_clocks: until a product can be added to. barrier_ns: barrier
    and address arithmetic of one step along K. convert_per_clock: values an SM rounds to TF32 in a clock.
    tf32x3_per_clock, bf16x3_per_clock: values an SM takes apart in a clock for products in three parts. tile_ns: what a
    CTA takes to begin and to end, beside its steps. next_tile_ns: the same for each tile of a CTA that walks through
    many. dram_efficiency: share of the bandwidth that long rows reach. short_rows: the share of that which remains
    where a row of a tile is 64 bytes. concurrent_reuse: how far CTAs that happen to run at once share what L2 cannot
    keep, as a power of their number; 1 shares everything. launch_us, second_launch_us: start and end of a kernel, and
    of a second one behind it.
    """

    sustained: float = 0.96
    mma_efficiency: float = 0.919
    mma_share: float = 1.0
    fma_efficiency: float = 0.72
    wgmma_efficiency: float = 0.90
    threads_feed: float = 0.85
    l2_bytes_per_clock: float = 18.6
    merged_reads: float = 0.0
    short_boxes: float = 1.0
    fill_bytes_per_clock: float = 64.0
    latency_ns: float = 442.0
    mma_latency_clocks: float = 24.0
    barrier_ns: float = 60.0
    convert_per_clock: float = 64.0
    tf32x3_per_clock: float = 12.5
    bf16x3_per_clock: float = 10.0
    tile_ns: float = 600.0
    next_tile_ns: float = 200.0
    dram_efficiency: float = 0.916
    short_rows: float = 0.53
    concurrent_reuse: float = 0.25
    launch_us: float = 2.2
    second_launch_us: float = 1.0


_AMPERE: Final = Machine(l2_bytes_per_clock=40.0)
_ADA: Final = Machine()
_HOPPER: Final = Machine(
    sustained=0.826,
    mma_efficiency=0.913,
    mma_share=0.683,
    wgmma_efficiency=1.0,
    threads_feed=0.828,
    l2_bytes_per_clock=56.3,
    merged_reads=0.27,
    short_boxes=1.3,
    fill_bytes_per_clock=40.8,
    latency_ns=516.0,
    mma_latency_clocks=33.0,
    barrier_ns=74.0,
    convert_per_clock=77.7,
    tf32x3_per_clock=12.6,
    bf16x3_per_clock=10.4,
    tile_ns=484.0,
    next_tile_ns=225.0,
    dram_efficiency=0.887,
    concurrent_reuse=0.261,
    launch_us=1.83,
    second_launch_us=0.542,
)

MACHINES: Final[dict[int, Machine]] = {80: _AMPERE, 86: _ADA, 89: _ADA, 90: _HOPPER, 100: _HOPPER, 120: _ADA}
OVERLAP: Final = 8
"""Norm that joins times that run side by side: the larger one where they differ, more than it where they do not."""
HIDING: Final = 6
"""The same where one is to hide the other: loads that run ahead behind products, one CTA's chain behind its neighbours'
work. They come unevenly, so that some of what comes close still shows. Chosen on the sweeps that sm_90 was fitted to,
where a fit of its own for a step's loads ended between 4.9 and 6.1."""
SHARED_BYTES_PER_CLOCK: Final = 128
"""Of an SM: CUDA C++ Programming Guide, 32 banks of 4 bytes."""
COPIES_PER_CLOCK: Final = 16
"""Lanes of load and store units an SM; a copy of 4 bytes takes one of them as long as one of 16 does."""
MMA_DEPTH_BYTES: Final = 32
"""How far one mma.sync goes along a row: 16 values of two bytes, 8 of four (PTX ISA, m16n8k16 and m16n8k8)."""
FIRST_PRODUCTS: Final = 4
"""Products along a row whose fragments nothing hides in a step: as deep as a step of the published sm_89 launches is,
which take reading and multiplying together. Deeper steps, in sweeps on sm_90, hid what goes beyond."""
SECTOR_BYTES: Final = 32
"""What L2 hands out at least."""
DEFAULT_MHZ: Final = 1800.0


def machine_of(target: Target) -> Machine:
    """The constants of a target's compute capability; a capability that has none takes Ada's."""
    return MACHINES.get(target.sm, _ADA)


def clock_ghz(target: Target, machine: Machine) -> float:
    """Clocks a nanosecond of the SMs under load."""
    return (target.boost_mhz or DEFAULT_MHZ) * machine.sustained / 1e3
