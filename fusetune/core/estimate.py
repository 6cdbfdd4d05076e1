"""A first cost model: how long a config should take on a Target, from its tile, its Resources and the GPU's limits.

It ranks candidates where nothing can be timed; it proves nothing. The terms, per SM:

    compute     products over the tensor cores' dense rate, times the share of it that the instruction reaches
    shared      operand fragments read from shared memory by mma.sync, at 128 bytes a clock
    l2          both operands' tiles through L2, at L2_BYTES_PER_CLOCK a clock and SM
    latency     a buffer of the pipeline is loaded (LATENCY_NS and the transfer), multiplied, and then free again
    dram        bytes that L2 cannot serve again, over the bandwidth of the whole GPU
    overhead    launch, filling the pipeline, and storing the last tile
    second      what a second kernel moves through L2, or through DRAM where L2 cannot hold it, and its start

Where K is split there are SPLIT_K times the CTAs, each with its share of the steps. CTAs that share an SM share its
rates and hide one another's latency; an SM with a CTA more than the others is the tail.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources, occupancy
from fusetune.core.space import holds_columns, is_pipelined, pipelined_shared_bytes, uses_wgmma
from fusetune.core.target import Target
from fusetune.errors import UsageError

MMA_EFFICIENCY: Final = 0.92
"""Share of the dense peak that a full pipeline of mma reaches: 75 of 82.6 TFLOP/s were seen on RTX 4090 cards."""
MMA_SYNC_ON_HOPPER: Final = 0.62
"""Share of wgmma's rate that mma.sync can reach on sm_90."""
POINTER_LOADS_ON_WGMMA: Final = 0.85
"""Share of the rate that remains where threads, not the copy engine, load what wgmma multiplies."""
WARPS_TO_FILL: Final = 8
"""Warps an SM needs, two a partition, for mma.sync to keep the tensor cores busy."""
SHARED_BYTES_PER_CLOCK: Final = 128
L2_BYTES_PER_CLOCK: Final = {90: 44.0}
OTHER_L2_BYTES_PER_CLOCK: Final = 22.0
"""Bytes a clock that one SM gets from L2 while all others read too, by capability; another for the rest."""
LATENCY_NS: Final = 700.0
"""From a load's issue to its tile in shared memory and past the barrier, with L2 loaded."""
STEP_OVERHEAD_NS: Final = 60.0
"""Barrier and address arithmetic of one step, which no other step of the same CTA hides."""
LAUNCH_US: Final = 2.2
SECOND_LAUNCH_US: Final = 1.0
"""A second kernel's start and end beyond the first one's; part of it runs beside the first."""
DRAM_EFFICIENCY: Final = 0.90
OVERLAP: Final = 4
"""Norm that joins times that run side by side: the larger one where they differ, more than it where they do not."""
L2_USABLE: Final = 0.6
"""Share of L2 that holds operands for a second use."""
_SPILL_PENALTY: Final = 25.0
_SPILL_BYTES: Final = 4096
_DEFAULT_MHZ: Final = 1800.0


class Estimate(msgspec.Struct, frozen=True):
    """Predicted microseconds of one launch, and of its parts were each alone."""

    time_us: float
    compute_us: float
    l2_us: float
    latency_us: float
    dram_us: float
    overhead_us: float
    second_us: float
    ctas: int
    ctas_per_sm: int
    bound: str


def estimate(config: Config, problem: Problem, target: Target, resources: Resources | None = None) -> Estimate:
    """Predict one launch; without `resources`, registers and shared memory are guessed from the tile.

    Raises UsageError where the table of targets lacks the peak or the bandwidth that the prediction needs.
    """
    peak = _peak_flops_per_ns(problem, target) / target.sms
    clock = (target.boost_mhz or _DEFAULT_MHZ) / 1e3
    used = resources or _guessed_resources(config, problem, target)
    resident = max(1, occupancy(used.registers, used.shared_bytes, config.num_warps, target).ctas_per_sm)

    tiles_m, tiles_n = -(-problem.M // config.BLOCK_M), -(-problem.N // config.BLOCK_N)
    ctas = tiles_m * tiles_n * config.SPLIT_K
    steps = max(1, -(-problem.K // (config.BLOCK_K * config.SPLIT_K)))
    busiest = -(-ctas // target.sms)

    step = _step_times(config, problem, target, peak, clock)
    rounds, rest = divmod(busiest, resident)
    sm_ns = rounds * _round_ns(step, resident, steps, config) + _round_ns(step, rest, steps, config)
    if used.stack_bytes:
        sm_ns *= 1 + (_SPILL_PENALTY - 1) * min(1.0, used.stack_bytes / _SPILL_BYTES)

    dram_ns = _dram_bytes(config, problem, target, min(resident, busiest) * target.sms) / _dram_bytes_per_ns(target)
    store_ns = config.BLOCK_M * config.BLOCK_N * problem.element_bytes / (_l2_bytes_per_clock(target) * clock)
    overhead_ns = LAUNCH_US * 1e3 + LATENCY_NS + store_ns
    second_ns = _second_ns(config, problem, target, clock)
    parts = {
        "compute": busiest * steps * max(step.compute_ns, step.shared_ns),
        "l2": busiest * steps * step.l2_ns,
        "latency": -(-busiest // resident) * steps * LATENCY_NS / step.buffers,
        "dram": dram_ns,
    }
    return Estimate(
        time_us=(_joined(sm_ns, dram_ns) + overhead_ns + second_ns) / 1e3,
        compute_us=parts["compute"] / 1e3,
        l2_us=parts["l2"] / 1e3,
        latency_us=parts["latency"] / 1e3,
        dram_us=dram_ns / 1e3,
        overhead_us=overhead_ns / 1e3,
        second_us=second_ns / 1e3,
        ctas=ctas,
        ctas_per_sm=resident,
        bound=max(parts, key=lambda name: parts[name]),
    )


class _Step(msgspec.Struct, frozen=True):
    """One CTA's step along K, alone on an SM, in nanoseconds."""

    compute_ns: float
    shared_ns: float
    l2_ns: float
    buffers: int


def _step_times(config: Config, problem: Problem, target: Target, peak_per_sm: float, clock: float) -> _Step:
    tile = config.BLOCK_M * config.BLOCK_N
    operand_bytes = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * problem.element_bytes
    rate = peak_per_sm * MMA_EFFICIENCY
    shared_bytes = 0.0
    buffers = config.num_stages
    if not uses_wgmma(config, problem, target):
        buffers = max(1, config.num_stages - 1)
        rate *= MMA_SYNC_ON_HOPPER if target.sm == 90 else 1.0
        rows, columns = _warp_grid(config)
        # Each warp reads the rows of x and of W that its part of the tile needs.
        fragment_rows = columns * config.BLOCK_M + rows * config.BLOCK_N
        shared_bytes = fragment_rows * config.BLOCK_K * problem.element_bytes
    elif config.variant != "persistent":
        rate *= POINTER_LOADS_ON_WGMMA
    if not is_pipelined(problem):
        buffers = 1
    return _Step(
        compute_ns=2 * tile * config.BLOCK_K / rate,
        shared_ns=shared_bytes / (SHARED_BYTES_PER_CLOCK * clock),
        l2_ns=operand_bytes / (_l2_bytes_per_clock(target) * clock),
        buffers=buffers,
    )


def _round_ns(step: _Step, together: int, steps: int, config: Config) -> float:
    """`together` CTAs that share an SM from their first step to their last."""
    if together == 0:
        return 0.0
    filled = min(1.0, (0.5 + 0.5 * together * config.num_warps / WARPS_TO_FILL))
    busy = together * _joined(step.compute_ns / filled, step.shared_ns, step.l2_ns)
    # A buffer is loaded, read and only then free again; that cycle runs once a buffer at a time.
    alone = (LATENCY_NS + step.l2_ns + step.compute_ns) / step.buffers
    return steps * (max(busy, alone) + STEP_OVERHEAD_NS / together)


def _joined(*parts: float) -> float:
    """The time of parts that run side by side: the largest, and more where others come close to it."""
    return float(sum(part**OVERLAP for part in parts) ** (1 / OVERLAP))


def _l2_bytes_per_clock(target: Target) -> float:
    return L2_BYTES_PER_CLOCK.get(target.sm, OTHER_L2_BYTES_PER_CLOCK)


def _warp_grid(config: Config) -> tuple[int, int]:
    """How many warps lie along M and along N: as square as the tile allows."""
    rows = columns = 1
    while rows * columns < config.num_warps:
        if config.BLOCK_M // rows >= config.BLOCK_N // columns and config.BLOCK_M // rows > 16:
            rows *= 2
        else:
            columns *= 2
    return rows, columns


def _dram_bytes(config: Config, problem: Problem, target: Target, running: int) -> float:
    """Bytes through device memory: each tensor once, and operands again for every wave where L2 does not hold them."""
    M, N, K, size = problem.M, problem.N, problem.K, problem.element_bytes
    once = (M * K + N * K + M * N) * size
    if target.l2_bytes is None or (M * K + N * K) * size <= L2_USABLE * target.l2_bytes:
        return float(once)
    tiles_m, tiles_n = -(-M // config.BLOCK_M), -(-N // config.BLOCK_N)
    running = min(running, tiles_m * tiles_n)
    # The tiles that run together form a rectangle: GROUP_M rows, or more when a group is narrower than a wave.
    rows = min(tiles_m, max(config.GROUP_M, running / tiles_n))
    columns = min(float(tiles_n), running / rows)
    waves = tiles_m * tiles_n / running
    read = waves * (rows * config.BLOCK_M + columns * config.BLOCK_N) * K * size
    return max(float(once), read + M * N * size)


def _second_ns(config: Config, problem: Problem, target: Target, clock: float) -> float:
    """The second kernel: the sum of the parts of K, or the pass that normalizes y in training."""
    outputs = problem.M * problem.N
    if config.SPLIT_K > 1:
        moved = outputs * (8 * config.SPLIT_K + problem.element_bytes)  # float32, written and read
    elif problem.mode == "train" and not holds_columns(config, problem):
        moved = 2 * outputs * problem.element_bytes
    else:
        return 0.0
    rate = _l2_bytes_per_clock(target) * clock * target.sms
    if target.l2_bytes is not None and moved > L2_USABLE * target.l2_bytes:
        rate = min(rate, _dram_bytes_per_ns(target))
    return SECOND_LAUNCH_US * 1e3 + moved / rate


def _guessed_resources(config: Config, problem: Problem, target: Target) -> Resources:
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    fragments = (config.BLOCK_M + config.BLOCK_N) * 16 // (32 * config.num_warps)
    return Resources(
        registers=min(255, 40 + accumulators + fragments),
        stack_bytes=0,
        shared_bytes=pipelined_shared_bytes(config, problem, target),
    )


def _peak_flops_per_ns(problem: Problem, target: Target) -> float:
    """The GPU's dense rate for the problem's products, FLOP a nanosecond; emulated precisions multiply three times."""
    peaks = {
        "tf32": (target.tf32_tflops, 1),
        "tf32x3": (target.tf32_tflops, 3),
        "bf16x3": (target.bf16_tflops, 3),
        "ieee": (target.fp32_tflops, 1),
        "float16": (target.fp16_tflops, 1),
        "bfloat16": (target.bf16_tflops, 1),
    }
    kind = problem.precision or problem.dtype
    peak, times = peaks[kind]
    if peak is None:
        raise UsageError(
            f"the table of targets has no {kind} peak for {target.name}, so nothing can be predicted for it"
        )
    return peak * 1e3 / times


def _dram_bytes_per_ns(target: Target) -> float:
    if target.dram_gb_s is None:
        raise UsageError(f"the table of targets has no bandwidth for {target.name}, so nothing can be predicted for it")
    return target.dram_gb_s * DRAM_EFFICIENCY
