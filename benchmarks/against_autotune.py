"""Three kernels with about a hundred configs each, tuned by @triton.autotune and by `fusetune tune`, both cold.

`python benchmarks/against_autotune.py` needs a GPU; --dry goes as far as a CPU can.

The program is the autotuned one itself (benchmarks/autotuned/), so that both have the same list. Each of the two runs
in fresh processes with an empty Triton cache, after one untimed start that reads torch's files from the disk, and in
turns. autotune is told by its whole process and by its first call alone; fusetune by the whole command, which runs the
program, and so autotune, too. Then both winners are timed in one process, by CUDA graphs over inputs that have left L2,
in random order; the gain is the median of paired ratios. Writes benchmarks/results/against_autotune-<gpu>.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import to_builtins

from fusetune.core.stats import median_interval
from fusetune.core.text import slugify

HERE = Path(__file__).resolve().parent
PROGRAMS = {path.stem: path for path in sorted((HERE / "autotuned").glob("*.py"))}
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
ROUNDS, CONFIDENCE = 101, 0.95
TOLERANCE = 2e-2
"""Of the largest magnitude in the reference: far above the rounding of float16, far below a tile left out."""
DRY_TARGET = "rtx4090"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {','.join(PROGRAMS)}")
    parser.add_argument("--repeats", type=int, default=3, help="cold runs of each  [default: 3]")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--dry", action="store_true", help="without a GPU: what the tuner would begin with")
    parser.add_argument("--autotune-only", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--compare-only", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help="more options of `fusetune tune`, behind --")
    arguments = parser.parse_args()
    if arguments.autotune_only:
        name, file = arguments.autotune_only
        Path(file).write_text(json.dumps(autotune(loaded(name))))
        return 0
    if arguments.compare_only:
        name, file = arguments.compare_only
        Path(file).write_text(json.dumps(compare(loaded(name), json.loads(Path(file).read_text()))))
        return 0
    names = arguments.only.split(",") if arguments.only else list(PROGRAMS)
    if unknown := set(names) - PROGRAMS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; use some of {', '.join(PROGRAMS)}")
    if arguments.dry:
        for name in names:
            dry(name)
        return 0
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --dry goes as far as a CPU can")
    gpu = torch.cuda.get_device_name(0)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"against_autotune-{slugify(gpu)}.json"
    result: dict[str, Any] = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": gpu,
        "environment": {name: version(name) for name in ("torch", "triton")} | {"python": sys.version.split()[0]},
        "cores": len(os.sched_getaffinity(0)),
        "repeats": arguments.repeats,
        "kernels": {},
    }
    subprocess.run([sys.executable, "-c", "import torch, triton; torch.zeros(1, device='cuda')"], check=True)
    for name in names:
        result["kernels"][name] = row = measured(name, arguments.repeats, arguments.more)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"{name}: autotune {row['autotune_process_s']:.1f} s, fusetune {row['fusetune_s']:.1f} s "
            f"({row['ratio']:.2f} of it), gain over autotune's winner {row['gain']['median']:+.2%}; "
            f"{row['phases_s']}",
            flush=True,
        )
    print(f"wrote {path}")
    return 0


def measured(name: str, repeats: int, more: Sequence[str]) -> dict[str, Any]:
    """Both tuners so many times, in turns, and the winners of the last."""
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(with_autotune(name))
        ours.append(with_fusetune(name, more))
    autotune_s = statistics.median(run["process_s"] for run in theirs)
    fusetune_s = statistics.median(run["process_s"] for run in ours)
    return {
        "configs": theirs[-1]["configs"],
        "autotune_process_s": round(autotune_s, 2),
        "autotune_call_s": round(statistics.median(run["call_s"] for run in theirs), 2),
        "fusetune_s": round(fusetune_s, 2),
        "ratio": round(fusetune_s / autotune_s, 3),
        "autotune_winners": [run["config"] for run in theirs],
        "fusetune_winners": [run["config"] for run in ours],
        "verdicts": [run["verdict"] for run in ours],
        "tried": [run["tried"] for run in ours],
        "failures": ours[-1]["failures"],
        "phases_s": {name: round(seconds, 1) for name, seconds in ours[-1]["phases_s"].items()},
        **compared(name, theirs[-1]["config"], ours[-1]["config"]),
    }


def loaded(name: str) -> ModuleType:
    """One of the programs as a module; it launches nothing by that."""
    spec = importlib.util.spec_from_file_location(f"autotuned_{name}", PROGRAMS[name])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def cold(command: Sequence[str], folder: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A command with an empty Triton cache, and its seconds."""
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "TRITON_CACHE_DIR": f"{folder}/cache", "PYTHONPATH": paths}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done, time.monotonic() - began


def with_autotune(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        done, seconds = cold([__file__, "--autotune-only", name, str(answer)], folder)
        if done.returncode:
            sys.exit(ended(done))
        return {**json.loads(answer.read_text()), "process_s": seconds}


def with_fusetune(name: str, more: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "fusetune", "tune", "--json", "-o", f"{folder}/configs", "--runs", f"{folder}/runs", *more]
        done, seconds = cold([*command, str(PROGRAMS[name])], folder)
        if done.returncode not in {0, 3}:
            sys.exit(ended(done))
        (kernel,) = json.loads(done.stdout)["kernels"]
        (journal,) = Path(folder, "runs").glob("*.jsonl")
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
    (case,) = kernel["cases"]
    phases: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "phase" and not line.get("within"):
            phases[line["name"]] += line["seconds"]
    phases["look and start"] = seconds - sum(phases.values())
    told = {key: case[key] for key in ("verdict", "tried", "failures")}
    return {**told, "config": {**case["before"], **case["chosen"]}, "process_s": seconds, "phases_s": phases}


def ended(done: subprocess.CompletedProcess[str]) -> str:
    return f"{' '.join(done.args[1:4])} ended with {done.returncode}: {done.stderr.strip()[-2000:]}"


def autotune(module: ModuleType) -> dict[str, Any]:
    """In a process of its own: the first call, in which the list is timed, and what it chose."""
    import torch

    torch.manual_seed(0)
    tensors = module.inputs()
    torch.cuda.synchronize()
    began = time.monotonic()
    module.launch(module.kernel, **tensors)
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    best = module.kernel.best_config
    return {
        "call_s": seconds,
        "configs": len(module.CONFIGS),
        "config": {**best.kwargs, "num_warps": best.num_warps, "num_stages": best.num_stages},
    }


def compared(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Both winners in one fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "configs.json")
        file.write_text(json.dumps({"autotune": theirs, "fusetune": ours}))
        done, _ = cold([__file__, "--compare-only", name, str(file)], folder)
        if done.returncode:
            sys.exit(ended(done))
        return dict(json.loads(file.read_text()))


def compare(module: ModuleType, configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """In a process of its own: both held against the reference, then timed in turns. Equal configs are A/A."""
    import torch
    from peer_arms import GraphBench, sets_for

    torch.manual_seed(0)
    first = module.inputs()
    read = sum(tensor.nbytes for tensor in first.values())
    sets = sets_for(read, torch.cuda.get_device_properties(0).L2_cache_size)
    tensors = [first, *(module.inputs() for _ in range(sets - 1))]
    expected = module.reference(**first).float()
    errors, calls = {}, {}
    for arm, config in configs.items():
        given = given_to(module, config)
        off = (module.launch(module.kernel.fn, **first, **given).float() - expected).abs().max()
        errors[arm] = float(off / expected.abs().max())

        def call(index: int, given: dict[str, Any] = given) -> Any:
            return module.launch(module.kernel.fn, **tensors[index], **given)

        calls[arm] = call
    del expected
    bench = GraphBench(sets)
    if failed := bench.begin(calls):
        sys.exit(f"not timed: {failed}")
    times = bench.times(ROUNDS, random.Random(0), lambda: None)
    bench.close()
    logs = [math.log(b / a) for a, b in zip(times["autotune"], times["fusetune"], strict=True)]
    interval = median_interval(logs, CONFIDENCE)
    gain = {"median": interval.median, "low": interval.high, "high": interval.low}
    return {
        "autotune_us": round(statistics.median(times["autotune"]), 3),
        "fusetune_us": round(statistics.median(times["fusetune"]), 3),
        "gain": {end: round(1 - math.exp(value), 4) for end, value in gain.items()},
        "errors": errors,
        "wrong": [arm for arm, error in errors.items() if not error <= TOLERANCE],
        "sets": sets,
        "rounds": ROUNDS,
    }


def given_to(module: ModuleType, config: dict[str, Any]) -> dict[str, Any]:
    """Of a config, what its list varies and the options that are set; sizes are the launch's own."""
    varied = module.CONFIGS[0].kwargs
    return {
        name: value
        for name, value in config.items()
        if name in varied or (name in OPTIONS and value is not None and (name, value) != ("num_ctas", 1))
    }


def dry(name: str) -> None:
    """What `fusetune capture` sees of a program: one case, with the whole list as proposals."""
    command = [sys.executable, "-m", "fusetune", "capture", "--json", "--target", DRY_TARGET, str(PROGRAMS[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        sys.exit(ended(done))
    (case,) = json.loads(done.stdout)["cases"]
    module = loaded(name)
    varies = {knob["name"]: knob["values"] for knob in case["knobs"] if knob["varies"]}
    assert case["proposals"] == len(module.CONFIGS), "the whole list is proposed"
    assert set(module.CONFIGS[0].kwargs) <= varies.keys(), "what the list varies may vary"
    before = given_to(module, {**case["constants"], **case["before"]})
    print(f"{name}: {len(module.CONFIGS)} configs, grid {case['grid']}, first {before}")
    print(f"  may vary {to_builtins(varies)}")


if __name__ == "__main__":
    sys.exit(main())
