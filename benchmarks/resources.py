"""What is compiled without a GPU against what the GPU loads and the profiler sees: `python benchmarks/resources.py`.

Needs a GPU; the second part needs Nsight Compute too, and says so where it is missing. For --configs random configs of
every variant, op and type it compares registers, spills and shared memory read from the machine code with those of the
kernel that Triton loaded, which have to agree exactly. For --profiled of them it compares theoretical occupancy with
Nsight Compute's own (sm__maximum_warps_per_active_cycle_pct). Writes resources-<gpu>.json into --output.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from fusetune.compiler.facts import kernel_facts
from fusetune.compiler.inspect import inspect_config
from fusetune.compiler.pool import Job, compile_jobs
from fusetune.compiler.processes import usable_cores
from fusetune.core.resources import occupancy
from fusetune.core.target import Target
from fusetune.core.text import slugify
from fusetune.errors import FusetuneError
from fusetune.measure.profile import find_ncu, ncu_command, profile_config
from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import KernelSpec

HERE = Path(__file__).resolve().parent
THEORY = "sm__maximum_warps_per_active_cycle_pct"
PROBLEMS: tuple[tuple[str, Problem], ...] = (
    ("gemm_scale", make_problem(128, 512, 1024, "float32")),
    ("gemm_scale", make_problem(2048, 4096, 1024, "float16")),
    ("gemm_scale", make_problem(2048, 4096, 1024, "bfloat16")),
    ("gemm_scale", make_problem(1500, 1100, 7000, "float16")),
    ("gemm_scale", make_problem(1500, 1101, 7001, "float16")),
    ("gemm_scale", make_problem(2048, 4096, 1024, "float32", "bf16x3")),
    ("gemm_scale_bn", make_problem(2048, 4096, 1024, "float32", mode="train")),
    ("gemm_scale_bn", make_problem(4096, 4096, 1024, "float16", mode="train")),
    ("gemm_scale_bn", make_problem(128, 512, 1024, "float16", mode="eval")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=100)
    parser.add_argument("--profiled", type=int, default=20)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--ncu", type=Path, help="Nsight Compute's command  [default: found]")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.error("no NVIDIA GPU here: kernels have to be loaded")
    target = local_target(0)
    chosen = list(drawn(target, arguments.configs, random.Random(arguments.seed)))
    precompile(chosen, target)
    print(f"{len(chosen)} configs compiled", flush=True)
    # Reading machine code is left to a disassembler's processes, loading it to this one.
    with ThreadPoolExecutor(usable_cores()) as threads:
        facts = list(threads.map(lambda one: compiled_facts(*one, target), chosen))
    print("their machine code read", flush=True)
    rows = [compared(*one, compiled) for one, compiled in zip(chosen, facts, strict=True)]
    result = {
        "gpu": target.name,
        "date": f"{date.today():%Y-%m-%d}",
        "environment": {"torch": torch.__version__, "triton": _version("triton")},
        "configs": len(rows),
        "equal": sum(row["equal"] for row in rows),
        "spilling": sum(row["compiled"]["stack_bytes"] > 0 for row in rows),
    }
    for row in [row for row in rows if not row["equal"]]:
        print(f"not equal: {row}")
    print(
        f"{target.name}: {result['equal']} of {len(rows)} configs equal, {result['spilling']} of them spill", flush=True
    )
    path = arguments.output / f"resources-{slugify(target.name)}.json"
    profiles: list[dict[str, Any]] = []
    why_not: str | None = "it was not come to"
    wanted = chosen[: arguments.profiled]

    def keep() -> None:
        equal = sum(row["equal"] for row in profiles)
        seen = {"profiled": len(profiles), "of": len(wanted), "occupancy_equal": equal, "not_profiled_because": why_not}
        write(path, {**result, **seen, "rows": rows, "profiles": profiles})

    keep()
    try:
        ncu = find_ncu(arguments.ncu)
        why_not = None
        for one in wanted:
            profiles.append(profiled(*one, target, ncu))
            keep()
    except FusetuneError as error:
        why_not = str(error)
    keep()
    equal = sum(row["equal"] for row in profiles)
    for row in [row for row in profiles if not row["equal"]]:
        print(f"not equal: {row}")
    print(f"occupancy: {equal} of {len(profiles)} as ncu says{f'; {why_not}' if why_not else ''}")
    return 0 if result["equal"] == len(rows) and equal == len(profiles) else 1


def write(path: Path, result: dict[str, Any]) -> None:
    """The result so far: profiling takes longest, and may be cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def drawn(target: Target, count: int, chance: random.Random) -> Iterator[tuple[str, Problem, Config]]:
    """Configs of all problems in turn, and of each problem's variants in turn; spilling ones are not left out."""
    pools = []
    for op, problem in PROBLEMS:
        spec = load_spec(op)
        fitting = [c for c in spec.candidates(problem, target, "full") if spec.reject(c, problem, target) is None]
        chance.shuffle(fitting)
        by_variant: dict[str, list[Config]] = {}
        for config in fitting:
            by_variant.setdefault(config.variant, []).append(config)
        pools.append((op, problem, list(by_variant.values())))
    left = count
    for number in range(count * len(pools)):
        op, problem, variants = pools[number % len(pools)]
        configs = variants[number // len(pools) % len(variants)]
        if configs and left:  # Of some variants there are few, such as BASELINE alone.
            left -= 1
            yield op, problem, configs.pop()


def precompile(chosen: list[tuple[str, Problem, Config]], target: Target) -> None:
    """Fill Triton's cache on all cores."""
    for op in dict.fromkeys(op for op, _, _ in chosen):
        jobs = [Job(problem, config) for name, problem, config in chosen if name == op]
        for _ in compile_jobs(load_spec(op), jobs, target):
            pass


def compiled_facts(op: str, problem: Problem, config: Config, target: Target) -> dict[str, Any]:
    kernels = kernel_facts(load_spec(op), problem, config, target)
    return {
        "registers": [kernel.resources.registers for kernel in kernels],
        "stack_bytes": max(kernel.resources.stack_bytes for kernel in kernels),
        "spills": [kernel.resources.stack_bytes // 4 for kernel in kernels],
        "shared_bytes": [kernel.resources.shared_bytes for kernel in kernels],
    }


def compared(op: str, problem: Problem, config: Config, compiled: dict[str, Any]) -> dict[str, Any]:
    spec = load_spec(op)
    loaded = [launch.run() for launch in spec.launches(problem, config, tensors(spec, problem, config))]
    seen = {
        "registers": [kernel.n_regs for kernel in loaded],
        "spills": [kernel.n_spills for kernel in loaded],
        "shared_bytes": [kernel.metadata.shared for kernel in loaded],
    }
    return {
        "op": op,
        "problem": problem.describe(),
        "config": config.label(),
        "compiled": compiled,
        "loaded": seen,
        "equal": all(compiled[name] == seen[name] for name in seen),
    }


def tensors(spec: KernelSpec, problem: Problem, config: Config) -> dict[str, Any]:
    import torch

    made: dict[str, Any] = {}
    for operand in (*spec.operands(problem), *spec.workspace(problem, config)):
        values = torch.randn(operand.shape, device="cuda") * operand.std + operand.mean
        made[operand.name] = values.to(getattr(torch, operand.dtype))
    return made


def profiled(op: str, problem: Problem, config: Config, target: Target, ncu: Path) -> dict[str, Any]:
    """Theoretical occupancy beside the profiler's, of the kernel that multiplies. Raises as `profile_config` does."""
    found = inspect_config(load_spec(op), problem, config, target)
    main_kernel = found.kernels[found.main]
    resources = main_kernel.resources
    held = occupancy(resources.registers, resources.shared_bytes, main_kernel.num_warps, target)
    metrics = profile_config(ncu_command(ncu, op, problem, config, [main_kernel.name], [THEORY]))
    theirs = metrics[main_kernel.name][THEORY]
    print(f"profiled {op} {config.label()}: {held.fraction * 100:.2f}, by ncu {theirs}", flush=True)
    return {
        "op": op,
        "problem": problem.describe(),
        "config": config.label(),
        "occupancy": to_builtins(held),
        "ncu_percent": theirs,
        "equal": abs(held.fraction * 100 - theirs) < 0.1,
    }


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    sys.exit(main())
