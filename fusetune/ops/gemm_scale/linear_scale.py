"""gemm_scale: y = (x @ W.T + bias) * scale, with W [N, K] read as nn.Linear keeps it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from msgspec import structs

from fusetune.core.estimate import Estimate
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection, SpaceName
from fusetune.core.target import Target
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.config_text import parse_config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.examples import examples
from fusetune.ops.gemm_scale.launchable import unlaunchable
from fusetune.ops.gemm_scale.launches import gemm_launches, references, workspace
from fusetune.ops.gemm_scale.problem import DTYPES, Problem
from fusetune.ops.gemm_scale.sources import source_hash
from fusetune.ops.gemm_scale.space import (
    GEMM_SPACE,
    REJECTIONS,
    candidates,
    filling_splits,
    masking_variant,
    reject_reason,
    vectored,
)
from fusetune.ops.gemm_scale.split import joins_summands
from fusetune.ops.gemm_scale.typed import check_config
from fusetune.ops.gemm_scale.types import TYPES
from fusetune.ops.spec import Call, KernelSpec, Launch, Operand, Tolerance


class GemmScale(KernelSpec):
    """The KernelSpec of gemm_scale."""

    name = "gemm_scale"
    space = GEMM_SPACE
    dtypes = DTYPES
    modes: tuple[str | None, ...] = (None,)
    types = TYPES
    code_of: ClassVar[str] = "gemm_scale"
    """The op whose code this launches: an op that is derived from one of ours has its own name."""
    rejections = REJECTIONS
    warmed_by = "fusetune.nn.warming:warm"
    exported_by = "fusetune.nn.export.module:export_module"
    staged_loads = 2  # x and W; bias and scale are loaded once, after the loop

    def check(self, problem: Problem) -> None:
        """See KernelSpec."""
        if problem.dtype not in self.dtypes:
            raise UnsupportedProblemError(
                f"{self.name} does not compute {problem.dtype}; it does {', '.join(self.dtypes)}"
            )
        if problem.mode is None and None not in self.modes:
            modes = " or ".join(f"--mode {mode}" for mode in self.modes)
            raise UnsupportedProblemError(f"{self.name} does not compute the same in each mode; give it one: {modes}")
        self.operands(problem)
        if problem.mode not in self.modes:
            known = " and ".join(mode or "no mode at all" for mode in self.modes)
            raise UnsupportedProblemError(f"{self.name} does not know the mode {problem.mode}; it knows {known}")

    def examples(self) -> tuple[Problem, ...]:
        """See KernelSpec; of each mode."""
        return examples(self.modes)

    def baseline(self, problem: Problem) -> Config:
        """64 x 64 x 32, for every problem."""
        return BASELINE

    def candidates(self, problem: Problem, target: Target, space: SpaceName) -> tuple[Config, ...]:
        """See KernelSpec; some variants only where they are for, and the splits that fill this GPU's SMs last."""
        masking = masking_variant(problem)
        every = candidates(self.space, space)
        listed = tuple(config for config in every if config.variant == masking or not config.masks)
        return vectored((*listed, *filling_splits(listed, problem, target)), problem)

    def reject(self, config: Config, problem: Problem, target: Target) -> Rejection | None:
        """See KernelSpec."""
        return reject_reason(config, problem, target)

    def estimate(
        self, config: Config, problem: Problem, target: Target, resources: Resources | None = None
    ) -> Estimate | None:
        """See KernelSpec; a library's kernels are others', and none of the model's."""
        return None if config.is_library else estimate(config, problem, target, resources)

    def parse_config(self, text: str) -> Config:
        """See KernelSpec."""
        return parse_config(text)

    def signature(self, problem: Problem, config: Config) -> Hashable:
        """The launches of a variant have one signature each, and others where K is split."""
        return config.variant, config.SPLIT_K > 1, joins_summands(config, problem)

    def twins(self, problem: Problem, config: Config) -> Hashable:
        """Configs that differ in the order of their tiles alone: GROUP_M."""
        return structs.replace(config, GROUP_M=1)

    def check_config(self, problem: Problem, config: Config, target: Target | None = None) -> None:
        """See KernelSpec; what would take the compiler minutes is refused, too."""
        check_config(self, problem, config, target)

    def kind(self, problem: Problem) -> str:
        """The precision, or the dtype of 16-bit inputs."""
        return problem.kind

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

    def references(self, problem: Problem) -> tuple[Config, ...]:
        """Products by cuBLAS, and a kernel that finishes them."""
        return references(problem, "scale")

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch | Call]:
        """One launch, or more where the variant needs further kernels."""
        return gemm_launches(problem, config, tensors, "scale")

    def main_launch(self, problem: Problem, config: Config) -> int:
        """See KernelSpec; rows are copied ahead of the products."""
        return int(config.pads)

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

    def source_hash(self, config: Config | None = None) -> str:
        """The hash of a variant's kernels, or of all. Those that came first share one."""
        return source_hash(self.code_of, config)


SPEC = GemmScale()
