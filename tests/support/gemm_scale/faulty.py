"""gemm_scale with six planted bad candidates among twenty good ones, each bad in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton
import triton.language as tl

from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import GemmScale
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.space import Space
from fusetune.ops.spec import Launch

HANG = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=64, num_stages=4)
ILLEGAL_ADDRESS = Config(BLOCK_M=64, BLOCK_N=32, BLOCK_K=64, num_stages=4)
OUT_OF_MEMORY = Config(BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, num_stages=4)
COMPILE_ERROR = Config(BLOCK_M=32, BLOCK_N=64, BLOCK_K=64, num_stages=4)
NAN = Config(BLOCK_M=16, BLOCK_N=32, BLOCK_K=64, num_stages=4)
WRONG_BY_ONE_PERCENT = Config(BLOCK_M=32, BLOCK_N=16, BLOCK_K=64, num_stages=4)

BAD = {
    HANG: "hang",
    ILLEGAL_ADDRESS: "launch_error",
    OUT_OF_MEMORY: "out_of_memory",
    COMPILE_ERROR: "compile_error",
    NAN: "nan",
    WRONG_BY_ONE_PERCENT: "wrong_result",
}
"""What each must be recorded with."""

GOOD = (
    BASELINE,
    *(Config(BLOCK_M=m, BLOCK_N=n, BLOCK_K=32) for m in (32, 64, 128) for n in (32, 128)),
    *(Config(BLOCK_M=16, BLOCK_N=n, BLOCK_K=32) for n in (32, 64)),
    *(Config(BLOCK_M=m, BLOCK_N=n, BLOCK_K=64, num_stages=3) for m in (16, 32, 64) for n in (32, 64, 128)),
    Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3),
    Config(BLOCK_M=128, BLOCK_N=64, num_warps=8),
)


@triton.jit
def _spin(y_ptr):
    # Nobody writes y now, so the loop never ends; the compiler cannot know.
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


@triton.jit
def _does_not_compile(y_ptr, BLOCK: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK))


class ListedSpace(Space, frozen=True):
    """A space that is a list."""

    def configs(self) -> tuple[Config, ...]:
        return (*GOOD, *BAD)


class GoodSpace(Space, frozen=True):
    """The same without the bad ones."""

    def configs(self) -> tuple[Config, ...]:
        return GOOD


class FaultyGemmScale(GemmScale):
    name = "faulty_gemm_scale"
    space = ListedSpace({})

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        launches = list(super().launches(problem, config, tensors))
        y = tensors["y"]
        on_gpu = hasattr(y, "new_empty")
        if config == HANG:
            launches.append(Launch(_spin, (1,), {"y_ptr": y}, {}))
        if config == ILLEGAL_ADDRESS:
            launches.append(Launch(_wild, (1,), {"y_ptr": y}, {"BLOCK": 32}))
        if config in (NAN, WRONG_BY_ONE_PERCENT):
            factor = float("nan") if config == NAN else 1.01
            count = problem.M * problem.N
            arguments = {"y_ptr": y, "count": count, "factor": factor}
            launches.append(Launch(_scale_all, (triton.cdiv(count, 256),), arguments, {"BLOCK": 256}))
        if config == OUT_OF_MEMORY and on_gpu:
            y.new_empty(1 << 50)
        if config == COMPILE_ERROR:
            launches.append(Launch(_does_not_compile, (1,), {"y_ptr": y}, {"BLOCK": 32}))
        return launches


class SoundGemmScale(GemmScale):
    name = "sound_gemm_scale"
    space = GoodSpace({})


SPEC = FaultyGemmScale()
SOUND_SPEC = SoundGemmScale()
