"""Whether an op launches a config that somebody typed: told before anything is compiled, as a mistake of theirs."""

from __future__ import annotations

from typing import Final

from fusetune.core.near import did_you_mean
from fusetune.core.target import Target
from fusetune.errors import FusetuneError, UnsupportedProblemError
from fusetune.ops.gemm_scale.config import LIBRARY, WALKING, Config
from fusetune.ops.gemm_scale.launchable import MOST_ACCUMULATORS
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.space import Space, is_vectored
from fusetune.ops.spec import KernelSpec, abstract_tensors

_OURS: Final = ("tiled", "split_k", "vectored", *WALKING, LIBRARY, f"{LIBRARY}_folded")


def check_config(spec: KernelSpec, problem: Problem, config: Config, target: Target | None = None) -> None:
    """Raise UnsupportedProblemError where the op has no such variant, or launches nothing of this config."""
    known = variants_of(spec, problem)
    if config.variant not in known:
        near = "" if config.variant in _OURS else did_you_mean(config.variant, known)
        raise UnsupportedProblemError(
            f"{spec.name} has no variant {config.variant!r} for {problem.describe()}{near or ';'} it has "
            f"{', '.join(known)}"
        )
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    if accumulators > MOST_ACCUMULATORS and not config.is_library:
        raise UnsupportedProblemError(
            f"{config.label()} has {accumulators} accumulators a thread, which has 255 registers; take a smaller "
            "BLOCK_M or BLOCK_N, or more warps"
        )
    try:
        spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
    except FusetuneError as error:
        if config.label() in str(error):
            raise
        raise UnsupportedProblemError(f"{spec.name} does not launch {config.label()}: {error}") from error


def variants_of(spec: KernelSpec, problem: Problem) -> tuple[str, ...]:
    """All that the op's space has, and what a library offers for the problem."""
    references = (config.variant for config in spec.references(problem))
    vectored = ["vectored"] if is_vectored(problem) else []
    return tuple(dict.fromkeys(("tiled", *_of_space(spec.space), *vectored, *references)))


def _of_space(space: Space) -> tuple[str, ...]:
    return (*space.variants, *(variant for other in space.others for variant in _of_space(other)))
