"""What a call costs the host: fused functions and modules beside PyTorch, torch.compile, kernel[grid] and autotune.

`python benchmarks/dispatch.py` needs a GPU for all of its parts but one (`--only lookup` needs none):

    host      nanoseconds of the host a call, clocked around batches of calls while the GPU is not what they wait for
    events    microseconds a call, end to end: CUDA events around a row of eager calls, no graphs
    lookup    a file of 10,000 entries: loading it, a look-up made before, a new one; and `import fusetune`
    shapes    1,000 calls over 50 random shapes: memory after the first pass, kernels compiled, plans made
    user      a kernel of a user's, of 16 arguments: `@fusetune.autotune` with an entry beside kernel[grid] and
              `@triton.autotune` with a warm cache, as in `host`; the same three under `fusetune.install`, with an entry
              and without, in a process of their own; and 1,000 calls over 50 shapes, as in `shapes`

Arms take turns in random order, and each figure is a median over the rounds. The configs of the first parts are swept,
unless `--configs` names a folder of them or `--baseline` does without; `--only user` sweeps nothing.
Writes benchmarks/results/dispatch-<gpu>.json, or with --only dispatch-<parts>-<gpu>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from fusetune.core.target import find_target
from fusetune.core.text import slugify

HERE = Path(__file__).resolve().parent
PARTS = ("host", "events", "lookup", "shapes", "user")
K, N, M = 1024, 512, 128
TARGETS = {
    # arm: {reference: at most so much of it}
    "fused_gemm_scale": {"linear_then_scale": 0.45, "kernel_grid": 0.5, "autotune": 0.35},
    "eval/ModelNew": {"eval/eager": 0.4, "eval/compile": 0.4},
    "train/ModelNew": {"train/eager": 0.5, "train/compile": 0.5},
    "user/fusetune": {"user/kernel_grid": 0.5, "user/autotune": 0.35},
    "user/run_autotune": {"user/kernel_grid": 1.0, "user/autotune": 1.0},
    "user/run_kernel_grid": {"user/kernel_grid": 1.0, "user/autotune": 1.0},
    "user/run_fusetune": {"user/kernel_grid": 1.0, "user/autotune": 1.0},
    "user/run_missed": {"user/kernel_grid": 1.0, "user/autotune": 1.0},
}
END_TO_END_SPEEDUP = 1.5
LOOKUP_LIMITS_US = {"load": 100e3, "hot": 1.0, "cold": 100.0, "import": 50e3}

IMPORT = """
import sys, time
began = time.perf_counter_ns()
import fusetune
took = time.perf_counter_ns() - began
assert "torch" not in sys.modules, "import fusetune loads torch"
print(took / 1e3)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--only", choices=PARTS, action="append", help="This part; may be given again.  [default: all]")
    parser.add_argument("--configs", type=Path, help="Use these configs instead of sweeping.")
    parser.add_argument("--baseline", action="store_true", help="Use no configs: every kernel is BASELINE.")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    parts = arguments.only or PARTS
    result: dict[str, Any] = {"date": f"{date.today():%Y-%m-%d}"}
    if set(parts) - {"lookup"} and not has_gpu():
        sys.exit("there is no GPU here; --only lookup needs none")
    if set(parts) - {"lookup", "user"}:
        result |= on_a_gpu(arguments, parts)
    if "user" in parts:
        result = user_part(arguments.rounds, result)
    if "lookup" in parts:
        result["lookup_us"] = lookup_part()
    arguments.output.mkdir(parents=True, exist_ok=True)
    some = "" if set(parts) == set(PARTS) else f"{'-'.join(parts)}-"  # Never in the place of all of them.
    path = arguments.output / f"dispatch-{some}{slugify(result.get('gpu', 'no-gpu'))}.json"
    if "gpu" in result:
        path.write_text(json.dumps(result, indent=1) + "\n")
    for line in table(result):
        print(line)
    if "gpu" in result:
        print(f"wrote {path}")


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def user_part(rounds: int, result: dict[str, Any]) -> dict[str, Any]:
    """The result with what a user's kernel costs."""
    import torch

    import fusetune

    with tempfile.TemporaryDirectory() as folder:
        import dispatch_arms
        import dispatch_installed
        import dispatch_user
        from msgspec import to_builtins

        dispatch_user.write_tuned(Path(folder))
        fusetune.load(folder)
        failed = dict(result.get("failed", {}))
        with contextlib.closing(dispatch_installed.Installed(Path(folder))) as installed:
            makers = {**dispatch_user.arms(), **installed.arms()}
            times = host_part(able(makers, failed), rounds, torch.cuda.synchronize)
        counted = dispatch_user.shapes()
    fusetune.load()
    return {
        "gpu": torch.cuda.get_device_name(),
        "environment": to_builtins(dispatch_arms.environment()),
        "python": sys.version.split()[0],
        **result,
        "user_us": times,
        "user_ratios": ratios(times),
        "user_shapes": counted,
        "failed": failed,
    }


def on_a_gpu(arguments: argparse.Namespace, parts: list[str] | tuple[str, ...]) -> dict[str, Any]:
    import torch
    from msgspec import to_builtins

    import fusetune

    with tempfile.TemporaryDirectory() as folder:
        where = arguments.configs or Path(folder, "configs")
        if arguments.configs is None and not arguments.baseline:
            sweep_all(where)
        where.mkdir(parents=True, exist_ok=True)
        fusetune.load(where)
        import dispatch_arms as arms

        torch.backends.cuda.matmul.allow_tf32 = True
        result: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(),
            "environment": to_builtins(arms.environment()),
            "python": sys.version.split()[0],
            "problem": f"M={M} K={K} N={N} float32, TF32 for everybody",
            "configs": {
                name: fusetune.explain(M=M, N=N, K=K, **options).config.label()
                for name, options in (
                    ("gemm_scale", {}),
                    ("gemm_scale_bn train", {"op": "gemm_scale_bn", "mode": "train"}),
                    ("gemm_scale_bn eval", {"op": "gemm_scale_bn", "mode": "eval"}),
                )
            },
        }
        failed: dict[str, str] = {}
        if {"host", "events"} & set(parts):
            modules = able(arms.module_arms(M, K, N), failed)
        if "host" in parts:
            everything = {**able(arms.function_arms(M, K, N), failed), **modules}
            result["host_us"] = host_part(everything, arguments.rounds, torch.cuda.synchronize)
            result["host_ratios"] = ratios(result["host_us"])
        if "events" in parts:
            result["end_to_end_us"] = events_part(modules, arguments.rounds)
        if "shapes" in parts:
            try:
                result["shapes"] = arms.shapes_part()
            except Exception as error:  # noqa: BLE001 - a part that fails is told, and the others stay
                failed["shapes"] = first_line(error)
        result["failed"] = failed
    return result


def able(makers: Mapping[str, Callable[[], Callable[[], Any]]], failed: dict[str, str]) -> dict[str, Callable[[], Any]]:
    """The arms that can be made and called; the reasons of the others go to `failed`."""
    made = {}
    for name, maker in makers.items():
        try:
            call = maker()
            with gradients_of(name):
                for _ in range(10):
                    call()
            made[name] = call
        except Exception as error:  # noqa: BLE001 - an arm that fails is a result
            failed[name] = first_line(error)
    return made


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def sweep_all(folder: Path) -> None:
    """The three problems of this benchmark, with `fusetune sweep`."""
    for options in ([], ["--op", "gemm_scale_bn", "--mode", "train"], ["--op", "gemm_scale_bn", "--mode", "eval"]):
        command = [sys.executable, "-m", "fusetune", "sweep", "--M", str(M), "--K", str(K), "--N", str(N), *options]
        command += ["--output", str(folder), "--runs", str(folder.parent / "runs")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in {0, 3}:
            sys.exit(f"a sweep failed: {' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def host_part(
    arms: Mapping[str, Callable[[], Any]], rounds: int, synchronize: Callable[[], Any], batch: int = 20
) -> dict[str, float]:
    """Microseconds of the host a call: the median over rounds, in each of which every arm makes a batch of calls.

    The GPU is idle when a batch begins; what twenty calls queue does not fill its queue, so that none waits for it.
    """
    synchronize()
    times: dict[str, list[float]] = {name: [] for name in arms}
    order, rng = list(arms), random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            rng.shuffle(order)
            for name in order:
                call = arms[name]
                with gradients_of(name):
                    call()
                    synchronize()
                    if hasattr(call, "batch"):  # made and clocked in another process
                        times[name].append(call.batch(batch))
                        continue
                    began = time.perf_counter_ns()
                    for _ in range(batch):
                        call()
                    times[name].append((time.perf_counter_ns() - began) / batch / 1e3)
                    synchronize()
    finally:
        gc.enable()
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def gradients_of(name: str) -> contextlib.AbstractContextManager[Any]:
    """Training has gradients, evaluation none; the functions' tensors want none anyway."""
    import torch

    return torch.set_grad_enabled(name.startswith("train/"))


def events_part(arms: Mapping[str, Callable[[], Any]], rounds: int, batch: int = 50) -> dict[str, float]:
    """Microseconds a call from the first call's start on the GPU to the last one's end, medians over rounds."""
    import torch

    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in arms}
    order, rng = list(arms), random.Random(0)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            with gradients_of(name):
                start.record()
                for _ in range(batch):
                    arms[name]()
                end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) * 1e3 / batch)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def ratios(times: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What the targets are about: the time of ours as a share of each reference's."""
    return {
        arm: {other: round(times[arm] / times[other], 3) for other in others if other in times}
        for arm, others in TARGETS.items()
        if arm in times
    }


def lookup_part(entries: int = 10_000) -> dict[str, float]:
    """Microseconds: loading a file of so many entries (median of five), a repeated and a new look-up, the import."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--look-up-in", folder, str(entries)]
        paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
        made = {**os.environ, "FUSETUNE_CONFIGS": "", "PYTHONPATH": os.pathsep.join(paths)}
        runs = []
        for _ in range(5):
            done = subprocess.run(command, env=made, capture_output=True, text=True, check=True)
            imported = subprocess.run(
                [sys.executable, "-c", IMPORT], env=made, capture_output=True, text=True, check=True
            )
            runs.append({"import": float(imported.stdout), **json.loads(done.stdout.splitlines()[-1])})
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def look_up(folder: Path, entries: int) -> dict[str, float]:
    """In a process of its own: nothing has been loaded before."""
    from lookup_file import large_file, problems

    import fusetune
    from fusetune.core.environment import TargetIdentity
    from fusetune.runtime.configs import active_source

    path = folder / "gemm_scale.yaml"
    if not path.exists():
        path.write_text(large_file(entries))
    known = find_target("h200")
    identity = TargetIdentity(name=known.name, capability=known.capability, sms=known.sms)
    wanted = problems(entries)
    fusetune.load(path)
    source = active_source()
    source.environment("gemm_scale")  # versions and hashes are asked for once, whatever is looked up
    loading = time.perf_counter_ns()
    source.files("gemm_scale", identity)
    loaded = time.perf_counter_ns()
    rng = random.Random(0)
    cold = []
    for problem in rng.sample(wanted, 200):
        start = time.perf_counter_ns()
        found = source.find("gemm_scale", problem, identity)
        cold.append(time.perf_counter_ns() - start)
        assert found.rung != "baseline", "the problem is in the file, or its neighbour"
    start = time.perf_counter_ns()
    for _ in range(10_000):
        source.find("gemm_scale", problem, identity)
    hot = (time.perf_counter_ns() - start) / 10_000
    return {
        "load": (loaded - loading) / 1e3,
        "cold": statistics.median(cold) / 1e3,
        "hot": hot / 1e3,
    }


def host_lines(times: Mapping[str, float], found: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [f"host   {name:<28} {value:8.2f} us" for name, value in times.items()]
    for arm, others in found.items():
        for other, ratio in others.items():
            limit = TARGETS[arm][other]
            lines.append(f"  {arm} / {other}: {ratio:.3f} (at most {limit}) {'ok' if ratio <= limit else 'MISSED'}")
    return lines


def table(result: Mapping[str, Any]) -> list[str]:
    lines = [f"{result.get('gpu', 'no GPU')}  {result.get('problem', '')}  configs: {result.get('configs', '-')}"]
    if "host_us" in result:
        lines += host_lines(result["host_us"], result["host_ratios"])
    if "end_to_end_us" in result:
        times = result["end_to_end_us"]
        lines += [f"events {name:<28} {value:8.2f} us" for name, value in times.items()]
        for mode in (mode for mode in ("eval", "train") if f"{mode}/ModelNew" in times):
            for name in (name for name in times if name.startswith(mode) and not name.endswith("ModelNew")):
                speedup = times[name] / times[f"{mode}/ModelNew"]
                verdict = "ok" if speedup >= END_TO_END_SPEEDUP else "MISSED"
                lines.append(f"  {name} / {mode}/ModelNew: {speedup:.2f} (at least {END_TO_END_SPEEDUP}) {verdict}")
    for name, value in result.get("lookup_us", {}).items():
        limit = LOOKUP_LIMITS_US[name]
        lines.append(f"lookup {name:<8} {value:12.3f} us (at most {limit:g}) {'ok' if value <= limit else 'MISSED'}")
    if "shapes" in result:
        lines.append(f"shapes {result['shapes']}")
    if "user_us" in result:
        lines += host_lines(result["user_us"], result["user_ratios"])
        lines.append(f"shapes of the user's kernel {result['user_shapes']}")
    lines += [f"FAILED {name}: {reason}" for name, reason in result.get("failed", {}).items()]
    return lines


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--look-up-in":
        print(json.dumps(look_up(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
