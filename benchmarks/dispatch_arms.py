"""The arms of `benchmarks/dispatch.py`. Importing this loads torch and triton."""

from __future__ import annotations

import copy
import functools
import random
import resource
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import nn
from torch.nn.functional import linear

import fusetune
from fusetune.core.environment import Environment
from fusetune.nn.plans import PLANS
from fusetune.ops.gemm_scale.launches import gemm_launches, workspace
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.spec import Launch
from fusetune.runtime.configs import active_source

Arm = Callable[[], Any]
COMPILE_MODES = {"compile": "default", "max-autotune": "max-autotune-no-cudagraphs"}
CALLS, SHAPES = 1000, 50


class Plain(nn.Module):
    """Linear, scale, BatchNorm1d, as ModelNew's users write it."""

    def __init__(self, fused: fusetune.ModelNew) -> None:
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(part) for part in (fused.gemm, fused.scale, fused.bn))

    def forward(self, x: Any) -> Any:
        return self.bn(self.gemm(x) * self.scale)


def environment() -> Environment:
    """Versions, kernel hash and driver of this process."""
    return active_source().environment("gemm_scale")


def function_arms(M: int, K: int, N: int) -> dict[str, Callable[[], Arm]]:
    """What makes the function's arms, and those it is compared with."""
    x, weight = torch.randn(M, K, device="cuda"), torch.randn(N, K, device="cuda") / K**0.5
    bias, scale = torch.randn(N, device="cuda"), torch.randn(N, device="cuda")
    function = fusetune.fused_gemm_scale
    return {
        "fused_gemm_scale": lambda: lambda: function(x, weight, bias, scale),
        "linear_then_scale": lambda: lambda: linear(x, weight, bias) * scale,
        "linear": lambda: lambda: linear(x, weight, bias),
        "empty": lambda: lambda: torch.empty((M, N), device="cuda"),
        "kernel_grid": lambda: _by_jit(x, weight, bias, scale),
        "autotune": lambda: _autotuned(x, weight, bias, scale),
    }


def _launches(x: Any, weight: Any, bias: Any, scale: Any, y: Any) -> list[Launch]:
    """Of the config that fused_gemm_scale uses for these."""
    problem = make_problem(*x.shape[:1], *weight.shape, "float32")
    config = fusetune.explain(M=problem.M, N=problem.N, K=problem.K).config
    tensors = {"x": x, "weight": weight, "bias": bias, "scale": scale, "y": y}
    for operand in workspace(problem, config, "scale"):
        tensors[operand.name] = operand.allocate("cuda")
    return [launch for launch in gemm_launches(problem, config, tensors, "scale") if isinstance(launch, Launch)]


def _by_jit(x: Any, weight: Any, bias: Any, scale: Any) -> Arm:
    """What a user's own wrapper does: allocate y, `kernel[grid](...)`."""
    M, N = x.shape[0], weight.shape[0]
    y = torch.empty((M, N), device="cuda")
    prepared = []
    for launch in _launches(x, weight, bias, scale, y):
        places = [name for name, value in launch.arguments.items() if value is y]
        prepared.append((launch, places, {**launch._prepared()}))

    def call() -> Any:
        out = torch.empty((M, N), dtype=x.dtype, device=x.device)
        for launch, places, everything in prepared:
            for name in places:
                everything[name] = out
            launch.kernel[launch.grid](**everything)
        return out

    return call


def _autotuned(x: Any, weight: Any, bias: Any, scale: Any) -> Arm:
    """The same kernel under @triton.autotune with two configs, tuned before it is timed."""
    M, N = x.shape[0], weight.shape[0]
    y = torch.empty((M, N), device="cuda")
    launch = _launches(x, weight, bias, scale, y)[0]
    options = {name: launch.options[name] for name in ("num_warps", "num_stages")}
    block = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")
    tuned_of = {name: launch.constants[name] for name in block}
    configs = [triton.Config({**tuned_of, "GROUP_M": group}, **options) for group in (tuned_of["GROUP_M"], 2)]
    tuned = triton.autotune(configs=configs, key=["M", "N", "K"])(launch.kernel)
    rest = {name: value for name, value in launch.constants.items() if name not in block}
    rest |= {name: value for name, value in launch.options.items() if name not in options}
    places = [name for name, value in launch.arguments.items() if value is y]
    everything = {**launch._prepared(), **rest}
    for name in (*block, *options):
        everything.pop(name, None)

    def grid(meta: dict[str, int]) -> tuple[int, ...]:
        return launch.grid

    def call() -> Any:
        out = torch.empty((M, N), dtype=x.dtype, device=x.device)
        for name in places:
            everything[name] = out
        tuned[grid](**everything)
        return out

    return call


def module_arms(M: int, K: int, N: int) -> dict[str, Callable[[], Arm]]:
    """What makes ModelNew's arms, eager's, and torch.compile's in two modes, in evaluation and in training."""
    torch.manual_seed(0)
    ours = fusetune.ModelNew(K, N, (N,)).cuda()
    x = torch.randn(M, K, device="cuda")

    def made(name: str, mode: str) -> Arm:
        module = copy.deepcopy(ours) if name == "ModelNew" else Plain(ours)
        module.train(mode == "train")
        if name in COMPILE_MODES:
            module = torch.compile(module, mode=COMPILE_MODES[name], dynamic=False)
        return functools.partial(module, x)

    names = ("ModelNew", "eager", *COMPILE_MODES)
    return {f"{mode}/{name}": functools.partial(made, name, mode) for mode in ("eval", "train") for name in names}


def shapes_part() -> dict[str, Any]:
    """A thousand calls over fifty random shapes: growth of memory after the first pass, and what was compiled in it."""
    rng = random.Random(0)
    shapes = [
        (rng.randint(1, 2048), rng.choice([64, 256, 1000, 1024]), rng.choice([64, 250, 512])) for _ in range(SHAPES)
    ]
    modules = {(K, N): fusetune.ModelNew(K, N, (N,)).cuda().eval() for _, K, N in shapes}
    compiled = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told["repr"])

    @torch.no_grad()
    def one_pass() -> None:
        for M, K, N in shapes:
            modules[K, N](torch.randn(M, K, device="cuda"))

    try:
        one_pass()
        torch.cuda.synchronize()
        first = {"compiled": len(compiled), "plans": PLANS.count, **memory()}
        for _ in range(CALLS // SHAPES):
            one_pass()
        torch.cuda.synchronize()
        last = {"compiled": len(compiled), "plans": PLANS.count, **memory()}
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
    return {"after_the_first_pass": first, "growth": {name: last[name] - first[name] for name in first}}


def memory() -> dict[str, int]:
    """Bytes on the GPU that are allocated now, and KiB of this process at its largest."""
    torch.cuda.synchronize()
    return {
        "gpu_bytes": torch.cuda.memory_allocated(),
        "host_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
