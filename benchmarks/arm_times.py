"""Arms of one cell, checked and then timed in turns: what `benchmarks/peers.py` and `benchmarks/sizes.py` share.

Importing this loads torch and triton.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from family_sweeps import Cell, first_line, within
from peer_arms import Bed, Call, DryBench, GraphBench, input_bytes, make_bed, sets_for

LONG_US = 300.0
ROUNDS, LONG_ROUNDS = 25, 15
PEERS_MAY = 4
"""How many times our own tolerance a peer may be off, which may round more often than ours does."""


@dataclass(frozen=True)
class Timed:
    """Microseconds of each arm, one a round; its errors against float64; what failed, and why; how it was timed."""

    times: Mapping[str, Sequence[float]]
    errors: Mapping[str, Mapping[str, float]]
    failed: Mapping[str, str]
    facts: Mapping[str, Any]


def time_arms(
    cell: Cell,
    arms: Mapping[str, Callable[[Bed], Call]],
    *,
    ours: Collection[str],
    failed: Mapping[str, str],
    device: str,
    rounds: int | None,
    monitor: Any,
) -> Timed:
    """Build every arm, hold it against float64, and time those that are right in turns, the first of them first.

    `failed`: arms that are known to be none, with why. `ours` are held to the op's own tolerance. `device` "cpu" runs
    every path but the graphs. Raises what an arm raised after which the GPU's context is gone.
    """
    if "torch._dynamo" in sys.modules:  # It holds what was compiled for the cell before.
        torch._dynamo.reset()
    dry = device == "cpu"
    l2_bytes = 0 if dry else torch.cuda.get_device_properties(0).L2_cache_size
    sets = 2 if dry else sets_for(input_bytes(cell), l2_bytes)
    bed = make_bed(cell, device, sets, dry=dry)
    bed.refer()
    left_out = dict(failed)
    calls, errors = _checked_calls(bed, arms, left_out, device)
    bed.references = {}
    tolerance = bed.spec.tolerance(cell.problem).frobenius
    # What is further off than this is another function.
    wrong = [
        arm for arm, by in errors.items() if not within(by.values(), tolerance * (1 if arm in ours else PEERS_MAY))
    ]
    for arm in wrong:
        left_out[arm] = f"wrong: {errors[arm]}, where {tolerance:.1e} is allowed"
        calls.pop(arm, None)
    bench = (DryBench if dry else GraphBench)(sets)
    left_out.update(bench.begin(calls))
    rounds = rounds or (ROUNDS if bench.fastest_us <= LONG_US else LONG_ROUNDS)
    states: list[Any] = []
    times = bench.times(rounds, random.Random(cell.key), lambda: states.append(monitor.state()))
    launches = bench.launches
    bench.close()
    del calls, bed, bench
    gc.collect()
    if not dry:
        torch.cuda.empty_cache()
    facts = {"sets": sets, "launches": launches, "rounds": rounds, "clocks": clocks_of(states)}
    return Timed(times, errors, left_out, facts)


def _checked_calls(
    bed: Bed, arms: Mapping[str, Callable[[Bed], Call]], failed: dict[str, str], device: str
) -> tuple[dict[str, Call], dict[str, dict[str, float]]]:
    """Every arm built, run and held against float64; what fails is put into `failed` with its reason."""
    key = bed.cell.key
    calls: dict[str, Call] = {}
    errors: dict[str, dict[str, float]] = {}
    for arm, make in arms.items():
        if arm in failed:
            continue
        began = time.monotonic()
        try:
            call = make(bed)
            errors[arm] = bed.errors(arm, call)
            calls[arm] = call
        except Exception as error:
            failed[arm] = first_line(error)  # An arm that cannot run is a result.
            print(f"  {key}: {arm} failed: {failed[arm]}", flush=True)
            if not gpu_survives(device):
                raise
        if time.monotonic() - began > 10:
            print(f"  {key}: {arm} took {time.monotonic() - began:.0f} s to build", flush=True)
    return calls, errors


def gpu_survives(device: str) -> bool:
    """Whether the GPU's context is still there."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        print("the GPU's context is gone; run again for what is missing")
        return False
    return True


def clocks_of(states: Sequence[Any]) -> dict[str, Any]:
    """SM clock, power and what held the clocks down, over the rounds."""
    mhz = [state.sm_mhz for state in states if state.sm_mhz is not None]
    watts = [state.power_w for state in states if state.power_w is not None]
    held = [text for state in states for text in (*state.flags, *([state.discard] if state.discard else []))]
    return {
        "sm_mhz": statistics.median(mhz) if mhz else None,
        "sm_mhz_low": min(mhz, default=None),
        "sm_mhz_high": max(mhz, default=None),
        "power_w": max(watts, default=None),
        "throttled": {text: held.count(text) for text in dict.fromkeys(held)},
    }
