"""KernelBench's level 2 problems 33 and 39 by our own op: `python benchmarks/kernelbench.py`. Needs a GPU.

Both are BatchNorm1d(Linear(x) * scale) in training, in float32, of two sizes; the models here are ours, of those
shapes, and nothing is fetched. `fusetune export --op gemm_scale_bn --precision bf16x3` writes the module of each, which
is judged as KernelBench does since November 2025: five inputs by the seeds that follow from 42, each output within
1e-4 + 1e-4 * |expected| of the model's own, whose products are not TF32. Then calls of both are timed in turns, by
events around each, and those of the model compiled by torch.compile. Writes OUTPUT/kernelbench-<gpu>.json; exit code 1
where a module does not pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from msgspec import to_builtins
from torch import nn

from fusetune.core.decision import KeepRule, summarize
from fusetune.core.text import slugify

RESULTS = Path(__file__).resolve().parent / "results"
PROBLEMS: Mapping[int, tuple[int, int, int]] = {33: (1024, 8192, 8192), 39: (16384, 4096, 4096)}
"""The rows of x, its columns, and those of y, by the problem's number in level 2."""
TOLERANCE = 1e-4
TRIALS = 5
SEED = 42
BLOCKS = 60


class Model(nn.Module):
    """What both problems compute."""

    def __init__(self, in_features: int, out_features: int, scale_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(scale_shape))
        self.bn = nn.BatchNorm1d(out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.bn(self.gemm(x) * self.scale)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="bf16x3", help="of the exported module  [default: bf16x3]")
    parser.add_argument("--only", type=int, choices=PROBLEMS, help="one of the two")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    gpu = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "triton": importlib.import_module("triton").__version__}
    result: dict[str, Any] = {"date": f"{date.today():%Y-%m-%d}", "gpu": gpu, **versions, "problems": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in [arguments.only] if arguments.only else PROBLEMS:
            row = measured(number, arguments.precision, Path(folder))
            result["problems"].append(row)
            print(f"level 2, problem {number}: {row['told']}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"kernelbench-{slugify(gpu)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
    return 0 if all(row["passes"] for row in result["problems"]) else 1


def measured(number: int, precision: str, folder: Path) -> dict[str, Any]:
    """One problem: what is judged, and the times of a call."""
    M, K, N = PROBLEMS[number]
    path = folder / f"problem_{number}.py"
    exported(path, M, K, N, precision)
    module = loaded(path)
    with torch.no_grad():
        model, fast = (made(one, K, N).cuda() for one in (Model, module.ModelNew))
        trials = [judged(seed, model, fast, (M, K), "cuda") for seed in seeds()]
        passes = all(trial["passes"] for trial in trials)
        x = torch.rand(M, K, device="cuda")
        compiled = torch.compile(made(Model, K, N).cuda())
        times = timed([lambda: model(x), lambda: fast(x), lambda: compiled(x)], BLOCKS)
    medians = [statistics.median(samples) for samples in times]
    rule = KeepRule(looks=(BLOCKS,))
    over_model, over_compiled = (
        summarize([math.log(ours / other) for ours, other in zip(times[1], others, strict=True)], rule)
        for others in (times[0], times[2])
    )
    header = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    speed_up = medians[0] / medians[1]
    worst = max(trial["share_of_tolerance"] for trial in trials)
    return {
        "problem": number,
        "M": M,
        "K": K,
        "N": N,
        "precision": precision,
        "module": " ".join(header),
        "trials": trials,
        "passes": passes,
        "model_us": round(medians[0], 2),
        "exported_us": round(medians[1], 2),
        "compiled_us": round(medians[2], 2),
        "speed_up": round(speed_up, 3),
        "gain_over_model": to_builtins(over_model),
        "gain_over_compiled": to_builtins(over_compiled),
        "told": f"{'passes' if passes else 'DOES NOT PASS'} {TRIALS} trials at {TOLERANCE:g} (at worst {worst:.2f} of "
        f"that); {medians[1]:.0f} us, the model {medians[0]:.0f} us: {speed_up:.2f}x; compiled {medians[2]:.0f} us",
    }


def exported(path: Path, M: int, K: int, N: int, precision: str) -> None:
    """Write the module as the command does."""
    sizes = [f"--M={M}", f"--K={K}", f"--N={N}"]
    command = [sys.executable, "-m", "fusetune", "export", "--op", "gemm_scale_bn", "--precision", precision, *sizes]
    subprocess.run([*command, "-o", str(path)], check=True)


def loaded(path: Path) -> Any:
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(kind: Callable[..., nn.Module], K: int, N: int) -> nn.Module:
    """A model whose weights follow from the seed."""
    torch.manual_seed(SEED)
    return kind(K, N, (N,))


def seeds() -> list[int]:
    """Those of the trials."""
    torch.manual_seed(SEED)
    return [int(torch.randint(0, 2**32 - 1, (1,)).item()) for _ in range(TRIALS)]


def judged(
    seed: int,
    model: Callable[..., torch.Tensor],
    fast: Callable[..., torch.Tensor],
    shape: tuple[int, int],
    device: str,
) -> dict[str, Any]:
    """One trial: whether all numbers are within the tolerance, and how much of that the worst of them takes."""
    torch.manual_seed(seed)
    x = torch.rand(*shape).to(device)
    expected, found = model(x), fast(x)
    off = (expected - found).abs()
    share = off / (TOLERANCE + TOLERANCE * found.abs())
    return {
        "seed": seed,
        "passes": bool(torch.allclose(expected, found, atol=TOLERANCE, rtol=TOLERANCE)),
        "max_error": float(off.max()),
        "share_of_tolerance": float(share.max()),
    }


def timed(calls: Sequence[Callable[[], Any]], blocks: int) -> list[list[float]]:
    """Microseconds of each call, block by block: in turns, and in the opposite order in every other block."""
    for call in calls:
        for _ in range(10):
            call()
    torch.cuda.synchronize()
    found: list[list[float]] = [[] for _ in calls]
    for block in range(blocks):
        order = range(len(calls)) if block % 2 == 0 else reversed(range(len(calls)))
        for number in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            calls[number]()
            end.record()
            torch.cuda.synchronize()
            found[number].append(start.elapsed_time(end) * 1e3)
    return found


if __name__ == "__main__":
    sys.exit(main())
