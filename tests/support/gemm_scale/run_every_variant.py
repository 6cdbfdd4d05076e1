"""Each variant of an op once, on a small problem with edges: what compute-sanitizer watches.

`run_every_variant.py DTYPE OP [MODE]`.
"""

from __future__ import annotations

import sys

import torch

from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import reject_reason
from fusetune.ops.loading import load_spec

CONFIGS = (
    BASELINE,
    Config(BLOCK_M=32, BLOCK_N=16, BLOCK_K=64, num_stages=3, GROUP_M=8),
    Config("vectored", 64, 32, 64, num_stages=3),
    Config("vectored", 64, 32, 64, SPLIT_K=3, num_stages=3),
    Config("split_k", 64, 32, 64, SPLIT_K=4, num_stages=3),
    Config("split_k", 32, 32, 64, SPLIT_K=4, num_stages=3),
    Config(BLOCK_M=128, BLOCK_N=16, BLOCK_K=64, num_stages=3),
    Config("persistent", 128, 16, 64, num_stages=3),
    Config("persistent", 16, 32, 64, num_warps=2, num_stages=3),
    Config("persistent", 64, 64, 32, num_stages=3),
    Config("persistent", 64, 64, 32, SPLIT_K=4, num_stages=3),
    Config("persistent", 128, 16, 32, SPLIT_K=2, num_stages=3),
    Config("persistent", 32, 128, 32, SPLIT_K=4, num_stages=3),
    Config("persistent", 128, 128, 32, num_warps=8, num_stages=3, GROUP_M=8),
    Config("persistent", 128, 256, 32, num_warps=8, num_stages=3),
    Config("masked", 64, 64, 32, num_stages=3),
    Config("masked", 32, 32, 64, SPLIT_K=2, num_stages=3),
    Config("padded", 64, 64, 32, num_stages=3),
    Config("padded", 64, 64, 32, SPLIT_K=3, num_stages=3),
    Config("padded", 32, 32, 64, SPLIT_K=2, num_stages=3),
    Config("reread", 64, 64, 32, num_stages=3),
    Config("owner", 64, 64, 32, num_stages=3),
    Config("deferred", 64, 128, 64, num_stages=3),
    Config("deferred", 128, 256, 64, num_warps=8, num_stages=3),
)
NO_REASON_NOT_TO = {"few_tiles", "tile_too_large", "idle_splits", "idle_stages", "no_effect"}
"""Reasons of a rejection for which a config would be slow, not wrong."""


def run(op: str, problem: Problem, config: Config) -> None:
    """Launch once on random inputs and compare with float64; exits with a message where that is wrong."""
    spec = load_spec(op)
    tensors = {}
    for operand in (*spec.operands(problem), *spec.workspace(problem, config)):
        values = torch.randn(operand.shape, device="cuda") * operand.std + operand.mean
        tensors[operand.name] = values.to(getattr(torch, operand.dtype))
    references = spec.reference(problem, tensors)
    for launch in spec.launches(problem, config, tensors):
        launch.run()
    torch.cuda.synchronize()
    for name, reference in references.items():
        error = float((tensors[name].double() - reference).norm() / reference.norm())
        print(f"{op} {problem.describe()} {config.label()}: {name} {error:.1e}", flush=True)
        if not error <= 2 * spec.tolerance(problem).frobenius:
            sys.exit("wrong")


def main() -> None:
    torch.manual_seed(0)
    target = local_target(0)
    dtype, op, mode = (*sys.argv[1:], None)[:3]
    for M, K, N in ((120, 256, 264), (70, 123, 77), (1500, 384, 2056)):
        problem = make_problem(M, N, K, dtype, None, mode)
        for config in CONFIGS:
            rejection = reject_reason(config, problem, target)
            if config.variant in {"reread", "owner"} and mode != "train":
                continue
            if M == 1500 and config.variant != "deferred":
                continue  # where CTAs have more than one tile: long under a sanitizer
            if rejection is None or rejection.reason in NO_REASON_NOT_TO:
                run(op, problem, config)


if __name__ == "__main__":
    main()
