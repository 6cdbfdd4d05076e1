"""The same 200 configs tuned by @triton.autotune and by fusetune, both cold.

`python benchmarks/tuning_time.py` needs a GPU.

fusetune's time is that of the whole command, process start, checks, A/A, confirmation and revalidation included;
autotune's begins with torch loaded. Both start with an empty Triton cache. Then both winners are timed in turns. Writes
benchmarks/results/tuning_time-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from tuning_space import PROBLEM, listed

from fusetune.core.config import Config
from fusetune.core.decision import KeepRule
from fusetune.core.target import slugify
from fusetune.kernels.gemm_scale import SPEC
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.paired import compare
from fusetune.measure.protocol import Failure
from fusetune.store.journal import PhaseTime, RunEnd, read_journal

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--autotune-only", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.autotune_only:
        arguments.autotune_only.write_text(json.dumps(autotune()))
        return
    ours, phases, fusetune_s = with_fusetune()
    theirs, autotune_s = with_autotune()
    with closing(CudaMeasurer(SPEC, PROBLEM)) as measurer:
        facts = measurer.facts()
        measurer.prepare(7)
        rule = KeepRule(looks=(200,))
        pair = compare(measurer, theirs, ours, rule, comparisons=1, rng=random.Random(0), on_block=lambda _: None)
    if isinstance(pair, Failure):
        sys.exit(f"the winners could not be compared: {pair.reason}, {pair.detail}")
    result: dict[str, Any] = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": facts.identity.name,
        "environment": to_builtins(facts.environment),
        "cores": len(os.sched_getaffinity(0)),
        "problem": PROBLEM.describe(),
        "configs": len(listed()),
        "fusetune_s": round(fusetune_s, 2),
        "autotune_s": round(autotune_s, 2),
        "ratio": round(fusetune_s / autotune_s, 3),
        "phases_s": phases,
        "fusetune_winner": ours.label(),
        "autotune_winner": theirs.label(),
        "gain_over_autotune": to_builtins(pair.gain),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"tuning_time-{slugify(facts.identity.name)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("fusetune_s", "autotune_s", "ratio", "phases_s")}))
    print(f"winners: {ours.label()} and autotune's {theirs.label()}; gain over it {pair.gain.median:+.2%}")
    print(f"wrote {path}")


def with_fusetune() -> tuple[Config, dict[str, float], float]:
    """The winner, seconds by phase, and seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = ["--M", str(PROBLEM.M), "--K", str(PROBLEM.K), "--N", str(PROBLEM.N)]
        command = [sys.executable, "-m", "fusetune", "sweep", *sizes, "--op", "tuning_space:SPEC", "--space", "full"]
        paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{folder}/cache", "PYTHONPATH": os.pathsep.join(paths)}
        began = time.monotonic()
        subprocess.run(
            [*command, "--output", f"{folder}/configs", "--runs", f"{folder}/runs"], check=True, env=environment
        )
        seconds = time.monotonic() - began
        (journal,) = Path(folder, "runs").glob("*.jsonl")
        records = list(read_journal(journal))
    phases: dict[str, float] = {}
    for record in records:
        if isinstance(record, PhaseTime):
            phases[record.name] = round(phases.get(record.name, 0.0) + record.seconds, 2)
    end = records[-1]
    assert isinstance(end, RunEnd)
    assert end.entry is not None
    return end.entry.config, phases, seconds


def with_autotune() -> tuple[Config, float]:
    """The winner of @triton.autotune and its seconds, in a process of its own with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{folder}/cache"}
        command = [sys.executable, __file__, "--autotune-only", str(answer)]
        subprocess.run(command, check=True, env=environment)
        found = json.loads(answer.read_text())
    return Config(**found["config"]), found["seconds"]


def autotune() -> dict[str, Any]:
    import torch
    import triton

    from fusetune.kernels.gemm_scale import gemm_scale_tiled

    configs = [
        triton.Config(
            {name: getattr(config, name) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        for config in listed()
    ]
    even_k = triton.heuristics({"EVEN_K": lambda arguments: arguments["K"] % arguments["BLOCK_K"] == 0})
    tuned = triton.autotune(configs=configs, key=["M", "N", "K"])(even_k(gemm_scale_tiled))
    M, N, K = PROBLEM.M, PROBLEM.N, PROBLEM.K
    x, w = torch.randn(M, K, device="cuda"), torch.randn(N, K, device="cuda")
    bias, scale = torch.randn(2, N, device="cuda")
    y = torch.empty(M, N, device="cuda")
    torch.cuda.synchronize()
    began = time.monotonic()

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)

    tuned[grid](x, w, bias, scale, y, M, N, K, K, 1, K, 1, PRECISION="tf32")
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    best = tuned.best_config
    config = {**best.kwargs, "num_warps": best.num_warps, "num_stages": best.num_stages}
    return {"config": config, "seconds": seconds}


if __name__ == "__main__":
    main()
