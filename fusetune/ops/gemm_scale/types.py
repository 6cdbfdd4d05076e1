"""The Problem and Config of our own ops, as `types_of` finds them: without Triton."""

from __future__ import annotations

from typing import Final

from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launchable import unlaunchable
from fusetune.ops.gemm_scale.problem import Problem, merged, problem_of
from fusetune.ops.gemm_scale.sources import source_hash
from fusetune.ops.types import OpTypes


def _baseline(_: object) -> Config:
    return BASELINE


def _unfit(op: str, problem: Problem, config: Config) -> str | None:
    if (op == "gemm_scale") != (problem.mode is None):
        return f"{op} has no mode {problem.mode or 'at all'}"
    return unlaunchable(config, problem, problem.mode)


TYPES: Final = OpTypes(Problem, Config, problem_of, _baseline, _unfit, source_hash, merged)
