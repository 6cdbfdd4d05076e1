"""An op of two variants and three examples, small enough that a visit to it takes no time: z = 2 x."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def double(x_ptr, z_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(z_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


class Doubled(KernelSpec):
    """x and z have n elements; a BLOCK from 1024 on counts as another variant."""

    name = "doubled"
    space = Space({"BLOCK": (256, 512, 1024, 2048, 4096), "num_warps": (4, 8), "num_stages": (2,)})

    def examples(self) -> tuple[Any, ...]:
        return tuple(self.problem({"n": size}) for size in (4096, 65536, 1 << 24))

    def operands(self, problem: Any) -> tuple[Operand, ...]:
        return (Operand("x", (problem.n,), "float32"), Operand("z", (problem.n,), "float32", "output"))

    def launches(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> list[Launch]:
        arguments = {"x_ptr": tensors["x"], "z_ptr": tensors["z"], "n": problem.n}
        grid = (triton.cdiv(problem.n, config.BLOCK),)
        return [Launch(double, grid, arguments, {"BLOCK": config.BLOCK}, config.options())]

    def reference(self, problem: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"z": 2 * inputs["x"].double()}

    def signature(self, problem: Any, config: Any) -> Hashable:
        return config.BLOCK >= 1024


class Broken(Doubled):
    """Its examples cannot be listed."""

    name = "doubled_badly"

    def examples(self) -> tuple[Any, ...]:
        raise KeyError("n")


SPEC = Doubled()
BROKEN = Broken()
