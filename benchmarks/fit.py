"""Fit the cost model's constants of one compute capability to measured sweeps: `python benchmarks/fit.py`.

Needs no GPU, and takes some minutes. It sees the journals that `benchmarks/prediction.py` reads, without those of the
sizes in JUDGED there, and prints a Machine for ops/gemm_scale/machine.py with the error before and after, on what it
saw and on what it did not. What it makes small is how far the logarithms of predicted and measured times lie apart,
near each problem's fastest candidates more than far from them, and apart from one factor a problem less than with it:
a ranking needs no factor. With --ada it fits sm_89 to the profiler's times of even-numbered problems in
benchmarks/data instead. Nothing is written.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ada
import msgspec
import numpy as np
from prediction import FOLDERS as JUDGED_FOLDERS
from prediction import HERE, Measured, judge, read_sweeps
from scipy.optimize import minimize

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.machine import MACHINES, Machine

FOLDERS = (*JUDGED_FOLDERS, HERE / "results" / "fitting")
"""The last one holds the sweeps of `sizes.py --only fitting`, as far as they have been made."""
NEAREST, OTHERS = 90, 40
"""So many of the fastest candidates of a problem are looked at, and so many drawn from the rest."""
FALLOFF = 2.5
"""A candidate that takes 1 + x times the fastest's time weighs exp(-FALLOFF x)."""
COMMON = 0.15
"""Weight of the factor that a whole problem is off by."""
HELD = 0.004
"""How strongly constants are held near where they were, a squared unit of their logarithms."""
FITTED_90 = (
    *("sustained", "next_tile_ns", "convert_per_clock", "tf32x3_per_clock", "bf16x3_per_clock", "mma_latency_clocks"),
    *("mma_efficiency", "mma_share", "wgmma_efficiency", "threads_feed", "l2_bytes_per_clock", "fill_bytes_per_clock"),
    *("latency_ns", "barrier_ns", "tile_ns", "dram_efficiency", "concurrent_reuse", "launch_us", "second_launch_us"),
    *("merged_reads", "short_boxes"),
)
FITTED_89 = (
    *("mma_efficiency", "l2_bytes_per_clock", "latency_ns", "barrier_ns", "tile_ns", "dram_efficiency", "short_rows"),
    "concurrent_reuse",
)
SHARES = frozenset(
    {
        *("sustained", "mma_efficiency", "mma_share", "wgmma_efficiency", "threads_feed", "dram_efficiency"),
        *("short_rows", "merged_reads"),
    }
)


class Sample(NamedTuple):
    """One problem's sweep, its chosen candidates, their measured logarithms and weights."""

    sweep: Measured
    configs: list[Config]
    logs: np.ndarray
    weights: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ada", action="store_true", help="fit sm_89 to published figures")
    parser.add_argument("--journals", type=Path, action="append", help="folders to read instead of the committed ones")
    parser.add_argument("--steps", type=int, default=600, help="evaluations of the search")
    arguments = parser.parse_args()
    if arguments.ada:
        return fit_ada(arguments.steps)
    sweeps = [sweep for sweep in read_sweeps(arguments.journals or FOLDERS) if sweep.target.sm == 90]
    seen = [sampled(sweep) for sweep in sweeps if not sweep.judged]
    if not seen:
        sys.exit("no journal of sm_90 to fit to")
    start = MACHINES[90]
    found = fitted(
        start, FITTED_90, lambda machine: float(np.mean([loss(sample, machine) for sample in seen])), arguments.steps
    )
    print(found)
    for name, machine in (("before", start), ("after", found)):
        for half, chosen in (("seen", False), ("judged", True)):
            rows = [judge(sweep, machine) for sweep in sweeps if sweep.judged is chosen]
            if rows:
                top3 = [row["regret_top3"] for row in rows]
                offline = [row["regret_offline"] for row in rows]
                print(
                    f"{name}, {half}: {len(rows)} problems, regret of the first 3 {np.median(top3):.1%}, worst "
                    f"{max(top3):.1%}; offline {np.median(offline):.1%}, worst {max(offline):.1%}; "
                    f"prior loses {max(row['prior_loss'] for row in rows):.1%}"
                )
    return 0


def sampled(sweep: Measured) -> Sample:
    order = sorted(sweep.times_us, key=lambda config: sweep.times_us[config])
    rest = order[NEAREST:]
    chosen = order[:NEAREST] + random.Random(7).sample(rest, min(OTHERS, len(rest)))
    times = np.array([sweep.times_us[config] for config in chosen])
    weights = np.exp(-FALLOFF * (times / sweep.best_us - 1))
    return Sample(sweep, chosen, np.log(times), weights / weights.sum())


def loss(sample: Sample, machine: Machine) -> float:
    sweep = sample.sweep
    predicted = np.array(
        [
            estimate(config, sweep.problem, sweep.target, sweep.resources[config], machine=machine).time_us
            for config in sample.configs
        ]
    )
    apart = np.log(predicted) - sample.logs
    factor = float(sample.weights @ apart)
    # What is promised to be faster than it is costs more: it is what a short list ends up with.
    bent = np.where(apart < factor, 2.0, 1.0) * (apart - factor) ** 2
    return float(sample.weights @ bent + COMMON * factor**2)


def fitted(start: Machine, names: Sequence[str], error: Callable[[Machine], float], steps: int) -> Machine:
    """The machine near `start` with the smallest error, in the logarithms of the named constants."""
    origin = np.log([getattr(start, name) for name in names])

    def machine_at(point: np.ndarray) -> Machine:
        values = dict(zip(names, map(math.exp, point), strict=True))
        values.update({name: min(1.0, value) for name, value in values.items() if name in SHARES})
        return msgspec.structs.replace(start, **values)

    def held(point: np.ndarray) -> float:
        return error(machine_at(point)) + HELD * float(((point - origin) ** 2).sum())

    simplex = np.vstack([origin, *(origin + 0.15 * row for row in np.eye(len(names)))])
    options = {"maxfev": steps, "initial_simplex": simplex, "adaptive": True}
    found = machine_at(minimize(held, origin, method="Nelder-Mead", options=options).x)
    return msgspec.structs.replace(found, **{name: float(f"{getattr(found, name):.3g}") for name in names})


def fit_ada(steps: int) -> int:
    published = ada.read_published(ada.HERE / "data" / "rtx4090_published.csv")
    ranking = ada.read_ranking(ada.HERE / "data" / "rtx4090_published_ranking.csv", published)
    halves = {"seen": [row for row in ranking if row.fitted], "judged": [row for row in ranking if not row.fitted]}
    halves["judged"] += [row for row in published if row.quality.startswith("A")]

    def error(machine: Machine) -> float:
        apart = np.abs([math.log1p(ada.error_of(row, machine)) for row in halves["seen"]])
        return float(np.where(apart < 0.05, apart**2 / 2, 0.05 * (apart - 0.025)).mean())

    start = MACHINES[89]
    found = fitted(start, FITTED_89, error, steps)
    print(found)
    for name, machine in (("before", start), ("after", found)):
        for half, rows in halves.items():
            apart = np.abs([ada.error_of(row, machine) for row in rows])
            print(f"{name}, {half}: {len(rows)} rows, median error {np.median(apart):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
