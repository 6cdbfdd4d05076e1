"""Compile ahead of time what calls will launch: nothing is run, tuned or timed, and no memory is taken on the GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from fusetune.core.trouble import machine_told
from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.runtime.believed import unfit_for_op
from fusetune.runtime.configs import DEFAULT_OP, active_source, device_identity, why_no_gpu

OPS = ("gemm_scale", "gemm_scale_bn")


class Warmed(NamedTuple):
    """One problem that is ready: with which config, and how many milliseconds that took."""

    op: str
    problem: Problem
    config: Config
    ms: float


def warmup(problems: Iterable[Problem | Mapping[str, Any]] | None = None, *, op: str = DEFAULT_OP) -> list[Warmed]:
    """Compile and load the kernels for these problems on the current GPU, so that their first call is a short one.

    A problem is a Problem of `op`, or a mapping of M, N, K and, where they differ from the defaults, dtype, precision,
    mode and op. None takes all that the loaded files hold for this GPU. The calls that profit have contiguous, aligned
    tensors of one dtype; in training they count their batches, as a module does.

    Raises NoUsableGpuError without a GPU, UsageError for an op that this runtime does not call,
    UnsupportedProblemError as `make_problem` does, and MachineError, or UsageError for what the user has set, where the
    machine lets nothing be compiled, as a full disk under Triton's cache.
    """
    import torch

    if not torch.cuda.is_available():
        raise NoUsableGpuError(f"nothing can be warmed up: {why_no_gpu()}")
    index = torch.cuda.current_device()
    wanted = _loaded(index) if problems is None else [_named(problem, op) for problem in problems]
    return [_warm(one_op, problem, index) for one_op, problem in wanted]


def _named(given: Problem | Mapping[str, Any], op: str) -> tuple[str, Problem]:
    if isinstance(given, Problem):
        found = op, given
    else:
        sizes = dict(given)
        named = sizes.pop("op", op)
        sizes.setdefault("dtype", "float32")
        try:
            found = named, make_problem(**sizes)
        except TypeError as error:
            raise UsageError(
                f"a problem to warm up is M, N, K and at most dtype, precision, mode and op; got {dict(given)}"
            ) from error
    if found[0] not in OPS:
        raise UsageError(f"op {found[0]!r} is not called by this runtime; warm up one of {', '.join(OPS)}")
    if (found[0] == "gemm_scale") != (found[1].mode is None):
        fix = "leave its mode out" if found[0] == "gemm_scale" else "give its mode, train or eval"
        raise UsageError(f"{found[0]} for {found[1].describe()}: {fix}")
    return found


def _loaded(index: int) -> list[tuple[str, Problem]]:
    """What the files hold for this GPU, but damaged entries, which a look-up does not use either."""
    identity = device_identity(index)
    return [
        (op, cast("Problem", entry.problem))
        for op in OPS
        for _, file in active_source().files(op, identity)
        if file.target == identity
        for entry in file.readable_entries()
        if unfit_for_op(op, entry) is None
    ]


def _warm(op: str, problem: Problem, index: int) -> Warmed:
    import torch

    from fusetune.nn.dispatch import Counter, plan_for
    from fusetune.nn.plans import StandIn

    began = time.perf_counter()
    device, dtype = torch.device("cuda", index), getattr(torch, problem.dtype)
    M, N, K = problem.M, problem.N, problem.K
    shapes: dict[str, tuple[int, ...]] = {"x": (M, K), "weight": (N, K), "bias": (N,), "scale": (N,)}
    if problem.mode is not None:
        shapes |= dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), (N,))
    tensors = {name: StandIn(shape, dtype, device) for name, shape in shapes.items()}
    counter: Counter = "none"
    if problem.mode == "train":
        tensors["num_batches_tracked"] = StandIn((), torch.int64, device)
        counter = "count"
    tensors["y"] = StandIn((M, N), dtype, device)
    with torch.cuda.device(index), machine_told(launching=True):
        plan = plan_for(op, problem, tensors, problem.mode or "scale", counter)
    return Warmed(op, problem, plan.config, (time.perf_counter() - began) * 1e3)
