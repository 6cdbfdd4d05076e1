"""gemm_scale: y = (x @ W.T + bias) * scale, with W [N, K] read as nn.Linear keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fusetune.core.config import Config
from fusetune.core.problem import DTYPES, Problem
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.gemm_scale.launchable import unlaunchable
from fusetune.ops.gemm_scale.launches import DEFERRED_KERNELS, KERNELS, gemm_launches, references, workspace
from fusetune.ops.gemm_scale.space import GEMM_SPACE
from fusetune.ops.spec import Call, Launch, Operand, Tolerance, hash_kernels


class GemmScale:
    """The KernelSpec of gemm_scale."""

    name = "gemm_scale"
    space = GEMM_SPACE
    dtypes = DTYPES
    modes: tuple[str | None, ...] = (None,)
    later_kernels: ClassVar[Mapping[str, tuple[Any, ...]]] = {"deferred": DEFERRED_KERNELS}
    """What variants that came later run besides, or instead of, the kernels that all others share."""
    staged_loads = 2  # x and W; bias and scale are loaded once, after the loop

    def operands(self, problem: Problem) -> tuple[Operand, ...]:
        """x, weight, bias, scale and y; the weight is spread as nn.Linear spreads it, so that y is of order one."""
        if problem.mode is not None:
            raise UnsupportedProblemError(
                f"gemm_scale has no mode {problem.mode!r}: training and evaluation are the same"
            )
        M, N, K, dtype = problem.M, problem.N, problem.K, problem.dtype
        return (
            Operand("x", (M, K), dtype),
            Operand("weight", (N, K), dtype, std=1 / math.sqrt(3 * K)),
            Operand("bias", (N,), dtype, std=1 / math.sqrt(3 * K)),
            Operand("scale", (N,), dtype),
            Operand("y", (M, N), dtype, role="output"),
        )

    def workspace(self, problem: Problem, config: Config) -> tuple[Operand, ...]:
        """split_k's summands."""
        return workspace(problem, config, "scale")

    def unlaunchable(self, problem: Problem, config: Config) -> str | None:
        """What our variants cannot do, which depends on the mode."""
        return unlaunchable(config, problem, problem.mode)

    def constants(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """None: every variant reads the weights as they are."""
        return {}

    def references(self, problem: Problem) -> tuple[Config, ...]:
        """Products by cuBLAS, and a kernel that finishes them."""
        return references(problem, "scale")

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch | Call]:
        """One launch, or more where the variant needs further kernels."""
        return gemm_launches(problem, config, tensors, "scale")

    def reference(self, problem: Problem, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """PyTorch in float64."""
        x, weight, bias, scale = (inputs[name].double() for name in ("x", "weight", "bias", "scale"))
        return {"y": (x @ weight.T + bias) * scale}

    def tolerance(self, problem: Problem) -> Tolerance:
        """By precision: about three times the error that rounding the inputs (and a 16-bit y) makes on random data.

        Rounding to p bits errs by 2**-p / sqrt(3) in the mean square, whatever K is; float32 accumulation adds an
        error that grows with sqrt(K). TF32 keeps 11 bits, to which the kernels round.
        """
        by_precision = {"tf32": 8e-4, "ieee": 4e-7, "tf32x3": 2e-6, "bf16x3": 6e-5}
        by_dtype = {"float16": 6e-4, "bfloat16": 5e-3}
        inputs = by_precision[problem.precision] if problem.precision else by_dtype[problem.dtype]
        accumulation = 1.2e-7 * math.sqrt(problem.K)
        frobenius = inputs + accumulation
        # The largest of 1e8 errors, in a column with a scale of five, is 25 times the mean square one; a wrong element
        # is off by as much as y itself, a thousand times.
        return Tolerance(frobenius=frobenius, maximum=40 * frobenius)

    def flops(self, problem: Problem) -> float:
        """Two a multiply-add, and two an output for bias and scale."""
        return 2.0 * problem.M * problem.N * (problem.K + 1)

    def bytes(self, problem: Problem) -> float:
        """x, W, bias, scale and y once each."""
        return float(sum(operand.numel for operand in self.operands(problem)) * problem.element_bytes)

    def deterministic(self, config: Config) -> bool:
        """Every tile is summed by one CTA in a fixed order."""
        return True

    def source_hash(self, variant: str | None = None) -> str:
        """The hash of a variant's kernels, or of all. Those that came first share one."""
        chosen = self.later_kernels if variant is None else {variant} & self.later_kernels.keys()
        later = dict.fromkeys(kernel for name in chosen for kernel in self.later_kernels[name])
        return hash_kernels(*KERNELS, *later)


SPEC = GemmScale()
