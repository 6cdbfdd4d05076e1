"""The cost model's term `second`: kernels ahead of the products or behind, or what the last CTA at a tile adds up."""

from __future__ import annotations

import math
from typing import Final

from fusetune.core.peaks import dram_bytes_per_ns
from fusetune.core.target import Target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.machine import Machine, clock_ghz
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.space import holds_columns, owned_columns
from fusetune.ops.gemm_scale.split import joins_summands
from fusetune.ops.gemm_scale.traffic import L2_KEEPS_ALL

_FINISHED_ELEMENTS: Final = 1024
"""How much of y one CTA of a second kernel takes (ops/gemm_scale/passes.py)."""
_PASS_LATENCIES: Final = 5
"""Latencies from the start of a kernel that reads y again to its last store, beside what it moves.

It takes about 3 us more than its bytes take to and from device memory, and no less where L2 holds some of them (seven
sizes from 13 to 270 MB on an H200, benchmarks/passes.py).
"""
_OF_FILL: Final = 0.5
"""Share of what an SM can take in that a second kernel's CTA gets, which waits for one load after another."""


def after_products_ns(config: Config, problem: Problem, target: Target, machine: Machine) -> float:
    """What comes after the products: the sum of the parts of K, or in training the passes that normalize y.

    A CTA that is last at its tile adds up the parts at once: two more ways through L2, one to count those that are done
    and one for their summands. All else takes another kernel. One that adds up moves its bytes as fast as L2 or device
    memory lets all SMs, and no faster than one of its CTAs gets its own; those that read y again, as device memory lets
    them, or as `_owned_ns` says.
    """
    M, N, size = problem.M, problem.N, problem.element_bytes
    if joins_summands(config, problem):
        clock = clock_ghz(target, machine)
        own = config.BLOCK_M * config.BLOCK_N * (4 * config.SPLIT_K + size)
        return 2 * machine.latency_ns + own / (machine.fill_bytes_per_clock * _OF_FILL * clock)
    if config.SPLIT_K > 1:
        clock = clock_ghz(target, machine)
        rows = 1 << (M - 1).bit_length()
        rows = rows if problem.mode == "train" else min(32, rows)
        columns = max(16, _FINISHED_ELEMENTS // rows)
        moved = M * N * (8 * config.SPLIT_K + size)  # float32, written and read
        own = rows * columns * (4 * config.SPLIT_K + size)
        rate = machine.l2_bytes_per_clock * clock * target.sms
        if target.l2_bytes is not None and moved > L2_KEEPS_ALL * target.l2_bytes:
            rate = min(rate, dram_bytes_per_ns(target) * machine.dram_efficiency)
        own_ns = machine.latency_ns + own / (machine.fill_bytes_per_clock * _OF_FILL * clock)
        return machine.second_launch_us * 1e3 + max(moved / rate, own_ns)
    if problem.mode != "train" or holds_columns(config, problem):
        return 0.0
    start_ns = machine.second_launch_us * 1e3 + _PASS_LATENCIES * machine.latency_ns
    if config.variant == "owner":
        return start_ns + _owned_ns(problem, target, machine)
    rows = max(32, -(-M // (16 * 32)) * 32)
    if config.rereads:
        tiles, passes, moved = -(-M // rows), 2, 3 * M * N * size
    else:
        tiles, passes, moved = -(-M // config.BLOCK_M), 1, 2 * M * N * size
    # Each CTA of the last kernel joins its columns' moments anew, the means of them twice.
    joined = 3 * 4 * tiles * N * -(-M // rows)
    joining_ns = joined / (machine.l2_bytes_per_clock * clock_ghz(target, machine) * target.sms)
    return passes * start_ns + joining_ns + moved / (dram_bytes_per_ns(target) * machine.dram_efficiency)


def before_products_ns(config: Config, problem: Problem, target: Target, machine: Machine) -> float:
    """What copies take that are made for the copy engine: a kernel that reads and writes x and W once."""
    if not config.pads:
        return 0.0
    moved = 2 * (problem.M + problem.N) * problem.K * problem.element_bytes
    rate = dram_bytes_per_ns(target) * machine.dram_efficiency
    return machine.second_launch_us * 1e3 + 2 * machine.latency_ns + moved / rate


def _owned_ns(problem: Problem, target: Target, machine: Machine) -> float:
    """What CTAs that own columns take on the SM that has most of them: each reads its columns twice and writes them."""
    columns = owned_columns(problem, target.sms)
    together = math.ceil(math.ceil(problem.N / columns) / target.sms)
    moved = 3 * problem.M * columns * problem.element_bytes * together
    return moved / (machine.fill_bytes_per_clock * clock_ghz(target, machine))
