"""The arms of `benchmarks/dispatch.py` for a kernel that is none of ours, of 16 arguments. Loads torch and triton."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import NamedProblem
from fusetune.ops.device import gpu_identity
from fusetune.ops.naming import kernel_place, op_name
from fusetune.ops.sources import source_hash_of
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, GainOver, Times
from fusetune.store.yaml_files import write_entry

Arm = Callable[[], Any]
M, K, N = 128, 1024, 512
CALLS, SHAPES = 1000, 50
TILE = {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_K": 128, "GROUP_M": 8}
BEFORE = {**TILE, "BLOCK_N": 64, "BLOCK_K": 32}


@triton.jit
def products(
    x_ptr,
    w_ptr,
    bias_ptr,
    scale_ptr,
    y_ptr,
    M,
    N,
    K,
    stride_x,
    stride_w,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TF32: tl.constexpr,
):
    """Compute y = (x @ w.T + bias) * scale, as a user may write it."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = tl.program_id(0) // (GROUP_M * tiles_n)
    rows = min(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + tl.program_id(0) % (GROUP_M * tiles_n) % rows
    tile_n = tl.program_id(0) % (GROUP_M * tiles_n) // rows
    at_m, at_n = tile_m * BLOCK_M + tl.arange(0, BLOCK_M), tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    at_k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        x = tl.load(x_ptr + at_m[:, None] * stride_x + k + at_k[None, :], mask=at_m[:, None] < M, other=0.0)
        w = tl.load(w_ptr + at_n[None, :] * stride_w + k + at_k[:, None], mask=at_n[None, :] < N, other=0.0)
        acc = tl.dot(x, w, acc, input_precision="tf32" if TF32 else "ieee")
    bias, scale = tl.load(bias_ptr + at_n, mask=at_n < N), tl.load(scale_ptr + at_n, mask=at_n < N)
    y = (acc + bias[None, :]) * scale[None, :]
    tl.store(y_ptr + at_m[:, None] * stride_y + at_n[None, :], y, mask=(at_m[:, None] < M) & (at_n[None, :] < N))


CONFIGS = [triton.Config(BEFORE, num_warps=4, num_stages=3), triton.Config(TILE, num_warps=8, num_stages=2)]


def write_tuned(folder: Path) -> None:
    """Write an entry for the arms' launch on the GPU here, with a config that no list of theirs holds.

    Its figures are made up: what is measured here is the host alone.
    """
    found = gpu_identity(torch.cuda.current_device())
    identity = TargetIdentity(name=found.name, capability=found.capability, sms=found.sms)
    place = (products.fn.__module__, products.fn.__qualname__, products.fn.__code__.co_filename)
    pointers = {f"{name}_ptr": "float32" for name in ("x", "w", "bias", "scale", "y")}
    numbers = {"M": M, "N": N, "K": K, "stride_x": K, "stride_w": K, "stride_y": N}
    grid = triton.cdiv(M, BEFORE["BLOCK_M"]) * triton.cdiv(N, BEFORE["BLOCK_N"])
    gain = Gain(median=0.2, low=0.19, high=0.21, confidence=0.95, min_gain=0.02, blocks=50)
    entry = Entry(
        problem=NamedProblem(**pointers, **numbers, TF32=True, grid_0=grid),
        before=NamedConfig(**BEFORE, num_warps=4, num_stages=3),
        config=NamedConfig(**TILE, num_warps=4, num_stages=3),
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=Environment(
            triton=version("triton"),
            kernel_hash=source_hash_of(products),
            torch=str(torch.__version__),
            cuda=torch.version.cuda,
        ),
        run="20261129T101500-3f9a21",
        date="2026-11-29",
        gain=gain,
        gain_over_baseline=GainOver(0.2, 0.19, 0.21, 50, NamedConfig(**BEFORE)),
        time_us=Times(before=10.0, baseline=10.0, conservative=10.0, config=8.0),
    )
    path = config_path(folder, identity.name, op_name(*place))
    write_entry(path, op_name(*place), identity, entry, None, (kernel_place(*place), place[2]))


def launched(kernel: Any, rows: int = M, **given: Any) -> Arm:
    """A launch with a grid of its own at each call."""
    x, w = torch.randn(rows, K, device="cuda"), torch.randn(N, K, device="cuda") / K**0.5
    bias, scale = torch.randn(N, device="cuda"), torch.randn(N, device="cuda")
    y = torch.empty(rows, N, device="cuda")

    def call() -> Any:
        m, n = x.shape[0], w.shape[0]
        grid = lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)  # noqa: E731
        kernel[grid](x, w, bias, scale, y, m, n, K, K, K, N, TF32=True, **given)
        return y

    return call


def tuned() -> Arm:
    """The launch of our decorator, which takes the entry."""
    kernel = fusetune.autotune(configs=CONFIGS, key=["M", "N", "K"])(products)
    call = launched(kernel)
    call()
    if kernel.best_config.kwargs != TILE or kernel.best_config in CONFIGS:
        raise RuntimeError(f"the entry is not used: {kernel.best_config} runs")
    return call


def arms() -> dict[str, Callable[[], Arm]]:
    """What makes the arms: the same launch in Triton's two ways and in ours."""
    return {
        "user/kernel_grid": lambda: launched(products, **TILE, num_warps=4, num_stages=3),
        "user/autotune": lambda: launched(triton.autotune(configs=CONFIGS, key=["M", "N", "K"])(products)),
        "user/fusetune": tuned,
    }


def installed_arms() -> dict[str, Callable[[], Arm]]:
    """What makes the arms under `fusetune.install`: both of Triton's ways and ours take the entry, or miss one."""
    return {
        "user/run_autotune": lambda: launched(triton.autotune(configs=CONFIGS, key=["M", "N", "K"])(products)),
        "user/run_kernel_grid": lambda: launched(products, **BEFORE, num_warps=4, num_stages=3),
        "user/run_fusetune": tuned,
        "user/run_missed": lambda: launched(products, 4 * M, **BEFORE, num_warps=4, num_stages=3),
    }


def shapes() -> dict[str, Any]:
    """A thousand calls over fifty random shapes: growth of memory after the first pass, and what was compiled in it."""
    from dispatch_arms import memory

    rng = random.Random(0)
    sizes = [(rng.randint(1, 2048), rng.choice([64, 250, 256, 512])) for _ in range(SHAPES)]
    kernel = fusetune.autotune(configs=CONFIGS, key=["M", "N", "K"])(products)
    w, bias = torch.randn(512, K, device="cuda"), torch.randn(512, device="cuda")
    compiled: list[Any] = []
    before = triton.knobs.runtime.jit_post_compile_hook
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told["repr"])

    def one_pass() -> None:
        for m, n in sizes:
            x, y = torch.randn(m, K, device="cuda"), torch.empty(m, n, device="cuda")
            grid = lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)  # noqa: B023, E731
            kernel[grid](x, w, bias, bias, y, m, n, K, K, K, n, TF32=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # most of the shapes have no entry
            one_pass()
        first = {"compiled": len(compiled), **memory()}
        for _ in range(CALLS // SHAPES):
            one_pass()
        last = {"compiled": len(compiled), **memory()}
    finally:
        triton.knobs.runtime.jit_post_compile_hook = before
    return {"after_the_first_pass": first, "growth": {name: last[name] - first[name] for name in first}}
