"""Ours against PyTorch, torch.compile, cuBLAS alone and @triton.autotune, in turns: `python benchmarks/peers.py`.

Every cell (problem, type, op) is one comparison within one process: a CUDA graph of each arm, its inputs walked through
so that they have left L2, replayed once a round in random order. Every arm's result is held against float64. Ours is
the config that a call would look up in configs/. First everything is compiled, several processes at once; then cells
are timed with nothing beside them. Writes benchmarks/results/peers-<gpu>.json after every cell; with --merge, cells
are put into what is there, so that it can be run in pieces. What torch.compile's max-autotune mode and @triton.autotune
find differs from run to run, by two to three times for kernels of a few microseconds; with --strongest, a cell of the
same config and kernels keeps that run in which the fastest peer did best against ours.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from family_sweeps import ROOT, Cell, add_filters, chosen_cells, first_line, kernel_hash, listed

from fusetune.core.stats import median_interval
from fusetune.core.text import slugify
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.store.lookup import Lookup

COMPILED = ("compile", "max-autotune")
OURS = ("fusetune", "baseline")
ON_REQUEST = ("triton-autotune", "seed")
SEED_SIZES = ("128x1024x512", "1024x8192x8192")
FLOORS = ("cublas", "cublas-ieee")
"""The product and the bias alone: what no fused op is expected to beat."""
CONFIDENCE = 0.95
SLOWER = 1.01
COMPILE_LIMIT_S = 420.0


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_filters(parser)
    parser.add_argument("--skip", type=listed, default=[], metavar="ARM,...", help="arms to leave out")
    parser.add_argument("--with", dest="extra", type=listed, default=[], help=f"also some of {','.join(ON_REQUEST)}")
    parser.add_argument("--rounds", type=int, help="of every cell, instead of what arm_times.py says")
    parser.add_argument("--output", type=Path, help="[default: benchmarks/results/peers-<gpu>.json]")
    parser.add_argument("--merge", action="store_true", help="put cells into the output that is there")
    parser.add_argument(
        "--strongest", action="store_true", help="keep the run with the strongest peer; implies --merge"
    )
    parser.add_argument("--missing", action="store_true", help="only cells that the output lacks; implies --merge")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop cleanly between cells by then")
    parser.add_argument("--pass", dest="passes", choices=["both", "compile", "time"], default="both")
    parser.add_argument("--workers", type=int, help="processes that compile  [default: one for four cores]")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fusetune-peers")
    parser.add_argument("--list", action="store_true", help="print the cells and the arms of each, and end")
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)  # on the CPU: every path but the graphs
    arguments = parser.parse_args()
    cells = chosen_cells(parser, arguments)
    unknown = set(arguments.extra) - set(ON_REQUEST)
    if unknown:
        parser.error(f"--with {','.join(sorted(unknown))}: use some of {', '.join(ON_REQUEST)}")
    if arguments.list:
        for cell in cells:
            print(f"{cell.key:<36} {' '.join(arms_of(cell, arguments.extra, arguments.skip))}")
        return 0
    # Cores are left free: who tunes launches kernels of microseconds, and times gaps where it waits for a core.
    workers = arguments.workers or max(1, _cores() // 4)
    set_caches(arguments.cache, max(2, _cores() // (2 * workers)))
    deadline = began + (arguments.time_limit or math.inf)
    return Run(arguments, cells, workers, deadline).run()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def set_caches(cache: Path, threads: int) -> None:
    """One place for what all processes compile. Must come before torch is loaded; children inherit it."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    # Triton's own default, where the sweeps' kernels are already; torch.compile would set another one.
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))


def arms_of(cell: Cell, extra: Sequence[str], skip: Sequence[str]) -> list[str]:
    """The arms of a cell, ours first."""
    arms = [*OURS, "eager", *COMPILED]
    if cell.op == "gemm_scale":
        arms.append("cublas-ieee" if cell.near_ieee else "cublas")
        arms += ["triton-autotune"] if "triton-autotune" in extra else []
        arms += ["seed"] if "seed" in extra and cell.size in SEED_SIZES and not cell.near_ieee else []
    return [arm for arm in arms if arm not in skip]


class Run:
    """One invocation: the pass that compiles, the pass that times, and the file that both lead to."""

    def __init__(self, arguments: argparse.Namespace, cells: Sequence[Cell], workers: int, deadline: float) -> None:
        import torch

        from fusetune.runtime.configs import ConfigSource

        torch.set_grad_enabled(False)
        self.arguments, self.workers, self.deadline = arguments, workers, deadline
        self.device = "cpu" if arguments.dry else "cuda"
        if not arguments.dry and not torch.cuda.is_available():
            sys.exit("no CUDA GPU here")
        self.gpu = "dry" if arguments.dry else torch.cuda.get_device_name(0)
        results = ROOT / "benchmarks" / "results"
        self.output: Path = arguments.output or results / f"peers-{slugify(self.gpu)}.json"
        merges = arguments.merge or arguments.missing or arguments.strongest
        self.old = read_result(self.output) if merges else {}
        self.marks = arguments.cache / f"compiled-torch-{version('torch')}-triton-{version('triton')}"
        self.source = ConfigSource(arguments.configs)
        self.lookups = {cell: self.look_up(cell) for cell in cells}
        self.cells = [cell for cell in cells if not (arguments.missing and self.held(cell))]

    def run(self) -> int:
        arguments = self.arguments
        if arguments.passes != "time":
            self.compile_all()
        if arguments.passes == "compile":
            return 0
        from arm_times import gpu_survives

        piece = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **self.environment()}
        rows: list[dict[str, Any]] = []
        left: list[str] = []
        longest = 5.0
        for cell in self.cells:
            arms = self.arms(cell)
            uncompiled = [arm for arm in arms if arm in COMPILED and self.mark(cell, arm) is None]
            if uncompiled:
                left.append(f"{cell.key}: {', '.join(uncompiled)} not compiled yet")
                continue
            began = time.monotonic()
            if began + longest > self.deadline:
                left.append(f"{cell.key}: no time")
                continue
            try:
                row = self.time_cell(cell, arms)
            except Exception as error:  # noqa: BLE001 - one cell must not cost the others, unless the GPU is gone
                traceback.print_exc()
                left.append(f"{cell.key}: {first_line(error)}")
                if not gpu_survives(self.device):
                    break
                continue
            longest = max(longest, time.monotonic() - began)
            rows.append({**row, "date": piece["date"], "seconds": round(time.monotonic() - began, 2)})
            print(table_line(row), flush=True)
            write_result(self.output, merged(self.old, self.gpu, piece, rows, strongest=arguments.strongest))
        result = merged(self.old, self.gpu, piece, rows, strongest=arguments.strongest)
        print(summary_text(result["summary"]))
        for line in left:
            print(f"left: {line}")
        print(f"{len(rows)} cells timed, {len(left)} left; {self.output}")
        return 0 if not left else 3

    def arms(self, cell: Cell) -> list[str]:
        return arms_of(cell, self.arguments.extra, self.arguments.skip)

    def held(self, cell: Cell) -> bool:
        """Whether the file has this cell, with our config and kernels as they are, and with every arm."""
        row = {row["key"]: row for row in self.old.get("cells", [])}.get(cell.key)
        if row is None:
            return False
        same = row["config"] == self.lookups[cell].config.label()
        same = same and row["kernel_hash"] == kernel_hash(cell.spec_name, self.lookups[cell].config)
        return same and set(self.arms(cell)) <= {*row["us"], *row["failed"]}

    def look_up(self, cell: Cell) -> Lookup:
        from fusetune.ops.device import gpu_identity

        if self.arguments.dry:
            return Lookup(BASELINE, "baseline")
        return self.source.find(cell.spec_name, cell.problem, gpu_identity(0))

    def environment(self) -> dict[str, Any]:
        import torch

        driver = None if self.arguments.dry else self.monitor().driver_version()
        return {
            "gpu": self.gpu,
            "torch": str(torch.__version__),
            "triton": version("triton"),
            "cuda": torch.version.cuda,
            "driver": driver,
            "python": sys.version.split()[0],
            "cores": _cores(),
        }

    def monitor(self) -> Any:
        import torch

        from fusetune.measure.nvml import Monitor

        uuid = "" if self.arguments.dry else str(torch.cuda.get_device_properties(0).uuid)
        return Monitor(uuid)

    # The pass that compiles.

    def mark(self, cell: Cell, arm: str) -> dict[str, Any] | None:
        """What came of compiling an arm: seconds, and the error if it failed; None where that is still to be done."""
        path = mark_path(self.marks, cell, arm)
        return json.loads(path.read_text()) if path.exists() else None

    def compile_all(self) -> None:
        """Cells of one problem and type go together, since their products are tuned once; the largest go first."""
        from multiprocessing import get_context

        from pebble import ProcessPool

        groups: dict[tuple[str, bool, str], list[Cell]] = {}
        for cell in self.cells:
            wanted = [arm for arm in self.arms(cell) if arm in COMPILED]
            if any(self.mark(cell, arm) is None for arm in wanted):
                kind = "float32" if cell.near_ieee else cell.kind
                groups.setdefault((cell.size, cell.near_ieee, kind), []).append(cell)
        if not groups:
            return
        limit = self.deadline - time.monotonic()
        # What is left of the time is for timing what was compiled.
        until = math.inf
        if math.isfinite(limit):
            share = 0.95 if self.arguments.passes == "compile" else 0.6
            until = time.monotonic() + max(share * limit, limit - 5.0 * len(self.cells))
        began = time.monotonic()
        in_order = sorted(groups.values(), key=lambda group: -group[0].M * group[0].K * group[0].N)
        print(f"compiling {len(in_order)} groups of cells in {self.workers} processes", flush=True)
        with ProcessPool(max_workers=self.workers, context=get_context("spawn")) as pool:
            futures = {
                pool.schedule(
                    compile_group,
                    args=[
                        [(cell, self.arms(cell), self.lookups[cell].config) for cell in group],
                        self.marks,
                        self.device,
                    ],
                    timeout=COMPILE_LIMIT_S,
                ): group
                for group in in_order
            }
            waiting = set(futures)
            while waiting:
                for future in [future for future in waiting if future.done()]:
                    waiting.discard(future)
                    group = futures[future]
                    label = f"{group[0].size} {group[0].kind}"
                    error = future.exception()
                    said = first_line(error) if error else future.result()
                    print(f"  {time.monotonic() - began:5.0f} s  {label}: {said}", flush=True)
                if time.monotonic() > until:
                    print(f"  out of time; {len(waiting)} groups are left to another run", flush=True)
                    pool.stop()
                    break
                time.sleep(0.05)

    # The pass that times.

    def time_cell(self, cell: Cell, arms: Sequence[str]) -> dict[str, Any]:
        from arm_times import time_arms
        from peer_arms import make_arm

        lookup = self.lookups[cell]
        marks = {arm: self.mark(cell, arm) for arm in arms if arm in COMPILED}
        timed = time_arms(
            cell,
            {arm: lambda bed, arm=arm: make_arm(arm, bed, lookup.config) for arm in arms},
            ours=OURS,
            failed={arm: mark["error"] for arm, mark in marks.items() if mark and mark["error"]},
            device=self.device,
            rounds=self.arguments.rounds,
            monitor=self.monitor(),
        )
        return make_row(cell, lookup, timed.times, timed.errors, timed.failed) | timed.facts


def mark_path(marks: Path, cell: Cell, arm: str) -> Path:
    # bf16x3 and tf32x3 are ours; the peers compute both alike.
    kind = "ieee" if cell.near_ieee else cell.kind
    return marks / f"{cell.size}-{kind}-{cell.op}-{arm}.json"


def compile_group(work: Sequence[tuple[Cell, Sequence[str], Any]], marks: Path, device: str) -> str:
    """In a process of its own: build and run every arm once, so that the caches hold what it compiles."""
    import torch
    from peer_arms import make_arm, make_bed, tune_alone

    torch.set_grad_enabled(False)
    alone = tune_alone()
    marks.mkdir(parents=True, exist_ok=True)
    said = []
    for cell, arms, config in work:
        bed = make_bed(cell, device, 1, dry=device == "cpu")
        torch._dynamo.reset()
        for arm in arms:
            path = mark_path(marks, cell, arm)
            if arm in {"eager", *FLOORS} or (arm in COMPILED and path.exists()):
                continue
            began, error = time.monotonic(), None
            try:
                make_arm(arm, bed, config)(0)
                if device == "cuda":
                    torch.cuda.synchronize()
            except Exception as raised:  # noqa: BLE001 - it is told when the arm is timed
                error = first_line(raised)
            seconds = round(time.monotonic() - began, 1)
            said.append(f"{cell.op} {arm} {error or f'{seconds} s'}")
            if arm in COMPILED:
                write_atomically(path, json.dumps({"seconds": seconds, "error": error, "tuned_alone": alone}))
        del bed
    return "; ".join(said)


# What the times say.


def make_row(
    cell: Cell,
    lookup: Lookup,
    times: Mapping[str, Sequence[float]],
    errors: Mapping[str, Mapping[str, float]],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """A cell's row: medians, and for each peer the median of ours over it within the rounds, with its interval."""
    problem = cell.problem
    return {
        "key": cell.key,
        "M": cell.M,
        "K": cell.K,
        "N": cell.N,
        "dtype": problem.dtype,
        "precision": problem.precision,
        "op": cell.op,
        "peers_precision": "ieee" if cell.near_ieee else problem.precision,
        "kernel_hash": kernel_hash(cell.spec_name, lookup.config),
        "config": lookup.config.label(),
        "config_from": lookup.rung,
        "config_run": lookup.entry.run if lookup.entry else None,
        "us": {arm: round(statistics.median(values), 4) for arm, values in times.items()},
        "ours_over": ours_over(times),
        "errors": {arm: {name: _short(value) for name, value in by.items()} for arm, by in errors.items()},
        "failed": dict(failed),
    }


def ours_over(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float | None]]:
    """For each other arm the median of ours over it within the rounds, with its interval."""
    ours = times.get("fusetune", ())
    ratios = {}
    for arm, theirs in times.items():
        if ours and arm != "fusetune":
            paired = [mine / other for mine, other in zip(ours, theirs, strict=True)]
            interval = median_interval(paired, CONFIDENCE)
            ends = {"median": interval.median, "low": interval.low, "high": interval.high}
            ratios[arm] = {name: round(end, 5) if math.isfinite(end) else None for name, end in ends.items()}
    return ratios


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None  # JSON has no NaN


def best_peer(row: Mapping[str, Any], among: Iterable[str]) -> str | None:
    """The fastest of some arms in this cell."""
    timed = [arm for arm in among if arm in row["us"] and arm in row["ours_over"]]
    return min(timed, key=lambda arm: row["us"][arm], default=None)


PEERS = ("eager", *COMPILED, "triton-autotune")


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric means of ours over the peers, and the cells where ours is behind; TF32 and 16 bit apart from the rest.

    float32 in three products is compared with peers that multiply in full float32, which is another question.
    """
    alike = [row for row in rows if row["peers_precision"] == row["precision"]]
    return {
        "same_precision": _summary_of(alike),
        "against_ieee": _summary_of([row for row in rows if row["peers_precision"] != row["precision"]]),
        "by_op": {
            op: _means_of([row for row in alike if row["op"] == op]) for op in dict.fromkeys(r["op"] for r in alike)
        },
    }


def _summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = {row["key"]: _over(row, PEERS) for row in rows}
    known = {key: ratio for key, ratio in best.items() if ratio is not None}
    worst = max(known, key=lambda key: known[key], default=None)
    slower = sorted((key for key, ratio in known.items() if ratio > SLOWER), key=lambda key: -known[key])
    return {
        "cells": len(rows),
        **_means_of(rows),
        "worst": None if worst is None else {"key": worst, "over_best_peer": known[worst]},
        "above_1.01": {key: known[key] for key in slower},
        "without_entry": [row["key"] for row in rows if row["config_from"] == "baseline"],
        "failed": {row["key"]: row["failed"] for row in rows if row["failed"]},
    }


def _means_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "over_eager": _mean(_over(row, ("eager",)) for row in rows),
        "over_max_autotune": _mean(_over(row, ("max-autotune",)) for row in rows),
        "over_best_compile": _mean(_over(row, COMPILED) for row in rows),
        "over_best_peer": _mean(_over(row, PEERS) for row in rows),
        "over_cublas_alone": _mean(_over(row, FLOORS) for row in rows),
        "over_baseline": _mean(_over(row, ("baseline",)) for row in rows),
    }


def _over(row: Mapping[str, Any], arms: Iterable[str]) -> float | None:
    best = best_peer(row, arms)
    return None if best is None else row["ours_over"][best]["median"]


def _mean(ratios: Iterable[float | None]) -> float | None:
    known = [ratio for ratio in ratios if ratio is not None]
    return round(statistics.geometric_mean(known), 4) if known else None


def merged(
    old: Mapping[str, Any],
    gpu: str,
    piece: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    strongest: bool = False,
) -> dict[str, Any]:
    """New rows in place of old ones of the same cell, in the family's order; a piece without a row left is dropped.

    `strongest`: an old row stays where it is of the same config and kernels, and its fastest peer did better against
    ours. Raises ValueError where the old result is of another GPU.
    """
    if old and old["gpu"] != gpu:
        raise ValueError(f"the result there is of {old['gpu']}, not of {gpu}; name another --output")
    cells = {row["key"]: dict(row) for row in old.get("cells", [])}
    for row in rows:
        held = cells.get(row["key"])
        if not (strongest and held and _peer_did_better(held, row)):
            cells[row["key"]] = dict(row)
    in_order = sorted(cells.values(), key=lambda row: (row["M"] * row["K"] * row["N"], row["key"]))
    dates = {row["date"] for row in in_order}
    pieces = {one["date"]: one for one in [*old.get("pieces", []), piece] if one["date"] in dates}
    return {"gpu": gpu, "pieces": list(pieces.values()), "summary": summarize(in_order), "cells": in_order}


def _peer_did_better(held: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether the held row is of the same config and kernels as the other one, and ours did worse there."""
    if (held["config"], held["kernel_hash"]) != (row["config"], row["kernel_hash"]):
        return False
    theirs, ours = _over(held, PEERS), _over(row, PEERS)
    return theirs is not None and (ours is None or theirs > ours)


def read_result(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def table_line(row: Mapping[str, Any]) -> str:
    times = "  ".join(f"{arm} {us:.4g}" for arm, us in row["us"].items())
    best = best_peer(row, PEERS)
    ratio = f"{row['ours_over'][best]['median']:.3f} of {best}" if best else "no peer"
    note = "" if row["config_from"] == "exact" else f"  [{row['config_from']}: no entry]"
    failed = f"  FAILED {', '.join(row['failed'])}" if row["failed"] else ""
    return f"{row['key']:<34} {ratio:<22} {times}  ({row['config']}){note}{failed}"


def summary_text(summary: Mapping[str, Any]) -> str:
    lines = []
    for name in ("same_precision", "against_ieee"):
        part = summary[name]
        if not part["cells"]:
            continue
        means = ", ".join(f"{key[5:]} {part[key]}" for key in _means_of([]) if part[key] is not None)
        lines.append(f"{name.replace('_', ' ')}: {part['cells']} cells, geometric means of ours over {means}")
        if part["worst"]:
            lines.append(f"  worst: {part['worst']['key']} {part['worst']['over_best_peer']:.3f} of the best peer")
        lines += [f"  above {SLOWER}: {key} {ratio:.3f}" for key, ratio in part["above_1.01"].items()]
        lines += [f"  no entry, BASELINE: {key}" for key in part["without_entry"]]
        lines += [f"  failed: {key} {arms}" for key, arms in part["failed"].items()]
    for op, means in summary["by_op"].items():
        lines.append(f"{op}: best peer {means['over_best_peer']}, max-autotune {means['over_max_autotune']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
