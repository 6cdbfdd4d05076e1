"""The cost model: how long a config should take on a Target, from its tile, its Resources and the GPU's limits.

It ranks candidates where nothing can be timed; it proves nothing. Its terms:

    compute     products over the tensor cores' dense rate, times the share of it that the instruction reaches
    shared      operands written to shared memory and read from it by mma.sync, 128 bytes a clock
    convert     values that threads round to TF32, or take apart for products in three parts (tf32x3, bf16x3)
    copies      copies of 2 to 8 bytes a thread where rows do not begin on 16, by lanes of load units
    l2          both operands' tiles through L2, at l2_bytes_per_clock a clock and SM, less what neighbours read too
    chain       one CTA alone: load (latency), wait, read fragments, multiply; num_stages buffers overlap the loads
    dram        bytes that L2 cannot serve again, by the order of the tiles (traffic.py), over the bandwidth
    tail        SMs with a CTA more than others; a second wave that begins all at once also crowds on few SMs
    spills      what a stack moves: all of it once a CTA, and what is beyond a kilobyte in every step
    overhead    launch, and a CTA's beginning and end; less of an end where a tile is stored beside the next one, more
                where threads store a few bytes at once
    moments     in training, what adding up columns takes of the units that pass values between threads
    second      what later kernels move, through L2 or through DRAM, and their starts, or on the SM that has most of
                their CTAs; or what the last CTA at a tile waits for its summands, and takes to read them;
                and copies that are made ahead of the products

CTAs that share an SM share its rates and hide one another's chains: a round of them takes the longer of the two. Where
one comes close to the other it takes more (HIDING), and so does a step of its own work and its loads. Nothing hides the
beginning and the end of a CTA that is alone, unless it walks through many tiles. Where K is split there are SPLIT_K
times the CTAs, each with its share of the steps. Device memory works beside it all.
Constants and where they come from: ops/gemm_scale/machine.py.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fusetune.core.estimate import Estimate as AnyEstimate
from fusetune.core.peaks import dram_bytes_per_ns, peak_flops_per_ns
from fusetune.core.resources import Resources, occupancy
from fusetune.core.target import Target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.machine import (
    COPIES_PER_CLOCK,
    FIRST_PRODUCTS,
    HIDING,
    MMA_DEPTH_BYTES,
    OVERLAP,
    SECTOR_BYTES,
    SHARED_BYTES_PER_CLOCK,
    Machine,
    clock_ghz,
    machine_of,
)
from fusetune.ops.gemm_scale.persistent import ctas_per_sm, parts_of, stored_at_once
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.second import after_products_ns, before_products_ns
from fusetune.ops.gemm_scale.space import holds_columns, is_pipelined, pipelined_shared_bytes, row_unit, uses_wgmma
from fusetune.ops.gemm_scale.split import joins_summands
from fusetune.ops.gemm_scale.traffic import LINE_BYTES, Work, distinct_share, traffic
from fusetune.units import format_bytes, format_us

_FREE_STACK_BYTES: Final = 1024
"""A stack up to this size was seen not to slow the loop down: what is kept there is used before and after it."""
_SPILL_TRIPS: Final = 4
"""How often a byte of stack moves in a step: 64 x 64 x 128 w4 s3 with 4 KB of it took 53 ms on an RTX 4090."""
_MOST_IN_PARTS: Final = 320
"""Registers that products in three parts seem to want, beyond which all of them spilled (H200 and RTX 4090)."""


_MOMENTS_CLOCKS: Final = 20
"""Clocks of an SM that the moments of a column take of a warp, which holds some rows of it a lane.

Shuffles, and sums that go through shared memory. Nsight Compute on an H200 counts 5.0 thousand more clocks a tile for
256 x 128 by 8 warps, 9.7 thousand for 128 x 256, whose lanes hold half as many rows.
"""


_DEFERRED_CLOCKS: Final = 2
"""Clocks that an accumulator takes of its thread's scheduler, where a tile is rounded but not stored yet.

An SM has 128 lanes; a value is multiplied, rounded with its neighbour, and its register cleared.
"""


class Estimate(AnyEstimate, frozen=True):
    """Predicted microseconds of one launch, and of its parts were each alone.

    `tail_us` is the part of the SMs' time in which not all of them are busy. `dram_bytes` and `l2_bytes` are what the
    launch moves. `warps_active` is the mean share of an SM's warp slots that hold a warp while it works, 0 to 1; at
    most the theoretical occupancy. `bound` names the longest of compute, shared, l2, latency and dram.
    """

    compute_us: float
    shared_us: float
    l2_us: float
    latency_us: float
    dram_us: float
    tail_us: float
    overhead_us: float
    second_us: float
    ctas: int
    ctas_per_sm: int
    l2_bytes: float
    dram_bytes: float
    warps_active: float
    bound: str

    def lines(self, floor_us: float) -> tuple[tuple[str, str], ...]:
        """See the base: what is moved, what works side by side, and what comes one by one."""
        parts = {
            "compute": self.compute_us,
            "shared memory": self.shared_us,
            "L2": self.l2_us,
            "latency": self.latency_us,
            "DRAM": self.dram_us,
        }
        beside = ", ".join(f"{name} {format_us(part)}" for name, part in parts.items())
        moved = f"{format_bytes(int(self.l2_bytes))} through L2, {format_bytes(int(self.dram_bytes))} through DRAM"
        after = (
            f"launch and first load {format_us(self.overhead_us)}, what follows {format_us(self.second_us)}; "
            f"SMs idle {format_us(self.tail_us)} at the end"
        )
        return (
            ("traffic", moved),
            ("  side by side", f"{beside}; the longest is {self.bound}"),
            ("  one by one", after),
        )


def estimate(
    config: Config,
    problem: Problem,
    target: Target,
    resources: Resources | None = None,
    *,
    machine: Machine | None = None,
) -> Estimate:
    """Predict one launch of this project's kernels; without `resources`, registers and shared memory are guessed.

    Raises UsageError where the table of targets lacks the peak or the bandwidth that the prediction needs.
    """
    machine = machine or machine_of(target)
    size = problem.element_bytes
    work = Work(
        M=problem.M,
        N=problem.N,
        K=problem.K,
        kind=problem.kind,
        load_bytes=size,
        store_bytes=4 if config.SPLIT_K > 1 else size,
        rounds=problem.precision == "tf32" and not config.is_walking,
        copied_bytes=copied_bytes(config, problem),
    )
    used = resources or guessed_resources(config, problem, target)
    persistent = config.is_walking and not joins_summands(config, problem)
    shape = _Shape(
        wgmma=uses_wgmma(config, problem, target),
        persistent=persistent,
        buffers=_buffers(config, problem, target),
        most_ctas=ctas_per_sm(config, problem) if persistent else 32,
        takes_moments=_takes_moments(config, problem),
        defers=config.variant == "deferred",
        at_once=_stored_at_once(config, problem),
    )
    second_ns = before_products_ns(config, problem, target, machine)
    second_ns += after_products_ns(config, problem, target, machine)
    return _estimated(config, work, target, used, shape, machine, second_ns)


def estimate_work(
    config: Config,
    work: Work,
    target: Target,
    resources: Resources,
    *,
    clock_mhz: float | None = None,
    machine: Machine | None = None,
) -> Estimate:
    """Predict one launch of somebody's GEMM kernel by mma.sync with this config, from what the compiler made of it.

    How many loads run ahead is read from its shared memory: as many as tiles fit. `clock_mhz` is that of the SMs
    where it is known; the peaks hold at the boost clock. Raises UsageError as `estimate` does.
    """
    tile_bytes = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * work.load_bytes
    if clock_mhz is not None and target.boost_mhz is not None:
        slower = clock_mhz / target.boost_mhz
        peaks = {name: getattr(target, name) for name in ("tf32_tflops", "fp16_tflops", "bf16_tflops", "fp32_tflops")}
        scaled = {name: peak and peak * slower for name, peak in peaks.items()}
        target = msgspec.structs.replace(target, boost_mhz=clock_mhz, **scaled)
        machine = msgspec.structs.replace(machine or machine_of(target), sustained=1.0)
    shape = _Shape(wgmma=False, persistent=False, buffers=max(1, resources.shared_bytes // tile_bytes))
    return _estimated(config, work, target, resources, shape, machine or machine_of(target), 0.0)


class _Shape(msgspec.Struct, frozen=True):
    """What of a kernel the config alone does not say.

    `buffers`: tiles that can be under way at once. `most_ctas`: so many are launched for each SM at most. `defers`:
    whether a tile is stored while the next one is multiplied. `at_once`: elements of y that a thread stores at once,
    where that is less than 16 bytes or the copy engine loaded them.
    """

    wgmma: bool
    persistent: bool
    buffers: int
    most_ctas: int = 32
    takes_moments: bool = False
    defers: bool = False
    at_once: int = 0


def _estimated(
    config: Config,
    work: Work,
    target: Target,
    used: Resources,
    shape: _Shape,
    machine: Machine,
    second_ns: float,
) -> Estimate:
    clock = clock_ghz(target, machine)
    resident = max(1, occupancy(used.registers, used.shared_bytes, config.num_warps, target).ctas_per_sm)
    resident = min(resident, shape.most_ctas)
    tiles = -(-work.M // config.BLOCK_M) * -(-work.N // config.BLOCK_N) * work.batch
    ctas = tiles * config.SPLIT_K
    steps = max(1, -(-work.K // (config.BLOCK_K * config.SPLIT_K)))
    busiest = -(-ctas // target.sms)

    # SMs without a CTA leave the others more of L2, up to what one can take in.
    active = min(ctas, target.sms)
    share = max(
        machine.l2_bytes_per_clock, min(machine.fill_bytes_per_clock, machine.l2_bytes_per_clock * target.sms / active)
    )
    l2_rate = share * clock
    step = _step_of(config, work, target, shape, machine, clock, l2_rate)
    spilled = used.stack_bytes * 32 * config.num_warps * _SPILL_TRIPS
    in_loop = spilled * max(0, used.stack_bytes - _FREE_STACK_BYTES) // max(1, used.stack_bytes)
    stored = config.BLOCK_M * config.BLOCK_N * work.store_bytes + spilled
    # One CTA alone stores as fast as an SM can; all of them together as fast as L2 takes it.
    ends_ns = stored / (machine.fill_bytes_per_clock * clock)
    # Whoever walks through many tiles loads the next one's first steps while it finishes one.
    ends_ns += machine.next_tile_ns if shape.persistent else machine.tile_ns
    store_ns = stored / l2_rate
    if shape.at_once:
        lanes_ns = config.BLOCK_M * config.BLOCK_N / shape.at_once / (COPIES_PER_CLOCK * clock)
        ends_ns, store_ns = ends_ns + lanes_ns, max(store_ns, lanes_ns)
    if shape.defers:
        step = msgspec.structs.replace(step, l2_ns=step.l2_ns + store_ns / steps)
        ends_ns, store_ns = config.BLOCK_M * config.BLOCK_N / 128 * _DEFERRED_CLOCKS / clock, 0.0
    moments_ns = _moments_clocks(config) / clock if shape.takes_moments else 0.0
    ends_ns += moments_ns
    cta = _Cta(step, steps, store_ns + moments_ns, ends_ns, in_loop / l2_rate, shape.persistent)
    sm_ns, tail_ns, held = _sm_ns(cta, ctas, resident, target.sms)

    moved = traffic(config, work, target, machine, min(resident * target.sms, ctas))
    dram_ns = moved.dram_bytes / (dram_bytes_per_ns(target) * moved.dram_share)
    # What device memory delivers goes through L2 as well.
    memory_ns = _joined(dram_ns, busiest * steps * step.l2_ns, norm=4)
    overhead_ns = machine.launch_us * 1e3 + machine.latency_ns
    parts = {
        "compute": busiest * steps * step.compute_ns,
        "shared": busiest * steps * step.shared_ns,
        "l2": busiest * steps * step.l2_ns,
        "latency": -(-busiest // resident) * steps * machine.latency_ns / shape.buffers,
        "dram": dram_ns,
    }
    return Estimate(
        time_us=(_joined(sm_ns, memory_ns) + overhead_ns + second_ns) / 1e3,
        compute_us=parts["compute"] / 1e3,
        shared_us=parts["shared"] / 1e3,
        l2_us=parts["l2"] / 1e3,
        latency_us=parts["latency"] / 1e3,
        dram_us=dram_ns / 1e3,
        tail_us=tail_ns / 1e3,
        overhead_us=overhead_ns / 1e3,
        second_us=second_ns / 1e3,
        ctas=ctas,
        ctas_per_sm=resident,
        l2_bytes=moved.l2_bytes,
        dram_bytes=moved.dram_bytes,
        warps_active=held * config.num_warps / target.max_warps_per_sm,
        bound=max(parts, key=lambda name: parts[name]),
    )


class _Step(msgspec.Struct, frozen=True):
    """One CTA's step along K, in nanoseconds: what it takes of each of an SM's units, and how long it takes alone.

    own_ns: with its tile there. alone_ns: with `ahead` loads under way before it.
    """

    compute_ns: float
    shared_ns: float
    l2_ns: float
    own_ns: float
    alone_ns: float
    ahead: int


class _Cta(msgspec.Struct, frozen=True):
    """A CTA from its first step to its last."""

    step: _Step
    steps: int
    store_ns: float
    ends_ns: float
    spill_ns: float
    persistent: bool


def _step_of(
    config: Config, work: Work, target: Target, shape: _Shape, machine: Machine, clock: float, l2_rate: float
) -> _Step:
    flops_ns = 2 * config.BLOCK_M * config.BLOCK_N * config.BLOCK_K
    peak = peak_flops_per_ns(work.kind, target) * machine.sustained / target.sms
    elements = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K
    # Rows that begin anywhere touch a sector of L2 more each.
    sectors = 1.0 if work.copied_bytes == 16 else 1 + SECTOR_BYTES / (config.BLOCK_K * work.load_bytes)
    l2_ns = elements * work.load_bytes * sectors / l2_rate
    l2_ns *= 1 - machine.merged_reads * (1 - distinct_share(config, work))
    if shape.persistent and config.BLOCK_K * work.load_bytes * 2 <= LINE_BYTES:
        l2_ns *= machine.short_boxes
    lanes = elements * work.load_bytes / work.copied_bytes
    copy_ns = 0.0 if shape.persistent or work.copied_bytes == 16 else lanes / (COPIES_PER_CLOCK * clock)
    loaded_ns = machine.latency_ns + elements * work.load_bytes / (machine.fill_bytes_per_clock * clock)
    per_clock = {"tf32x3": machine.tf32x3_per_clock, "bf16x3": machine.bf16x3_per_clock}.get(work.kind)
    if shape.wgmma:
        fed = 1.0 if shape.persistent or per_clock else machine.threads_feed
        compute_ns = flops_ns / (peak * machine.wgmma_efficiency * fed)
        if per_clock:
            # Whoever loads, taking values apart and multiplying add up, on SMs with several CTAs too (seen on an H200).
            compute_ns += elements / (per_clock * clock)
        # One instruction multiplies 64 rows, and reads them and all columns from shared memory.
        read = (config.BLOCK_M + config.BLOCK_M // 64 * config.BLOCK_N) * config.BLOCK_K * work.load_bytes
        shared_ns = copy_ns + read / (SHARED_BYTES_PER_CLOCK * clock)
        rounding_ns = 0.0
        if work.rounds:  # x goes to registers; W is read, rounded and written again.
            moved = (elements + config.BLOCK_N * config.BLOCK_K) * work.load_bytes
            converting_ns = elements / (machine.convert_per_clock * clock)
            rounding_ns = max(moved / (SHARED_BYTES_PER_CLOCK * clock), converting_ns)
            shared_ns += rounding_ns
        own_ns = compute_ns + machine.barrier_ns + copy_ns + rounding_ns
        # What is being multiplied still lies in its buffer: the others are under way.
        ahead = max(1, shape.buffers - 1)
        return _Step(compute_ns, shared_ns, l2_ns, own_ns, _joined(own_ns, loaded_ns / ahead, norm=HIDING), ahead)
    if work.kind == "ieee":  # No tensor cores: FMA on registers that were read from shared memory.
        efficiency = machine.fma_efficiency
    else:
        peak, efficiency = peak * machine.mma_share, machine.mma_efficiency
    compute_ns, at_best_ns = flops_ns / (peak * efficiency), flops_ns / peak
    rows, columns = warp_grid(config)
    # Each warp reads the rows of x and of W that its part of the tile needs; copies go through the same units.
    fragments = (columns * config.BLOCK_M + rows * config.BLOCK_N) * config.BLOCK_K
    fragments_ns = fragments * work.load_bytes / (SHARED_BYTES_PER_CLOCK * clock)
    shared_ns = fragments_ns + max(copy_ns, elements * work.load_bytes / (SHARED_BYTES_PER_CLOCK * clock))
    convert_ns = fragments / (machine.convert_per_clock * clock) if work.rounds else 0.0
    shared_ns = max(shared_ns, convert_ns)
    # Of one CTA's own work, what its other warps do not hide: the barrier, and fragments on their way. Values are
    # rounded while more are read, and read while others are multiplied, but for the first products of a step.
    # Tensor cores of partitions that have no warp stand still; and each product waits for the one that it adds to.
    multiply_ns = at_best_ns * max(1.0, 4 / config.num_warps)
    products = config.BLOCK_K * work.load_bytes / MMA_DEPTH_BYTES
    multiply_ns = max(multiply_ns, products * machine.mma_latency_clocks / clock)
    read_ns = max(fragments_ns, convert_ns) / max(1.0, config.num_warps / 4)
    first = min(1.0, FIRST_PRODUCTS / products)
    own_ns = max(multiply_ns, read_ns) + first * min(multiply_ns, read_ns) + machine.barrier_ns + copy_ns
    if per_clock:  # Each warp takes its fragments apart, so a value as often as warps read it.
        parts_ns = fragments / (per_clock * clock)
        compute_ns += parts_ns
        own_ns += parts_ns * max(1.0, 4 / config.num_warps)
    alone_ns = max(own_ns, (own_ns + loaded_ns) / shape.buffers)
    return _Step(compute_ns, shared_ns, l2_ns, own_ns, alone_ns, shape.buffers)


def _busy_ns(cta: _Cta) -> float:
    """What one CTA takes of the units that all on its SM share."""
    step = cta.step
    return cta.steps * (_joined(step.compute_ns, step.shared_ns, step.l2_ns) + cta.spill_ns) + cta.store_ns


def _round_ns(cta: _Cta, together: int) -> float:
    """`together` CTAs that share an SM from their first step to their last."""
    if together == 0:
        return 0.0
    # The first loads are all under way at the start, which the launch's overhead counts.
    begun = min(cta.steps, cta.step.ahead)
    chain = begun * cta.step.own_ns + (cta.steps - begun) * cta.step.alone_ns + cta.steps * cta.spill_ns
    if together > 1 and cta.persistent:
        return _joined(together * _busy_ns(cta), chain + cta.ends_ns, norm=HIDING)
    if together > 1 or cta.persistent:  # Others run beside one's end, or the next tile's loads.
        return max(together * _busy_ns(cta), chain + cta.ends_ns)
    return max(_busy_ns(cta) - cta.store_ns, chain) + max(cta.store_ns, cta.ends_ns)


def _sm_ns(cta: _Cta, ctas: int, resident: int, sms: int) -> tuple[float, float, float]:
    """The busiest SM's time, how much of it others idle, and the mean number of CTAs on an SM that works.

    CTAs of the last wave go where there is room. After many waves CTAs end at different times; each SM takes one, which
    runs beside the last of the wave before. CTAs that all began at once also end at once, and then the first SMs take
    as many as they hold (on an RTX 4090, 512 CTAs of which 384 fit took as long as two whole waves).
    """
    waves, left = divmod(ctas, resident * sms)
    whole_ns = waves * _round_ns(cta, resident)
    if left == 0:
        return whole_ns, 0.0, float(resident)
    each = -(-left // sms)
    spread_ns = _round_ns(cta, each)
    tail_ns = spread_ns
    if waves:
        among_others_ns = each * _busy_ns(cta)
        tail_ns = among_others_ns + (spread_ns - among_others_ns) / waves
        if not cta.persistent:
            tail_ns += (_round_ns(cta, min(resident, left)) - spread_ns) / waves**2
    busy_ns = left / (each * sms) * tail_ns
    held = (whole_ns * resident + busy_ns * each) / (whole_ns + busy_ns)
    return whole_ns + tail_ns, tail_ns - busy_ns, held


def _joined(*parts: float, norm: int = OVERLAP) -> float:
    """The time of parts that run side by side: the largest, and more where others come close to it."""
    largest = max(parts)
    if largest <= 0:
        return 0.0
    return float(largest * sum((part / largest) ** norm for part in parts) ** (1 / norm))


def _buffers(config: Config, problem: Problem, target: Target) -> int:
    """Tiles that can be on their way at once: mma.sync copies them to registers first and holds one less."""
    if not is_pipelined(config, problem):
        return 1
    return config.num_stages if uses_wgmma(config, problem, target) else max(1, config.num_stages - 1)


def copied_bytes(config: Config, problem: Problem) -> int:
    """Bytes that one thread copies at once: 16, or 8, 4 or 2 where rows of x and W do not begin on 16.

    What goes by pointers knows of rows whether 16 divides K, and `vectored` what they begin on.
    """
    unit = 16 if config.pads else row_unit(problem.K)
    told = config.is_walking or config.variant == "vectored" or unit == 16
    row_bytes = (unit if told else 1) * problem.element_bytes
    return next((size for size in (16, 8, 4) if row_bytes % size == 0), row_bytes)


def _stored_at_once(config: Config, problem: Problem) -> int:
    """Elements of y that a thread stores at once where that is less than 16 bytes; else 0, as where none stores any.

    What goes by pointers knows of rows whether 16 divides N, and `vectored` what they begin on.
    """
    if config.is_walking and not joins_summands(config, problem):
        return stored_at_once(problem) if config.masks else 0
    told = config.variant == "vectored" or problem.N % 16 == 0
    at_once = stored_at_once(problem) if told else 1
    return at_once if at_once * problem.element_bytes < 16 else 0


def warp_grid(config: Config) -> tuple[int, int]:
    """How many warps lie along M and along N: as square as the tile allows."""
    rows = columns = 1
    while rows * columns < config.num_warps:
        if config.BLOCK_M // rows >= config.BLOCK_N // columns and config.BLOCK_M // rows > 16:
            rows *= 2
        else:
            columns *= 2
    return rows, columns


def _takes_moments(config: Config, problem: Problem) -> bool:
    if problem.mode != "train" or config.rereads:
        return False
    return config.SPLIT_K == 1 or holds_columns(config, problem)


def _moments_clocks(config: Config) -> float:
    """What taking the moments of a tile costs an SM: the fewer rows a lane holds, the more columns are handed on."""
    rows = max(1, config.BLOCK_M // 16 // config.num_warps) * 2
    return config.BLOCK_M * config.BLOCK_N / (32 * rows) * _MOMENTS_CLOCKS


def guessed_resources(config: Config, problem: Problem, target: Target) -> Resources:
    """What the compiler is likely to make of a config, for ranking what has not been compiled.

    Products in three parts hold a step's values and their parts in registers. Where those are far too few, some are
    moved in every step, which a stack beyond _FREE_STACK_BYTES stands for.
    """
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    values = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K / (32 * config.num_warps)
    wanted = 2 * accumulators + 1.8 * values if problem.precision in {"tf32x3", "bf16x3"} else 0.0
    spilled = wanted > _MOST_IN_PARTS
    fragments = (config.BLOCK_M + config.BLOCK_N) * 16 // (32 * config.num_warps)
    if config.variant == "deferred":  # wgmma reads no fragments; the tile before is held, two values a register
        accumulators, fragments = accumulators + accumulators // 2, 0
    if config.masks:  # addresses of a part beside all sums
        fragments += accumulators // parts_of(config, problem)
    return Resources(
        registers=255 if spilled else min(255, 40 + accumulators + fragments),
        stack_bytes=_FREE_STACK_BYTES + 4 * round(wanted - 255) if spilled else 0,
        shared_bytes=pipelined_shared_bytes(config, problem, target),
    )
