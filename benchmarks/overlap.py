"""Whether launching a kernel while the one ahead of it runs pays: `python benchmarks/overlap.py`. Needs sm_90.

Every cell of the family with the config that a call would look up: a CUDA graph with its kernels launched as the
library does, one with all of them launched early (programmatic dependent launch), one with the first alone, and one
with none, replayed in turns as benchmarks/peers.py does. The rules in ops/gemm_scale/early.py are held against this.
Writes benchmarks/results/overlap-<gpu>.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from family_sweeps import ROOT, Cell, add_filters, chosen_cells, kernel_hash

from fusetune.core.text import slugify
from fusetune.measure.nvml import gpu_present
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.early import PDL_CAPABILITY
from fusetune.ops.spec import Launch

ROUNDS = 15
WAYS: Final = {"ours": None, "early": (True, True), "first": (True, False), "not": (False, False)}
"""Whether the first kernel of a call is launched early, and whether those behind it are; None is as the library does.

Where any is, each lets the one behind it begin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_filters(parser)
    parser.add_argument("--configs", type=Path, default=ROOT / "configs")
    parser.add_argument("--output", type=Path, help="[default: benchmarks/results/overlap-<gpu>.json]")
    arguments = parser.parse_args()
    cells = [cell for cell in chosen_cells(parser, arguments) if not cell.near_ieee]
    if not gpu_present():
        parser.error("no NVIDIA GPU here")
    import torch

    from fusetune.ops.device import gpu_identity
    from fusetune.runtime.configs import ConfigSource

    torch.set_grad_enabled(False)
    if 10 * torch.cuda.get_device_capability()[0] < PDL_CAPABILITY:
        parser.error("kernels are launched early from compute capability 9.0 on")
    source, rows = ConfigSource(arguments.configs), []
    for cell in cells:
        found = source.find(cell.spec_name, cell.problem, gpu_identity(0))
        if found.entry is None:
            print(f"{cell.key}: no entry for this GPU", file=sys.stderr)
            continue
        rows.append(timed(cell, found.config))
        row = rows[-1]
        ratios = ", ".join(f"{way} {row['over_ours'][way]:.3f}" for way in WAYS if way != "ours")
        print(f"{cell.key:<34} {row['config']:<34} {row['ours_us']:9.2f} us; {ratios}", flush=True)
    gpu = torch.cuda.get_device_name(0)
    result = {
        "gpu": gpu,
        "date": date.today().isoformat(),
        "environment": {"torch": str(torch.__version__), "triton": version("triton")},
        "cells": rows,
    }
    output = arguments.output or ROOT / "benchmarks" / "results" / f"overlap-{slugify(gpu)}.json"
    output.write_text(json.dumps(result, indent=1) + "\n")


def timed(cell: Cell, config: Config) -> dict[str, Any]:
    """One cell in every way: medians, and the median ratios within a round."""
    import torch
    from peer_arms import GraphBench, input_bytes, make_bed, sets_for

    sets = sets_for(input_bytes(cell), torch.cuda.get_device_properties(0).L2_cache_size)
    bed = make_bed(cell, "cuda", sets)
    bench = GraphBench(sets)
    launches, scratch = launches_of(bed, config)
    failed = bench.begin({name: call_of(bed, launched(launches, way), scratch) for name, way in WAYS.items()})
    if failed:
        sys.exit(f"{cell.key}: {failed}")
    times = bench.times(ROUNDS, random.Random(cell.key), lambda: None)
    bench.close()
    del bed
    torch.cuda.empty_cache()
    problem = cell.problem
    return {
        "key": cell.key,
        "config": config.label(),
        "kernel_hash": kernel_hash(cell.spec_name, config),
        "y_bytes": problem.M * problem.N * problem.element_bytes,
        "launched_early": [is_early(launch) for launch in launches],
        "ours_us": round(statistics.median(times["ours"]), 3),
        "over_ours": {way: over(times[way], times["ours"]) for way in WAYS if way != "ours"},
    }


def over(times: Sequence[float], others: Sequence[float]) -> float:
    """The median ratio of two ways within a round."""
    return round(statistics.median(one / other for one, other in zip(times, others, strict=True)), 4)


def launches_of(bed: Any, config: Config) -> tuple[Sequence[Any], dict[str, Any]]:
    """The launches of the config as the library makes them, and their scratch."""
    problem, tensors = bed.cell.problem, bed.sets[0]
    scratch = {operand.name: operand.allocate(tensors["x"].device) for operand in bed.spec.workspace(problem, config)}
    return bed.spec.launches(problem, config, {**tensors, **scratch}), scratch


def call_of(bed: Any, launches: Sequence[Any], scratch: dict[str, Any]) -> Callable[[int], Any]:
    """A call of these kernels on a set of inputs."""
    from fusetune.measure.launcher import Launcher

    launchers = [Launcher(launch, bed.sets, scratch) for launch in launches]

    def call(index: int) -> Any:
        for launcher in launchers:
            launcher.launch(index)
        return bed.sets[0]["y"]

    return call


def launched(launches: Sequence[Any], way: tuple[bool, bool] | None) -> list[Any]:
    """The launches in one of WAYS; a library's call as it is."""
    if way is None:
        return list(launches)
    first, later = way
    early = [first, *[later] * (len(launches) - 1)]
    return [
        with_overlap(launch, early=one, triggers=first or later) for launch, one in zip(launches, early, strict=True)
    ]


def with_overlap(launch: Any, *, early: bool, triggers: bool) -> Any:
    """The launch made early or not, and letting the one behind it begin or not."""
    if not isinstance(launch, Launch):
        return launch
    options = {name: value for name, value in launch.options.items() if name != "launch_pdl"}
    if early:
        options["launch_pdl"] = True
    return dataclasses.replace(launch, constants={**launch.constants, "OVERLAPS": triggers}, options=options)


def is_early(launch: Any) -> bool:
    return isinstance(launch, Launch) and "launch_pdl" in launch.options


if __name__ == "__main__":
    main()
