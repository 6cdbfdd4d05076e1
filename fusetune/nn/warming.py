"""Make the plan of a problem before its first call, for `fusetune.warmup`."""

from __future__ import annotations

import torch

from fusetune.nn.dispatch import Counter, plan_for
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.stand_in import StandIn


def warm(op: str, problem: Problem, index: int) -> Config:
    """Compile and load what calls of a problem launch on CUDA device `index`, the current one; returns its config.

    Calls with contiguous, aligned tensors of one dtype find the plan; in training those that count their batches.
    """
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
    return plan_for(op, problem, tensors, problem.mode or "scale", counter).config
