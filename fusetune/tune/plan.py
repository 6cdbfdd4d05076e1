"""From a space to what may run: reject by numbers, compile in parallel, reject by real resources."""

from __future__ import annotations

from collections.abc import Sequence

from fusetune.compiler.pool import Job, compile_jobs
from fusetune.core.config import BASELINE, Config
from fusetune.core.estimate import estimate
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection, candidates, reject_reason
from fusetune.core.target import Target
from fusetune.errors import CompileError, UnsupportedProblemError, UsageError
from fusetune.kernels.spec import KernelSpec
from fusetune.tune.log import RunLog
from fusetune.tune.request import SweepRequest


def check_problem(spec: KernelSpec, problem: Problem) -> None:
    """Raise UnsupportedProblemError where the op does not compute this dtype or mode."""
    if problem.dtype not in spec.dtypes:
        raise UnsupportedProblemError(f"{spec.name} does not compute {problem.dtype}; it does {', '.join(spec.dtypes)}")
    if problem.mode not in spec.modes:
        known = ", ".join(str(mode) for mode in spec.modes)
        raise UnsupportedProblemError(f"{spec.name} has no mode {problem.mode}; it has {known}")


def plausible(request: SweepRequest, target: Target, log: RunLog) -> list[Config]:
    """The candidates that reject_reason lets through, BASELINE first; the others are recorded with their reason."""
    passed = []
    for config in candidates(request.spec.space, request.space):
        log.id_of(config)
        rejection = reject_reason(config, request.problem, target)
        if rejection is None:
            passed.append(config)
        elif config == BASELINE:
            raise UsageError(f"BASELINE cannot run on {target.name}: {rejection.detail}")
        else:
            log.candidate(config, "rejected", reason=rejection.reason, detail=rejection.detail)
    return passed


def compile_all(
    request: SweepRequest, configs: Sequence[Config], target: Target, log: RunLog
) -> dict[Config, Resources]:
    """Compile for `target`; what compiles without a spill and fits is returned, the rest recorded with its reason.

    Raises CompileError where BASELINE itself is not among it.
    """
    made: dict[Config, Resources] = {}
    with log.phase("compile", f"Compiling for {target.name}", len(configs)) as phase:
        jobs = [Job(request.problem, config) for config in configs]
        for (_, config), result in compile_jobs(request.spec, jobs, target, workers=request.workers):
            phase.advance()
            rejection = result if isinstance(result, Rejection) else reject_resources(result, target)
            if rejection is None and isinstance(result, Resources):
                made[config] = result
                predicted_us = predict_us(config, request.problem, target, result)
                log.candidate(config, "compiled", resources=result, predicted_us=predicted_us)
            elif rejection is not None:
                resources = result if isinstance(result, Resources) else None
                log.candidate(config, "rejected", reason=rejection.reason, detail=rejection.detail, resources=resources)
                if config == BASELINE:
                    raise CompileError(f"BASELINE does not compile for {target.name}: {rejection.detail}")
    # Compilations end in any order; everything after goes by the space's own.
    return {config: made[config] for config in configs if config in made}


def reject_resources(resources: Resources, target: Target) -> Rejection | None:
    """Why a compiled config is not tried: it spills, or asks for more shared memory than a CTA can have."""
    if resources.spills:
        return Rejection("spills", f"{resources.stack_bytes} bytes of stack a thread")
    if resources.shared_bytes > target.shared_bytes_per_cta:
        return Rejection(
            "shared_memory", f"compiled to {resources.shared_bytes} bytes, {target.shared_bytes_per_cta} are there"
        )
    return None


def predict_us(config: Config, problem: Problem, target: Target, resources: Resources | None = None) -> float | None:
    """The cost model's time in microseconds, or None for a GPU whose peaks the table does not hold."""
    try:
        return round(estimate(config, problem, target, resources).time_us, 3)
    except UsageError:
        return None


def resource_use(config: Config, resources: Resources) -> tuple[int, int]:
    """What a config takes of an SM, for choosing the lighter of two equals: registers, then shared memory a CTA."""
    return resources.registers * 32 * config.num_warps, resources.shared_bytes
