"""What a call costs the host in this tree and in another one, in turns: `python benchmarks/dispatch_against.py REV`.

REV is a git revision, or a folder that holds another checkout. Needs a GPU. The other tree is copied with its package
renamed, so that one process has both: two processes differ by some percent whatever they run. Arms take turns in random
order; a turn is a batch of calls, clocked while the GPU is idle, as in dispatch.py. Both use BASELINE. A ratio is the
median over rounds of a round's own ratio. Writes benchmarks/results/dispatch-against-<gpu>.json.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import json
import random
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
RENAMED = "fusetune_before"
M, K, N = 128, 1024, 512
BATCH = 20
LIMIT = 1.03
"""At most so much of the other tree's time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--name", help="What the result calls the other tree, where REV is a folder.")
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    import torch
    import triton

    import fusetune

    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    with tempfile.TemporaryDirectory() as scratch:
        rename(arguments.revision, Path(scratch))
        sys.path.insert(0, scratch)
        before = importlib.import_module(RENAMED)
        empty = Path(scratch, "none")
        empty.mkdir()
        for package in (fusetune, before):
            package.load(empty)
        rounds = timed({"after": arms(fusetune), "before": arms(before)}, arguments.rounds)
    gpu = torch.cuda.get_device_name()
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": gpu,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "against": arguments.name or arguments.revision,
        "problem": f"M={M} K={K} N={N} float32, BASELINE",
        "rounds": arguments.rounds,
        "arms": rounds,
    }
    path = arguments.output / f"dispatch-against-{gpu.lower().replace(' ', '-')}.json"
    arguments.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    for arm, told in rounds.items():
        mark = "" if told["ratio"] <= LIMIT else f"  over {LIMIT}"
        print(f"{arm:<20} {told['before_us']:8.3f} -> {told['after_us']:8.3f} us   {told['ratio']:.3f}{mark}")
    print(f"wrote {path}")


def rename(revision: str, folder: Path) -> None:
    """The package of a folder that is given, or of a revision, under its other name in `folder`."""
    if Path(revision).is_dir():
        files = {path: path.read_bytes() for path in Path(revision, "fusetune").rglob("*") if path.is_file()}
        found = {path.relative_to(revision): data for path, data in files.items()}
    else:
        archive = ["git", "-C", str(HERE.parent), "archive", revision, "fusetune"]
        done = subprocess.run(archive, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{revision} is neither a folder nor a revision here: {done.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            found = {Path(one.name): tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]
    for path, data in found.items():
        # What it imports, and what it registers with PyTorch.
        text = re.sub(rb"\bfusetune\b", RENAMED.encode(), data) if path.suffix == ".py" else data
        place = folder / RENAMED / path.relative_to("fusetune")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text)


def arms(fusetune: ModuleType) -> dict[str, Callable[[], Any]]:
    """The fused functions and modules by their public names."""
    import torch

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
    }


def timed(trees: dict[str, dict[str, Callable[[], Any]]], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a call of each arm in both trees, and the ratio of this one to the other."""
    import torch

    order = [(tree, arm) for tree, calls in trees.items() for arm in calls]
    for tree, arm in order:
        for _ in range(50):
            trees[tree][arm]()
    times: dict[tuple[str, str], list[float]] = {one: [] for one in order}
    torch.cuda.synchronize()
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        random.shuffle(order)
        for tree, arm in order:
            call = trees[tree][arm]
            call()
            torch.cuda.synchronize()
            began = time.perf_counter_ns()
            for _ in range(BATCH):
                call()
            times[tree, arm].append((time.perf_counter_ns() - began) / BATCH / 1e3)
            torch.cuda.synchronize()
    gc.enable()
    return {
        arm: {
            **{f"{tree}_us": round(statistics.median(times[tree, arm]), 3) for tree in ("before", "after")},
            "ratio": round(
                statistics.median(a / b for a, b in zip(times["after", arm], times["before", arm], strict=True)), 4
            ),
        }
        for arm in trees["after"]
    }


if __name__ == "__main__":
    main()
