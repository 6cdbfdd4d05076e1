"""Ten sweeps of one problem, each from scratch: whether the verdict is one, and the winners are of one speed.

`python benchmarks/repeat.py` needs a GPU. Afterwards all winners are timed in turns, in random order. Writes
benchmarks/results/repeat-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import date
from pathlib import Path

from msgspec import to_builtins

from fusetune.core.text import slugify
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import Failure
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.store.yaml_files import read_config_file

ROOT = Path(__file__).resolve().parent.parent
PROBLEM = make_problem(128, 512, 1024, "float32")
TIMINGS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=10)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    rows = [sweep(seed) for seed in range(arguments.sweeps)]
    winners = sorted({row["entry"].config for row in rows})
    with closing(CudaMeasurer(SPEC, PROBLEM)) as measurer:
        facts = measurer.facts()
        measurer.prepare(99)
        measurer.warm_up()
        times = {config: [] for config in [BASELINE, *winners]}
        order = list(times)
        for _ in range(TIMINGS):
            random.Random(len(times[BASELINE])).shuffle(order)
            for config in order:
                time_us = measurer.sample(config)
                if isinstance(time_us, Failure):
                    sys.exit(f"{config.label()} failed: {time_us.detail}")
                times[config].append(time_us)
    medians = {config: statistics.median(values) for config, values in times.items()}
    best = min(medians.values())
    verdicts = sorted({row["entry"].verdict for row in rows})
    worst = max(medians[config] for config in winners) / best
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": facts.identity.name,
        "environment": to_builtins(facts.environment),
        "problem": PROBLEM.describe(),
        "verdicts": verdicts,
        "worst_over_best": round(worst, 4),
        "winners": {config.label(): round(medians[config], 4) for config in winners},
        "baseline_us": round(medians[BASELINE], 3),
        "sweeps": [
            {
                "winner": row["entry"].config.label(),
                "gain": row["entry"].gain.median,
                "seconds": row["seconds"],
                "verdict": row["entry"].verdict,
            }
            for row in rows
        ],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"repeat-{slugify(facts.identity.name)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(rows)} sweeps: verdicts {verdicts}, {len(winners)} winners, worst over best {worst:.4f}; wrote {path}")


def sweep(seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        sizes = ["--M", str(PROBLEM.M), "--K", str(PROBLEM.K), "--N", str(PROBLEM.N), "--seed", str(seed)]
        command = [sys.executable, "-m", "fusetune", "sweep", *sizes, "--fresh", "--output", folder, "--runs", folder]
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, check=False, text=True, capture_output=True)
        seconds = time.monotonic() - began
        files = list(Path(folder).glob("*/gemm_scale.yaml"))
        if not files:
            sys.exit(f"the sweep with seed {seed} ended with {done.returncode}:\n{done.stderr}")
        (entry,) = read_config_file(files[0]).entries
    print(
        f"seed {seed}: {entry.verdict} {entry.config.label()}, gain {entry.gain.median:+.2%}, {seconds:.1f} s",
        flush=True,
    )
    return {"entry": entry, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
