"""gemm_scale with planted faults: candidates of certain tiles hang, crash or compute something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton
import triton.language as tl

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.space import Space
from fusetune.kernels.gemm_scale import GemmScale
from fusetune.kernels.spec import Launch

HANG = Config(BLOCK_K=16)
ILLEGAL_ADDRESS = Config(BLOCK_K=64)
NAN = Config(BLOCK_N=32)
WRONG_BY_ONE_PERCENT = Config(BLOCK_M=32)
OUT_OF_MEMORY = Config(BLOCK_N=128)


@triton.jit
def _spin(y_ptr, BLOCK: tl.constexpr):
    # Nobody writes y now, so the loop ends never; the compiler cannot know.
    value = tl.load(y_ptr)
    while tl.load(y_ptr, volatile=True) <= value:
        value = tl.load(y_ptr, volatile=True)


@triton.jit
def _wild(y_ptr, BLOCK: tl.constexpr):
    far = (tl.arange(0, BLOCK) + 1).to(tl.int64) * 1099511627776
    tl.store(y_ptr + far, 1.0)


@triton.jit
def _scale_all(y_ptr, count, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(y_ptr + at, mask=at < count) * factor, mask=at < count)


class FaultyGemmScale(GemmScale):
    name = "faulty_gemm_scale"
    space = Space({"BLOCK_M": (32, 64), "BLOCK_N": (32, 64, 128), "BLOCK_K": (16, 32, 64)})

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        launches = list(super().launches(problem, config, tensors))
        y = tensors["y"]
        if config == HANG:
            launches.append(Launch(_spin, (1,), {"y_ptr": y}, {"BLOCK": 1}))
        if config == ILLEGAL_ADDRESS:
            launches.append(Launch(_wild, (1,), {"y_ptr": y}, {"BLOCK": 32}))
        if config in (NAN, WRONG_BY_ONE_PERCENT):
            factor = float("nan") if config == NAN else 1.01
            count = problem.M * problem.N
            arguments = {"y_ptr": y, "count": count, "factor": factor}
            launches.append(Launch(_scale_all, (triton.cdiv(count, 256),), arguments, {"BLOCK": 256}))
        if config == OUT_OF_MEMORY and hasattr(y, "new_empty"):
            y.new_empty(1 << 50)
        return launches


SPEC = FaultyGemmScale()
