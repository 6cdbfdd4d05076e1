"""gemm_scale_bn: BatchNorm1d((x @ W.T + bias) * scale), the whole forward of ModelNew, in training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import structs

from fusetune.errors import UnsupportedProblemError
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.launches import constants, gemm_launches, references, workspace
from fusetune.ops.gemm_scale.linear_scale import GemmScale
from fusetune.ops.gemm_scale.problem import DTYPES, Mode, Problem
from fusetune.ops.gemm_scale.space import BATCH_NORM_SPACE
from fusetune.ops.spec import Call, Launch, Operand, Tolerance

EPS: Final = 1e-5
MOMENTUM: Final = 0.1
"""nn.BatchNorm1d's defaults, which no launch's speed depends on."""


class GemmScaleBatchNorm(GemmScale):
    """The KernelSpec of gemm_scale_bn.

    Training normalizes by the batch's own mean and biased variance and updates running_mean and running_var in place,
    the variance unbiased, as PyTorch does. The linear bias cancels in y and moves running_mean alone.
    """

    name = code_of = "gemm_scale_bn"
    space = BATCH_NORM_SPACE
    dtypes = DTYPES
    modes: tuple[str | None, ...] = ("train", "eval")

    def operands(self, problem: Problem) -> tuple[Operand, ...]:
        """gemm_scale's operands, then gamma, beta and the running statistics [N], which training changes."""
        mode = _mode_of(problem)
        if mode == "train" and problem.M < 2:
            raise UnsupportedProblemError("training needs more than one row: one has no variance, as in PyTorch")
        *inputs, y = super().operands(_without_mode(problem))
        N, dtype = problem.N, problem.dtype
        role: Literal["state", "input"] = "state" if mode == "train" else "input"
        return (
            *inputs,
            Operand("gamma", (N,), dtype, mean=1.0, std=0.1),
            Operand("beta", (N,), dtype, std=0.1),
            Operand("running_mean", (N,), dtype, role=role, std=0.1),
            Operand("running_var", (N,), dtype, role=role, mean=1.0, std=0.05),
            y,
        )

    def workspace(self, problem: Problem, config: Config) -> tuple[Operand, ...]:
        """split_k's summands, or the moments of each tile's columns."""
        return workspace(problem, config, _mode_of(problem))

    def constants(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """The folded weights of library_folded."""
        return constants(config, tensors, EPS)

    def references(self, problem: Problem) -> tuple[Config, ...]:
        """Products by cuBLAS, and kernels that finish them; in evaluation also cuBLAS with folded weights."""
        return references(problem, _mode_of(problem))

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch | Call]:
        """With nn.BatchNorm1d's default eps and momentum, and no counter of batches."""
        return gemm_launches(problem, config, tensors, _mode_of(problem), eps=EPS, momentum=MOMENTUM)

    def reference(self, problem: Problem, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """PyTorch in float64, from copies of the running statistics."""
        import torch

        training = _mode_of(problem) == "train"
        y = super().reference(problem, inputs)["y"]
        mean, var = inputs["running_mean"].double().clone(), inputs["running_var"].double().clone()
        gamma, beta = inputs["gamma"].double(), inputs["beta"].double()
        out = torch.nn.functional.batch_norm(y, mean, var, gamma, beta, training, MOMENTUM, EPS)
        return {"y": out, "running_mean": mean, "running_var": var} if training else {"y": out}

    def tolerance(self, problem: Problem) -> Tolerance:
        """gemm_scale's, and half as much again for a second rounding and for columns of little variance."""
        base = super().tolerance(problem)
        return Tolerance(frobenius=1.5 * base.frobenius, maximum=1.5 * base.maximum)

    def flops(self, problem: Problem) -> float:
        """gemm_scale's, and four an output to normalize; in training four more for its moments."""
        outputs = problem.M * problem.N
        return super().flops(problem) + outputs * (8.0 if problem.mode == "train" else 4.0)

    def bytes(self, problem: Problem) -> float:
        """Each tensor once, and what training changes twice."""
        elements = sum(operand.numel * (2 if operand.role == "state" else 1) for operand in self.operands(problem))
        return float(elements * problem.element_bytes)


def _mode_of(problem: Problem) -> Mode:
    if problem.mode is None:
        raise UnsupportedProblemError("gemm_scale_bn has a mode: train or eval")
    return problem.mode


def _without_mode(problem: Problem) -> Problem:
    return structs.replace(problem, mode=None)


SPEC = GemmScaleBatchNorm()
