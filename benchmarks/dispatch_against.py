"""What a call costs the host in this tree and in another one, in turns: `python benchmarks/dispatch_against.py REV`.

REV is a git revision, or a folder that holds another checkout. Needs a GPU. Each tree has a process of its own, both
alive at once; they take turns, round by round in random order, while the other one waits. A round is one batch of
calls for each arm, clocked while the GPU is idle, as in dispatch.py; both use BASELINE. PyTorch's own arm says how far
the two processes differ by themselves. Writes benchmarks/results/dispatch-against-<gpu>.json.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
M, K, N = 128, 1024, 512
BATCH = 20
LIMIT = 1.03
"""At most so much of the other tree's time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--name", help="What the result calls the other tree, where REV is a folder.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--processes", type=int, default=4, help="Pairs of processes, one pair after another.")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    times: dict[str, dict[str, list[float]]] = {"before": {}, "after": {}}
    about: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        trees = {"before": tree_of(arguments.revision, Path(scratch)), "after": HERE.parent}
        for _ in range(arguments.processes):
            about = pair(trees, arguments.rounds // arguments.processes, times)
    medians = {tree: {arm: statistics.median(found) for arm, found in arms.items()} for tree, arms in times.items()}
    ratios = {arm: round(us / medians["before"][arm], 4) for arm, us in medians["after"].items()}
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        **about,
        "against": arguments.name or arguments.revision,
        "problem": f"M={M} K={K} N={N} float32, BASELINE",
        "host_us": {tree: {arm: round(us, 3) for arm, us in arms.items()} for tree, arms in medians.items()},
        "ratios": ratios,
    }
    path = arguments.output / f"dispatch-against-{about['gpu'].lower().replace(' ', '-')}.json"
    arguments.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    for arm, ratio in ratios.items():
        mark = "" if arm == "eager" or ratio <= LIMIT else f"  over {LIMIT}"
        print(f"{arm:<20} {medians['before'][arm]:8.3f} -> {medians['after'][arm]:8.3f} us   {ratio:.3f}{mark}")
    print(f"wrote {path}")


def tree_of(revision: str, scratch: Path) -> Path:
    """A folder that is given, or the files of a revision, in a folder of their own."""
    if Path(revision).is_dir():
        return Path(revision).resolve()
    archive = ["git", "-C", str(HERE.parent), "archive", revision, "fusetune"]
    done = subprocess.run(archive, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{revision} is neither a folder nor a revision here: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(scratch, filter="data")
    return scratch


def pair(trees: dict[str, Path], rounds: int, times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """One process a tree; adds the times of their rounds, and returns what they ran on."""
    with ExitStack() as stack:
        served = {}
        for name, tree in trees.items():
            paths = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
            command = [sys.executable, str(Path(__file__).resolve()), "-", "--serve"]
            served[name] = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": paths},
                    cwd=tree,
                )
            )
        about: dict[str, Any] = {}
        for name, process in served.items():
            about = answer(process)
            if not Path(about.pop("fusetune")).is_relative_to(trees[name]):
                sys.exit(f"{name}: another fusetune was imported; unset PYTHONPATH")
        for _ in range(rounds):
            for name in random.sample(list(served), 2):
                process = served[name]
                assert process.stdin is not None
                process.stdin.write("round\n")
                process.stdin.flush()
                for arm, us in answer(process).items():
                    times[name].setdefault(arm, []).append(us)
        for process in served.values():
            assert process.stdin is not None
            process.stdin.close()
    return about


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit("a process ended early")
    told: dict[str, Any] = json.loads(line)
    return told


def serve() -> None:
    """Make one batch of calls for each arm whenever a line comes in, and say how long a call took, in microseconds."""
    import torch
    import triton

    import fusetune

    with tempfile.TemporaryDirectory() as nothing:
        fusetune.load(nothing)
        calls = arms()
        for call in calls.values():
            for _ in range(50):
                call()
        torch.cuda.synchronize()
        gc.collect()
        gc.disable()
        told = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        print(json.dumps({**told, "python": sys.version.split()[0], "fusetune": fusetune.__file__}), flush=True)
        order = list(calls)
        for _ in sys.stdin:
            random.shuffle(order)
            times = {}
            for name in order:
                call = calls[name]
                call()
                torch.cuda.synchronize()
                began = time.perf_counter_ns()
                for _ in range(BATCH):
                    call()
                times[name] = (time.perf_counter_ns() - began) / BATCH / 1e3
                torch.cuda.synchronize()
            print(json.dumps(times), flush=True)


def arms() -> dict[str, Callable[[], Any]]:
    """The fused functions and modules by their public names, and the function in PyTorch's own operators."""
    import torch
    from torch.nn import functional

    import fusetune

    device = torch.device("cuda")
    torch.manual_seed(0)
    x, weight = torch.randn(M, K, device=device), torch.randn(N, K, device=device)
    bias, scale = torch.randn(N, device=device), torch.randn(N, device=device)
    evaluated = fusetune.ModelNew(K, N, (N,)).to(device).eval()
    trained = fusetune.ModelNew(K, N, (N,)).to(device).train()
    linear = fusetune.FusedLinearScale(K, N, (N,)).to(device).eval()

    def without_gradient(module: Any) -> Callable[[], Any]:
        def call() -> Any:
            with torch.no_grad():
                return module(x)

        return call

    return {
        "fused_gemm_scale": lambda: fusetune.fused_gemm_scale(x, weight, bias, scale),
        "ModelNew, eval": without_gradient(evaluated),
        "ModelNew, train": lambda: trained(x),
        "FusedLinearScale": without_gradient(linear),
        "eager": lambda: functional.linear(x, weight, bias) * scale,
    }


if __name__ == "__main__":
    main()
