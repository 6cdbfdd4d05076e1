"""Summands of a tile joined by the CTA that is last at it, or by a second kernel: `python benchmarks/joining.py`.

Needs a GPU. JOINED_BYTES in ops/gemm_scale/split.py is chosen by this. In each cell, the configs that the cost model
ranks first are built: those with SPLIT_K > 1 both ways, as if any number of summands were joined and as if none were,
and those that do not split for comparison. First everything is compiled on all cores; then all arms of a cell are timed
in turns in one process, a CUDA graph each, their inputs out of L2. Every arm is held against float64. What spills, is
wrong or does not run is left out and counted. With the filters of `benchmarks/family_sweeps.py`, other cells are timed
than the seven here. Writes OUTPUT/joining-<gpu>.json after every cell.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

from family_sweeps import Cell, add_filters, chosen_cells, first_line, kernel_hash, within
from peers import write_result

from fusetune.compiler.processes import usable_cores
from fusetune.core.target import Target
from fusetune.core.text import slugify
from fusetune.errors import CompileError
from fusetune.measure.nvml import Monitor, gpu_present
from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale import split
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.space import candidates, reject_reason
from fusetune.ops.loading import load_spec

HERE = Path(__file__).resolve().parent
CELLS = (
    Cell(128, 1024, 512, "float32", "gemm_scale"),
    Cell(128, 1024, 512, "float32", "train"),
    Cell(128, 1024, 512, "float32", "eval"),
    Cell(128, 1024, 512, "float16", "gemm_scale"),
    Cell(64, 8192, 1024, "float32", "gemm_scale"),
    Cell(64, 8192, 1024, "float16", "train"),
    Cell(16, 4096, 4096, "float16", "gemm_scale"),
)
Way = Literal["one", "joined", "two"]
"""One kernel of a config that does not split K; one that joins its summands; two kernels."""
WAYS: tuple[Way, ...] = ("one", "joined", "two")
JOIN_ALL, JOIN_NONE = 1 << 30, 0
FIRST_PERSISTENT, FIRST_SPLIT_K, FIRST_WHOLE = 14, 8, 14
"""How many of the cost model's first are taken: persistent ones that split K, split_k, and those that do not split."""
ROUNDS = 9


class Arm(NamedTuple):
    """One way to run a config."""

    config: Config
    way: Way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_filters(parser)
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    arguments = parser.parse_args()
    filtered = arguments.problems or arguments.dtypes or arguments.ops
    cells = chosen_cells(parser, arguments) if filtered else list(CELLS)
    if not gpu_present():
        parser.error("no NVIDIA GPU here")
    # CUDA must not be touched here before the processes that compile are forked.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        target = pool.submit(local_target, 0).result()
    plan = {cell: arms_of(cell.problem, chosen(cell, target), target) for cell in cells}
    began = time.monotonic()
    unfit = compile_all(plan, target)
    print(f"{sum(map(len, plan.values()))} arms compiled in {time.monotonic() - began:.0f} s", flush=True)
    import torch

    torch.set_grad_enabled(False)
    gpu = torch.cuda.get_device_name(0)
    path = arguments.output / f"joining-{slugify(gpu)}.json"
    timed: dict[str, dict[Arm, float]] = {}
    left_out: dict[str, dict[str, int]] = {}
    result: dict[str, Any] = {}
    for cell, arms in plan.items():
        began = time.monotonic()
        reasons = {arm: unfit[cell, arm] for arm in arms if (cell, arm) in unfit}
        timed[cell.key], failed = time_cell(cell, [arm for arm in arms if arm not in reasons])
        left_out[cell.key] = dict(Counter([*reasons.values(), *failed.values()]))
        print(f"{cell.key}: {len(timed[cell.key])} arms in {time.monotonic() - began:.0f} s", flush=True)
        result = {
            "date": f"{date.today():%Y-%m-%d}",
            "gpu": gpu,
            "torch": str(torch.__version__),
            "triton": version("triton"),
            "driver": Monitor(str(torch.cuda.get_device_properties(0).uuid)).driver_version(),
            "kernel_hash": {name: kernel_hash(name) for name in sorted({cell.spec_name for cell in cells})},
            "rounds": ROUNDS,
            "left_out": left_out,
            "summary": summarize(timed),
            "pairs": [row for key, times in timed.items() for row in pairs_of(key, times)],
        }
        write_result(path, result)
    print(table(result))
    print(f"wrote {path}")


# What is timed.


@contextlib.contextmanager
def joined_up_to(limit: int) -> Iterator[None]:
    """Build with another JOINED_BYTES for a while."""
    held = split.JOINED_BYTES
    split.JOINED_BYTES = limit  # type: ignore[misc]
    try:
        yield
    finally:
        split.JOINED_BYTES = held  # type: ignore[misc]


def limit_of(way: Way) -> int:
    return JOIN_NONE if way == "two" else JOIN_ALL


def chosen(cell: Cell, target: Target) -> list[Config]:
    """The configs that the cost model ranks first, as two kernels or joined; each once."""
    problem, found = cell.problem, []
    for limit in (JOIN_NONE, JOIN_ALL):
        with joined_up_to(limit):
            fitting = [
                config
                for config in candidates(load_spec(cell.spec_name).space, "standard")
                if reject_reason(config, problem, target) is None
            ]
            predicted = {config: estimate(config, problem, target).time_us for config in fitting}
            joined = {config for config in fitting if split.joins_summands(config, problem)}
        ranking = sorted(fitting, key=lambda config: predicted[config])
        split_up = [config for config in ranking if config.SPLIT_K > 1 and (config in joined) is (limit == JOIN_ALL)]
        found += [config for config in split_up if config.variant == "persistent"][:FIRST_PERSISTENT]
        found += [config for config in split_up if config.variant == "split_k"][:FIRST_SPLIT_K]
        found += [config for config in ranking if config.SPLIT_K == 1][:FIRST_WHOLE]
    return list(dict.fromkeys(found))


def arms_of(problem: Problem, configs: Sequence[Config], target: Target) -> list[Arm]:
    """Each config in every way that it can run."""
    arms = []
    for config in configs:
        ways: tuple[Way, ...] = ("two", "joined") if config.SPLIT_K > 1 else ("one",)
        for way in ways:
            with joined_up_to(limit_of(way)):
                # In training, a tile that does not hold whole columns takes a second kernel however small it is.
                possible = way != "joined" or split.joins_summands(config, problem)
                if possible and reject_reason(config, problem, target) is None:
                    arms.append(Arm(config, way))
    return arms


def compile_all(plan: Mapping[Cell, Sequence[Arm]], target: Target) -> dict[tuple[Cell, Arm], str]:
    """Fill Triton's cache, in a process a core; tells which arms are left out, and why."""
    jobs = [(cell, arm) for cell, arms in plan.items() for arm in arms]
    with ProcessPoolExecutor(usable_cores(), mp_context=multiprocessing.get_context("fork")) as pool:
        reasons = list(pool.map(compile_arm, jobs, repeat(target), chunksize=4))
    return {job: reason for job, reason in zip(jobs, reasons, strict=True) if reason is not None}


def compile_arm(job: tuple[Cell, Arm], target: Target) -> str | None:
    """In a process of its own; why the arm is left out, or None."""
    from fusetune.compiler.build import compile_config

    cell, arm = job
    try:
        with joined_up_to(limit_of(arm.way)):
            made = compile_config(load_spec(cell.spec_name), cell.problem, arm.config, target)
    except CompileError:
        return "not compiled"
    return "spills" if made.stack_bytes else None


def time_cell(cell: Cell, arms: Sequence[Arm]) -> tuple[dict[Arm, float], dict[Arm, str]]:
    """The median time of each arm in us, and why others have none."""
    import torch
    from peer_arms import GraphBench, input_bytes, make_arm, make_bed, sets_for

    bed = make_bed(cell, "cuda", sets_for(input_bytes(cell), torch.cuda.get_device_properties(0).L2_cache_size))
    bed.refer()
    tolerance = bed.spec.tolerance(cell.problem).frobenius
    named = {f"{arm.config.label()} {arm.way}": arm for arm in arms}
    calls, failed = {}, {}
    for name, arm in named.items():
        try:
            with joined_up_to(limit_of(arm.way)):
                call = make_arm("fusetune", bed, arm.config)
            errors = bed.errors("fusetune", call)
        except Exception as error:  # noqa: BLE001 - an arm that cannot run is counted
            print(f"  {cell.key}: {name} failed: {first_line(error)}", flush=True)
            failed[arm] = "failed"
            torch.cuda.synchronize()  # Raises where the GPU's context is gone, and nothing could be timed.
            continue
        if within(errors.values(), tolerance):
            calls[name] = call
        else:
            print(f"  {cell.key}: {name} is wrong: {errors}", flush=True)
            failed[arm] = "wrong"
    bed.references = {}
    bench = GraphBench(len(bed.sets))
    for name, reason in bench.begin(calls).items():
        print(f"  {cell.key}: {name} {reason}", flush=True)
        failed[named[name]] = "failed"
    times = bench.times(ROUNDS, random.Random(cell.key), lambda: None) if calls else {}
    bench.close()
    del calls, bed, bench
    gc.collect()
    torch.cuda.empty_cache()
    return {named[name]: statistics.median(values) for name, values in times.items()}, failed


# What the times say.


def summand_kib(config: Config) -> int:
    """KiB of float32 summands that one tile has."""
    return 4 * config.SPLIT_K * config.BLOCK_M * config.BLOCK_N // 1024


def pairs_of(key: str, times: Mapping[Arm, float]) -> list[dict[str, Any]]:
    """A row for each config of a cell that was timed both ways, by size; a ratio below 1 is for joining."""
    pairs = [
        (config, us, times[Arm(config, "two")])
        for (config, way), us in times.items()
        if way == "joined" and Arm(config, "two") in times
    ]
    return [
        {
            "cell": key,
            "config": config.label(),
            "kib": summand_kib(config),
            "joined_us": round(joined, 4),
            "two_us": round(two, 4),
            "ratio": round(joined / two, 4),
        }
        for config, joined, two in sorted(pairs, key=lambda pair: (summand_kib(pair[0]), pair[0]))
    ]


def summarize(timed: Mapping[str, Mapping[Arm, float]]) -> dict[str, Any]:
    """Median ratio and number of pairs by the size of a tile's summands, and the fastest of each way by cell."""
    ratios: dict[int, list[float]] = {}
    for key, times in timed.items():
        for row in pairs_of(key, times):
            ratios.setdefault(row["kib"], []).append(row["ratio"])
    return {
        "by_kib": {
            str(kib): {"ratio": round(statistics.median(found), 4), "pairs": len(found)}
            for kib, found in sorted(ratios.items())
        },
        "by_cell": {key: {way: fastest(times, way) for way in WAYS} for key, times in timed.items()},
    }


def fastest(times: Mapping[Arm, float], way: Way) -> dict[str, Any] | None:
    """The best of one way, whether or not its config was timed in another; None where nothing runs so."""
    best = min((arm for arm in times if arm.way == way), key=lambda arm: times[arm], default=None)
    return None if best is None else {"config": best.config.label(), "us": round(times[best], 4)}


def table(result: Mapping[str, Any]) -> str:
    lines = [f"{result['gpu']}, {result['date']}: one kernel that joins summands over two kernels"]
    lines.append(f"{'KiB a tile':>10} {'median':>7} {'pairs':>6}")
    for kib, found in result["summary"]["by_kib"].items():
        lines.append(f"{kib:>10} {found['ratio']:>7.3f} {found['pairs']:>6}")
    lines.append(f"{'best, in us':<34} {'no split':>9} {'joined':>9} {'two':>9}  left out")
    for key, bests in result["summary"]["by_cell"].items():
        times = " ".join(f"{bests[way]['us']:>9.3f}" if bests[way] else f"{'-':>9}" for way in WAYS)
        out = ", ".join(f"{count} {reason}" for reason, count in result["left_out"][key].items())
        lines.append(f"{key:<34} {times}  {out or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
