"""How long a program takes until its first result, as it is and under `fusetune run`, which times nothing.

`python benchmarks/start_up.py` needs a GPU. It tunes `starting.py` once, and starts it in turns:

- `python` and `fusetune run`, each cold (Triton's cache is empty) and warm (it holds what that arm compiled before);
- from the start of the process to the first result (`ready_s`) and to its end (`whole_s`), after one untimed start, so
  that nobody pays for reading torch's files from the disk first.

`launch_us` is the host's time of one launch of a small problem, look-up and all. A run under `fusetune run` in which an
autotuner timed, or no launch took an entry, is an error. Writes benchmarks/results/start_up-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusetune.core.text import slugify
from fusetune.measure.nvml import gpu_present

HERE = Path(__file__).resolve().parent
PROGRAM: Final = HERE / "starting.py"
ARMS: Final = ("python", "fusetune run")


class Started(NamedTuple):
    """One start: seconds until the first result and until the end, and microseconds of a launch."""

    ready_s: float
    whole_s: float
    launch_us: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--listed", type=int, default=12, help="Configs of the list, of 96.  [default: 12]")
    parser.add_argument("--repeats", type=int, default=5, help="Starts of each kind.  [default: 5]")
    parser.add_argument("--configs", type=Path, help="Use these instead of tuning.")
    arguments = parser.parse_args()
    if not gpu_present():
        sys.exit("there is no NVIDIA GPU here: nothing can be started, and nothing is written")
    with tempfile.TemporaryDirectory(prefix="start-up-") as name:
        folder = Path(name)
        configs = arguments.configs or folder / "configs"
        if arguments.configs is None:
            tune(configs, folder, arguments.listed)
        for repeats, samples in enumerate(measured(configs, folder, arguments.listed, arguments.repeats), start=1):
            write(arguments.output, f"{PROGRAM.name} {arguments.listed}", repeats, samples)


def write(folder: Path, program: str, repeats: int, samples: Mapping[str, Sequence[Started]]) -> None:
    """The file of what there is so far, whole after each round: a machine may be gone before the last one."""
    import torch

    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": torch.cuda.get_device_name(),
        "environment": {name: version(name) for name in ("torch", "triton")} | {"python": sys.version.split()[0]},
        "cores": len(os.sched_getaffinity(0)),
        "program": program,
        "repeats": repeats,
        **told(samples),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"start_up-{slugify(result['gpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["ready_ratio"]), f"wrote {path}", flush=True)


def tune(configs: Path, folder: Path, listed: int) -> None:
    words = ["tune", "--configs", str(configs), "--runs", str(folder / "runs"), "--no-program-check", "--share", "1"]
    done = subprocess.run([sys.executable, "-m", "fusetune", *words, str(PROGRAM), str(listed)], check=False)
    if done.returncode not in {0, 3} or not configs.is_dir():
        sys.exit(f"the program could not be tuned: exit code {done.returncode}")


def measured(configs: Path, folder: Path, listed: int, repeats: int) -> Iterator[dict[str, list[Started]]]:
    """The starts of each arm so far, cold and warm, after each round; arms take turns, in an order that changes."""
    samples: dict[str, list[Started]] = {f"{arm}, {cache}": [] for arm in ARMS for cache in ("cold", "warm")}
    started("python", configs, folder, listed)
    for number in range(repeats):
        for arm in ARMS[:: 1 if number % 2 == 0 else -1]:
            shutil.rmtree(cache_of(arm, folder), ignore_errors=True)
            for cache in ("cold", "warm"):
                samples[f"{arm}, {cache}"].append(started(arm, configs, folder, listed))
        yield samples


def cache_of(arm: str, folder: Path) -> Path:
    return folder / f"cache-{slugify(arm)}"


def started(arm: str, configs: Path, folder: Path, listed: int) -> Started:
    report = folder / "served.json"
    words = ["-m", "fusetune", "run", "--quiet", "--configs", str(configs), "--report", str(report)]
    command = [sys.executable, *(words if arm == "fusetune run" else []), str(PROGRAM), str(listed)]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache_of(arm, folder))}
    wall, clock = time.time(), time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    whole_s = time.perf_counter() - clock
    ready, launch = (json.loads(line) for line in done.stdout.splitlines())
    if arm == "fusetune run":
        check(json.loads(report.read_text()))
    return Started(ready["ready"] - wall, whole_s, launch["launch_us"])


def check(report: Mapping[str, Any]) -> None:
    """End where the program was not served as it is meant to be."""
    applied = sum(one["launches"] for kernel in report["kernels"] for one in kernel["applied"])
    if report["trials"] or not applied:
        sys.exit(f"{report['trials']} launches only timed and {applied} took an entry: {json.dumps(report)}")


def told(samples: Mapping[str, Sequence[Started]]) -> dict[str, Any]:
    """Medians of each arm with all samples, and how many times as long `python` takes as `fusetune run`."""
    arms = {}
    for name, starts in samples.items():
        figures = {field: [round(getattr(one, field), 3) for one in starts] for field in Started._fields}
        arms[name] = {
            field: {"median": round(statistics.median(all_), 3), "all": all_} for field, all_ in figures.items()
        }
    ratios = {
        cache: round(
            arms[f"python, {cache}"]["ready_s"]["median"] / arms[f"fusetune run, {cache}"]["ready_s"]["median"], 2
        )
        for cache in ("cold", "warm")
    }
    return {"ready_ratio": ratios, "arms": arms}


if __name__ == "__main__":
    main()
