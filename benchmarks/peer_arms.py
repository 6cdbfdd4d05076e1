"""The arms of `benchmarks/peers.py`: each computes one cell on the n-th set of inputs, as its users would have it.

Importing this loads torch and triton.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from family_sweeps import Cell, first_line
from filelock import FileLock
from torch.nn.functional import batch_norm, linear

from fusetune.measure.launcher import Launcher
from fusetune.ops.gemm_scale.batch_norm import EPS, MOMENTUM
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.tiles import tiled_products
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import KernelSpec

L2_TURNOVER = 3
REPLAY_US = 1000.0
WARM_UP_S = 0.2
COMPILE_MODES = {"compile": None, "max-autotune": "max-autotune-no-cudagraphs"}
Call = Callable[[int], Any]
"""Computes the n-th set of inputs and returns y."""


@dataclass
class Bed:
    """One cell's tensors: `sets` of inputs to walk through, and one y that our own arms write all results to.

    One y, because the peers' outputs come from an allocator that hands the same memory out again.
    """

    cell: Cell
    sets: list[dict[str, Any]]
    spec: KernelSpec
    dry: bool = False
    states: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)

    def set_precision(self) -> None:
        """TF32 for everybody, or for nobody."""
        torch.backends.cuda.matmul.allow_tf32 = not self.cell.near_ieee

    def refer(self) -> None:
        """The float64 results for the first set, once for all arms."""
        names = [operand.name for operand in self.spec.operands(self.cell.problem) if operand.role != "output"]
        self.states = {
            operand.name: self.sets[0][operand.name].clone()
            for operand in self.spec.operands(self.cell.problem)
            if operand.role == "state"
        }
        first = {name: self.sets[0][name] for name in names}
        self.references = dict(self.spec.reference(self.cell.problem, first))

    def errors(self, name: str, call: Call) -> dict[str, float]:
        """Run an arm on the first set: ||out - ref|| / ||ref|| of y, and in training of the running statistics."""
        for state, before in self.states.items():
            self.sets[0][state].copy_(before)
        self.sets[0]["y"].fill_(math.nan)
        found = call(0).double()
        if name.startswith("cublas"):
            found = found * self.sets[0]["scale"].double()  # it leaves the scale out
        results = {"y": found, **{state: self.sets[0][state].double() for state in self.states}}
        return {
            key: float((results[key] - reference).norm() / reference.norm())
            for key, reference in self.references.items()
        }


def make_bed(cell: Cell, device: str, sets: int, seed: int = 0, *, dry: bool = False) -> Bed:
    """Draw the inputs as the op's spec says."""
    spec = load_spec(cell.spec_name)
    generator = torch.Generator(device=device).manual_seed(seed)
    operands = spec.operands(cell.problem)
    outputs = {
        operand.name: torch.empty(operand.shape, dtype=getattr(torch, operand.dtype), device=device)
        for operand in operands
        if operand.role == "output"
    }
    drawn = []
    for _ in range(sets):
        tensors = {}
        for operand in operands:
            if operand.role != "output":
                tensor = torch.empty(operand.shape, dtype=getattr(torch, operand.dtype), device=device)
                tensors[operand.name] = tensor.normal_(operand.mean, operand.std, generator=generator)
        drawn.append({**tensors, **outputs})
    bed = Bed(cell, drawn, spec, dry)
    bed.set_precision()
    return bed


def input_bytes(cell: Cell) -> int:
    """Bytes of one set of inputs; y is shared and does not count."""
    operands = load_spec(cell.spec_name).operands(cell.problem)
    return sum(operand.numel for operand in operands if operand.role != "output") * cell.problem.element_bytes


def make_arm(name: str, bed: Bed, config: Config) -> Call:
    """The arm's call, not yet run. `config` is ours."""
    if name in {"fusetune", "baseline"}:
        return _ours(bed, config if name == "fusetune" else BASELINE)
    if name == "triton-autotune":
        return _autotuned(bed)
    if name == "seed":
        return _seed(bed)
    function, names = _plain(bed.cell.op)
    arguments = [[tensors[name] for name in names] for tensors in bed.sets]
    if name.startswith("cublas"):
        return lambda index: linear(*arguments[index][:3])
    if name in COMPILE_MODES:
        backend: dict[str, Any] = {"mode": COMPILE_MODES[name]}
        function = torch.compile(function, dynamic=False, fullgraph=True, **backend)
    return lambda index: function(*arguments[index])


# The op as plain PyTorch, for eager and for torch.compile.


def _gemm_scale(x: Any, weight: Any, bias: Any, scale: Any) -> Any:
    return linear(x, weight, bias) * scale


def _eval(x: Any, weight: Any, bias: Any, scale: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    return batch_norm(linear(x, weight, bias) * scale, mean, var, gamma, beta, False, MOMENTUM, EPS)


def _train(x: Any, weight: Any, bias: Any, scale: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    return batch_norm(linear(x, weight, bias) * scale, mean, var, gamma, beta, True, MOMENTUM, EPS)


def _plain(op: str) -> tuple[Callable[..., Any], Sequence[str]]:
    names = ("x", "weight", "bias", "scale")
    if op == "gemm_scale":
        return _gemm_scale, names
    return (_train if op == "train" else _eval), (*names, "gamma", "beta", "running_mean", "running_var")


def _ours(bed: Bed, config: Config) -> Call:
    problem, first = bed.cell.problem, bed.sets[0]
    scratch = {operand.name: operand.allocate(first["x"].device) for operand in bed.spec.workspace(problem, config)}
    if bed.dry:

        def interpret(index: int) -> Any:
            for launch in bed.spec.launches(problem, config, {**bed.sets[index], **scratch}):
                launch.run()
            return first["y"]

        return interpret
    launches = bed.spec.launches(problem, config, {**first, **scratch})
    launchers = [Launcher(launch, bed.sets, scratch) for launch in launches]

    def call(index: int) -> Any:
        for launcher in launchers:
            launcher.launch(index)
        return first["y"]

    return call


def autotuned_configs() -> list[Config]:
    """Thirty configs, such as a hand-written @triton.autotune list holds."""
    shapes = [
        (64, 64, 32, 4, 2),
        (64, 64, 32, 4, 3),
        (64, 64, 64, 4, 3),
        (32, 32, 64, 4, 3),
        (32, 64, 64, 4, 4),
        (64, 32, 64, 4, 4),
        (16, 64, 128, 4, 3),
        (16, 128, 64, 4, 4),
        (64, 16, 128, 4, 4),
        (32, 16, 256, 4, 3),
        (32, 128, 64, 4, 3),
        (64, 128, 32, 4, 4),
        (64, 128, 64, 4, 3),
        (128, 64, 32, 4, 4),
        (128, 64, 64, 4, 3),
        (128, 128, 32, 4, 3),
        (128, 128, 32, 8, 4),
        (128, 128, 64, 4, 3),
        (128, 128, 64, 8, 3),
        (64, 256, 32, 4, 4),
        (64, 256, 64, 8, 3),
        (256, 64, 32, 4, 4),
        (128, 256, 32, 8, 3),
        (128, 256, 32, 8, 4),
        (128, 256, 64, 8, 3),
        (256, 128, 32, 8, 3),
        (256, 128, 32, 8, 4),
        (256, 128, 64, 8, 3),
    ]
    return [
        Config(
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            BLOCK_K=block_k,
            GROUP_M=8 if block_m >= 64 and block_n >= 64 else 1,
            num_warps=warps,
            num_stages=stages,
        )
        for block_m, block_n, block_k, warps, stages in shapes
    ]


def _autotuned(bed: Bed) -> Call:
    """@triton.autotune over the tiled kernel; what it finds is kept in Triton's cache for the next process."""
    problem = bed.cell.problem
    M, N = problem.M, problem.N
    tuned_names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")
    configs = [
        triton.Config(
            {name: getattr(config, name) for name in tuned_names},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        for config in (autotuned_configs()[:2] if bed.dry else autotuned_configs())
    ]
    evenness = triton.heuristics(
        {
            "EVEN_K": lambda given: given["K"] % given["BLOCK_K"] == 0,
            "EVEN_MN": lambda given: given["M"] % given["BLOCK_M"] == 0 and given["N"] % given["BLOCK_N"] == 0,
        }
    )
    tuner = triton.autotune(
        configs=configs,
        key=["M", "N", "K", "PRECISION"],
        do_bench=_dry_bench if bed.dry else _alone_bench,
        cache_results=not bed.dry,
    )
    tuned = tuner(evenness(tiled_products))

    def grid(meta: Mapping[str, int]) -> tuple[int]:
        return (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)

    described = [bed.spec.launches(problem, BASELINE, tensors)[0] for tensors in bed.sets]
    chosen = {*tuned_names, "EVEN_K", "EVEN_MN"}
    given = [
        {**launch.arguments, **{name: value for name, value in launch.constants.items() if name not in chosen}}
        for launch in described
    ]

    def call(index: int) -> Any:
        y = torch.empty_like(bed.sets[0]["y"])
        tuned[grid](**{**given[index], "y_ptr": y}, enable_fp_fusion=True)
        return y

    return call


def _dry_bench(run: Callable[[], Any], quantiles: Sequence[float]) -> list[float]:
    run()
    return [1.0] * len(quantiles)


def _alone_bench(run: Callable[[], Any], quantiles: Sequence[float]) -> Any:
    with gpu_alone():
        return triton.testing.do_bench(run, quantiles=quantiles)


@triton.jit
def seed_products(  # type: ignore[no-untyped-def]
    x_ptr, wt_ptr, bias_ptr, scale_ptr, y_ptr, M, N, K, stride_xm, stride_xk, stride_wk, stride_wn, stride_ym,
    stride_yn, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A plain tiled product with masked loads of x [M, K] and a transposed copy of W [K, N], as one writes it first."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        at = start + depth
        x_at = x_ptr + rows[:, None] * stride_xm + at[None, :] * stride_xk
        w_at = wt_ptr + at[:, None] * stride_wk + cols[None, :] * stride_wn
        x = tl.load(x_at, mask=(rows < M)[:, None] & (at < K)[None, :], other=0.0)
        w = tl.load(w_at, mask=(at < K)[:, None] & (cols < N)[None, :], other=0.0)
        acc += tl.dot(x, w, input_precision="tf32")
    bias = tl.load(bias_ptr + cols, mask=cols < N, other=0.0)
    scale = tl.load(scale_ptr + cols, mask=cols < N, other=1.0)
    y = (acc + bias[None, :]) * scale[None, :]
    y_at = y_ptr + rows[:, None] * stride_ym + cols[None, :] * stride_yn
    tl.store(y_at, y, mask=(rows < M)[:, None] & (cols < N)[None, :])


def _seed(bed: Bed) -> Call:
    """The kernel that this project began with, with Triton's default warps and stages; W is transposed each time."""
    problem = bed.cell.problem
    M, N, K = problem.M, problem.N, problem.K

    def call(index: int) -> Any:
        tensors = bed.sets[index]
        x, y = tensors["x"], torch.empty_like(tensors["y"])
        wt = tensors["weight"].t().contiguous()
        seed_products[(triton.cdiv(M, 64), triton.cdiv(N, 64))](
            x, wt, tensors["bias"], tensors["scale"], y, M, N, K, *x.stride(), *wt.stride(), *y.stride(),
            BLOCK_M=64, BLOCK_N=64, BLOCK_K=32,
        )  # fmt: skip
        return y

    return call


# While several processes compile, each tunes on a GPU that it has to itself for the moment.


@contextlib.contextmanager
def gpu_alone() -> Iterator[None]:
    with _lock:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield


_lock = FileLock(Path(tempfile.gettempdir()) / "fusetune-peers-tuning.lock", mode=0o666)


def tune_alone() -> bool:
    """Have torch.compile's own tuning hold the GPU while it times; False where this torch does not offer it."""
    try:
        from torch._inductor.runtime import benchmarking
    except ImportError:
        return False
    if hasattr(benchmarking, "set_gpu_benchmark_lock_context"):
        benchmarking.set_gpu_benchmark_lock_context(gpu_alone)
        return True
    benchmarker = getattr(benchmarking, "benchmarker", None)
    timed = getattr(benchmarker, "benchmark_gpu", None)
    if timed is None:
        return False

    def benchmark_gpu(*arguments: Any, **named: Any) -> Any:
        with gpu_alone():
            return timed(*arguments, **named)

    benchmarker.benchmark_gpu = benchmark_gpu
    return True


# How the arms of a cell are timed.


def sets_for(set_bytes: int, l2_bytes: int) -> int:
    """How many sets of inputs make 3 x L2 pass between two uses of one; two at least."""
    sets = max(2, math.ceil(L2_TURNOVER * l2_bytes / set_bytes))
    assert sets * set_bytes >= L2_TURNOVER * l2_bytes, "an input would still be in L2"
    return sets


def launches_for(fastest_us: float, sets: int) -> int:
    """Launches in a graph: whole walks through the sets, a replay of the fastest arm at least REPLAY_US long."""
    return sets * max(1, math.ceil(REPLAY_US / (fastest_us * sets)))


class GraphBench:
    """A CUDA graph an arm, equally many launches in each, replayed in turns."""

    def __init__(self, sets: int) -> None:
        self._sets = sets
        self._stream = torch.cuda.Stream()
        self._graphs: dict[str, Any] = {}
        self.launches = sets
        self.fastest_us = math.inf

    def begin(self, calls: Mapping[str, Callable[[int], Any]]) -> dict[str, str]:
        """Warm every arm up and capture it; what cannot be captured comes back with its reason."""
        failed = {}
        gc.collect()
        gc.disable()  # What is freed within a capture could break it.
        try:
            for arm, call in list(calls.items())[:1]:
                probe = self._captured(call, self._sets)
                self._replay([probe])
                self.fastest_us = self._replay([probe, probe])[1] / self._sets
                del probe
                self.launches = launches_for(self.fastest_us, self._sets)
                print(f"  about {self.fastest_us:.4g} us ({arm}), {self.launches} launches a graph", file=sys.stderr)
            for arm, call in calls.items():
                try:
                    self._graphs[arm] = self._captured(call, self.launches)
                except Exception as error:  # noqa: BLE001 - an arm that cannot be captured is a result
                    failed[arm] = f"not captured: {first_line(error)}"
                    torch.cuda.synchronize()
        finally:
            gc.enable()
        return failed

    def times(self, rounds: int, rng: random.Random, after_round: Callable[[], None]) -> dict[str, list[float]]:
        """Microseconds a launch by arm, one each round."""
        arms = list(self._graphs)
        ends = time.monotonic() + WARM_UP_S
        while time.monotonic() < ends:
            self._replay([self._graphs[arm] for arm in arms])
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            order = rng.sample(arms, len(arms))
            # The first replay hides the host's time to queue the rest, and is not counted.
            lead = rng.choice(arms)
            taken = self._replay([self._graphs[arm] for arm in (lead, *order)])[1:]
            for arm, total in zip(order, taken, strict=True):
                times[arm].append(total / self.launches)
            after_round()
        return times

    def close(self) -> None:
        self._graphs.clear()

    def _captured(self, call: Callable[[int], Any], launches: int) -> Any:
        torch.cuda.synchronize()
        # Loading code and making workspaces for this stream is not allowed within a capture.
        with torch.cuda.stream(self._stream):
            for index in range(min(3, self._sets)):
                call(index)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for index in range(launches):
                    call(index % self._sets)
            finally:
                graph.capture_end()
        return graph

    def _replay(self, graphs: Sequence[Any]) -> list[float]:
        events = []
        for graph in graphs:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        return [float(start.elapsed_time(end)) * 1e3 for start, end in events]


class DryBench:
    """The same without a GPU, for the paths around it: its times mean nothing."""

    def __init__(self, sets: int) -> None:
        self._sets = self.launches = sets
        self._calls: dict[str, Callable[[int], Any]] = {}
        self.fastest_us = 1.0

    def begin(self, calls: Mapping[str, Callable[[int], Any]]) -> dict[str, str]:
        self._calls = dict(calls)
        return {}

    def times(self, rounds: int, rng: random.Random, after_round: Callable[[], None]) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {arm: [] for arm in self._calls}
        for _ in range(rounds):
            for arm in rng.sample(list(self._calls), len(self._calls)):
                began = time.perf_counter()
                for index in range(self._sets):
                    self._calls[arm](index)
                times[arm].append((time.perf_counter() - began) * 1e6 / self._sets)
            after_round()
        return times

    def close(self) -> None:
        self._calls.clear()
