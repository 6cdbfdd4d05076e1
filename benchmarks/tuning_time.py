"""The same 200 configs tuned by @triton.autotune and by fusetune, both cold.

`python benchmarks/tuning_time.py` needs a GPU.

fusetune's time is that of the whole command, process start, checks, A/A, confirmation and revalidation included, and is
taken with `--prior on` and `--prior off`. autotune's is told twice: that of its whole process (`autotune_process_s`, of
which `ratio` is made), and that of its call alone, with torch loaded and the inputs there (`autotune_s`,
`ratio_to_call`). All start with an empty Triton cache, and after one untimed sweep, so that nobody pays
for reading torch's files from the disk first. Then the winners are timed in turns. Writes
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
from typing import Any, NamedTuple

from msgspec import to_builtins
from tuning_space import PROBLEM, listed

from fusetune.core.decision import Gain, KeepRule
from fusetune.core.text import slugify
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.paired import compare
from fusetune.measure.protocol import Failure
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.store.journal import Candidate, PhaseTime, RunEnd, read_journal

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--autotune-only", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.autotune_only:
        arguments.autotune_only.write_text(json.dumps(autotune()))
        return
    with_fusetune("on")
    runs = {prior: with_fusetune(prior) for prior in ("on", "off")}
    theirs, autotune_s, autotune_process_s = with_autotune()
    with closing(CudaMeasurer(SPEC, PROBLEM)) as measurer:
        facts = measurer.facts()
        measurer.prepare(7)
        told = {}
        for prior, run in runs.items():
            told[prior] = {
                **run.told,
                "ratio": round(run.seconds / autotune_process_s, 3),
                "ratio_to_call": round(run.seconds / autotune_s, 3),
                "gain_over_autotune": to_builtins(gain_over(measurer, theirs, run.winner)),
            }
    result: dict[str, Any] = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": facts.identity.name,
        "environment": to_builtins(facts.environment),
        "cores": len(os.sched_getaffinity(0)),
        "problem": PROBLEM.describe(),
        "configs": len(listed()),
        "autotune_s": round(autotune_s, 2),
        "autotune_process_s": round(autotune_process_s, 2),
        "autotune_winner": theirs.label(),
        **told["on"],
        "prior_off": told["off"],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"tuning_time-{slugify(facts.identity.name)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"autotune {autotune_process_s:.2f} s ({autotune_s:.2f} s its call), winner {theirs.label()}")
    for prior, row in told.items():
        print(
            f"--prior {prior}: {row['fusetune_s']:.2f} s, {row['compiled']} compiled, {row['skipped']} skipped, winner "
            f"{row['fusetune_winner']}, gain over autotune's {row['gain_over_autotune']['median']:+.2%}"
        )
        print(f"  {row['phases_s']}")
    print(f"wrote {path}")


class Run(NamedTuple):
    """One sweep: its winner, the seconds of the whole command, and what the result file tells of it."""

    winner: Config
    seconds: float
    told: dict[str, Any]


def with_fusetune(prior: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        sizes = ["--M", str(PROBLEM.M), "--K", str(PROBLEM.K), "--N", str(PROBLEM.N)]
        command = [sys.executable, "-m", "fusetune", "sweep", *sizes, "--op", "tuning_space:SPEC", "--space", "full"]
        command += ["--prior", prior, "--output", f"{folder}/configs", "--runs", f"{folder}/runs"]
        paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{folder}/cache", "PYTHONPATH": os.pathsep.join(paths)}
        began = time.time()
        process = subprocess.Popen(command, env=environment)
        # The journal appears just before the first phase, and its last line comes just after the last.
        while not (journals := list(Path(folder, "runs").glob("*.jsonl"))) and process.poll() is None:
            time.sleep(0.005)
        first_phase = time.time()
        if process.wait() != 0:
            sys.exit(f"the sweep with --prior {prior} ended with {process.returncode}")
        ended = time.time()
        last_line = journals[0].stat().st_mtime
        records = list(read_journal(journals[0]))
    phases = {"before the first": round(first_phase - began, 2)}
    for record in records:
        # What lies within another phase is part of that one's time.
        if isinstance(record, PhaseTime):
            name = record.name if record.within is None else f"{record.name}, within {record.within}"
            phases[name] = round(phases.get(name, 0.0) + record.seconds, 2)
    phases["after the last"] = round(ended - last_line, 2)
    candidates = [record for record in records if isinstance(record, Candidate)]
    end = records[-1]
    assert isinstance(end, RunEnd)
    assert end.entry is not None
    told = {
        "fusetune_s": round(ended - began, 2),
        "phases_s": phases,
        "compiled": len({record.id for record in candidates if record.resources}),
        "skipped": sum(record.status == "skipped" for record in candidates),
        "fusetune_winner": end.entry.config.label(),
    }
    return Run(end.entry.config, ended - began, told)


def gain_over(measurer: CudaMeasurer, theirs: Config, ours: Config) -> Gain:
    rule = KeepRule(looks=(200,))
    pair = compare(measurer, theirs, ours, rule, comparisons=1, rng=random.Random(0), on_block=lambda _: None)
    if isinstance(pair, Failure):
        sys.exit(f"the winners could not be compared: {pair.reason}, {pair.detail}")
    return pair.gain


def with_autotune() -> tuple[Config, float, float]:
    """The winner of @triton.autotune, the seconds of its call and of its whole process, with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{folder}/cache"}
        command = [sys.executable, __file__, "--autotune-only", str(answer)]
        began = time.monotonic()
        subprocess.run(command, check=True, env=environment)
        seconds = time.monotonic() - began
        found = json.loads(answer.read_text())
    return Config(**found["config"]), found["seconds"], seconds


def autotune() -> dict[str, Any]:
    import torch
    import triton

    from fusetune.ops.gemm_scale.launches import gemm_launches

    assert {config.variant for config in listed()} == {"tiled"}, "autotune is given one kernel"
    M, N, K = PROBLEM.M, PROBLEM.N, PROBLEM.K
    tensors = {
        "x": torch.randn(M, K, device="cuda"),
        "weight": torch.randn(N, K, device="cuda"),
        "bias": torch.randn(N, device="cuda"),
        "scale": torch.randn(N, device="cuda"),
        "y": torch.empty(M, N, device="cuda"),
    }
    (launch,) = gemm_launches(PROBLEM, Config(), tensors, "scale")
    tile = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")
    configs = [
        triton.Config(
            {name: getattr(config, name) for name in tile},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        for config in listed()
    ]
    even = {
        "EVEN_K": lambda arguments: K % arguments["BLOCK_K"] == 0,
        "EVEN_MN": lambda arguments: M % arguments["BLOCK_M"] == 0 and N % arguments["BLOCK_N"] == 0,
    }
    constants = {name: value for name, value in launch.constants.items() if name not in {*tile, *even}}
    tuned = triton.autotune(configs=configs, key=["M", "N", "K"])(triton.heuristics(even)(launch.kernel))
    torch.cuda.synchronize()
    began = time.monotonic()

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)

    tuned[grid](**launch.arguments, **constants)
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    best = tuned.best_config
    config = {**best.kwargs, "num_warps": best.num_warps, "num_stages": best.num_stages}
    return {"config": config, "seconds": seconds}


if __name__ == "__main__":
    main()
