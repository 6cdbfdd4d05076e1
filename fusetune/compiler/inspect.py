"""What can be told of a config without running it: compile facts, occupancy, traffic, roofline, rules, a prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from fusetune.compiler.facts import KernelFacts, kernel_facts, reject_resources
from fusetune.compiler.pool import Job, compile_jobs
from fusetune.core.config import Config, with_options
from fusetune.core.diagnosis import Diagnosis, averaged, diagnose
from fusetune.core.estimate import Estimate
from fusetune.core.problem import Problem
from fusetune.core.progress import Progress
from fusetune.core.resources import Occupancy, Resources, occupancy
from fusetune.core.roofline import Roofline, roofline
from fusetune.core.rules import Rule, contradictions, propose
from fusetune.core.space import Rejection, SpaceName
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.errors import CompileError, OpError, UsageError
from fusetune.ops.predicting import predicted_us
from fusetune.ops.spec import KernelSpec


class Suggestion(msgspec.Struct, frozen=True):
    """A config that the rules propose, with what the compiler makes of it, and its predicted microseconds."""

    config: Config
    resources: Resources | None
    why_not: str | None
    predicted_us: float | None


class Inspection(msgspec.Struct, frozen=True):
    """One config of one problem on one target. `main` is the place among `kernels` of the one that it is a config of.

    Occupancy, `ctas`, rules and prediction are that kernel's.
    `kind`: how products are made (core/peaks.py).
    `waves`: CTAs over what the GPU holds at once. `tail_efficiency`: the share of the SMs that work, over all waves,
    were each as long as a full one; the cost model's own tail is `estimate.tail_us`. `rejection`: why a sweep would
    leave it out. `estimate` and `roofline` are None where the table of targets lacks a figure, and `why_no_estimate`
    says which.
    """

    op: str
    problem: Problem
    target: Target
    config: Config
    kernels: tuple[KernelFacts, ...]
    main: int
    occupancy: Occupancy
    ctas: int
    waves: float
    tail_efficiency: float
    rejection: Rejection | None
    estimate: Estimate | None
    roofline: Roofline | None
    why_no_estimate: str | None
    kind: str | None
    staged_loads: int
    fired: tuple[Rule, ...]
    suggestions: tuple[Suggestion, ...]
    contradictions: tuple[str, ...]

    @property
    def resources(self) -> Resources:
        """Of the main kernel."""
        return self.kernels[self.main].resources


def inspect_config(spec: KernelSpec, problem: Problem, config: Config, target: Target) -> Inspection:
    """Compile a config for `target` and put together all that follows from it.

    Raises CompileError where it does not compile, MachineError where the machine does not let it, UsageError where
    there is nothing of ours to compile.
    """
    kernels = kernel_facts(spec, problem, config, target)
    if not kernels:
        raise UsageError(f"{config.label()} is a library's: there is no kernel of ours to inspect")
    place = spec.main_launch(problem, config)
    main = kernels[place]
    held = occupancy(main.resources.registers, main.resources.shared_bytes, main.num_warps, target)
    ctas = 1
    for extent in main.grid:
        ctas *= extent
    waves = ctas / max(1, held.ctas_per_sm * target.sms)
    found, walls, lacking = _predicted(spec, problem, config, target, main.resources)
    proposal = propose(
        main.resources,
        held,
        spec.staged_loads,
        compute_bound=walls is None or walls.bound == "compute",
        baseline=spec.baseline(problem),
        tile=config,
    )
    suggestions = tuple(_suggestion(spec, problem, other, target) for other in proposal.configs if other != config)
    made = {one.config: one.resources for one in suggestions if one.resources and _same_tile(one.config, config)}
    return Inspection(
        op=spec.name,
        problem=problem,
        target=target,
        config=config,
        kernels=kernels,
        main=place,
        occupancy=held,
        ctas=ctas,
        waves=waves,
        tail_efficiency=waves / -(-waves // 1) if held.ctas_per_sm else 0.0,
        rejection=spec.reject(config, problem, target)
        or reject_resources(main.resources, target, may_spill=spec.may_spill(problem, config)),
        estimate=found,
        roofline=walls,
        why_no_estimate=lacking,
        kind=spec.kind(problem),
        staged_loads=spec.staged_loads,
        fired=proposal.fired,
        suggestions=suggestions,
        contradictions=contradictions(config, main.resources, held, proposal.fired, made),
    )


def _predicted(
    spec: KernelSpec, problem: Problem, config: Config, target: Target, resources: Resources
) -> tuple[Estimate | None, Roofline | None, str | None]:
    try:
        found = spec.estimate(config, problem, target, resources)
        walls = roofline(spec.flops(problem), spec.bytes(problem), spec.kind(problem), target)
    except OpError:
        raise
    except UsageError as error:
        return None, None, str(error)
    return found, walls, None if found else f"{spec.name} has no cost model"


def _suggestion(spec: KernelSpec, problem: Problem, config: Config, target: Target) -> Suggestion:
    rejection = spec.reject(config, problem, target)
    if rejection is not None:
        return Suggestion(config, None, rejection.detail, None)
    try:
        resources = kernel_facts(spec, problem, config, target)[spec.main_launch(problem, config)].resources
    except CompileError as error:
        return Suggestion(config, None, str(error), None)
    found, _, _ = _predicted(spec, problem, config, target, resources)
    unfit = reject_resources(resources, target, may_spill=spec.may_spill(problem, config))
    return Suggestion(config, resources, unfit.detail if unfit else None, found.time_us if found else None)


def _same_tile(one: Config, other: Config) -> bool:
    return with_options(one, num_warps=other.num_warps, num_stages=other.num_stages) == other


def diagnoses(inspection: Inspection, metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[Diagnosis, ...]:
    """What limits each profiled kernel, the mean over its launches: the only one, or those of our kernels' names."""
    answers = []
    names = {kernel.name for kernel in inspection.kernels}
    ours = names & set(metrics) or set(list(metrics)[:1] if len(metrics) == 1 else [])
    if not ours:
        known, given = ", ".join(sorted(names)), ", ".join(sorted(metrics))
        raise UsageError(f"the metrics are of {given}; this config runs {known}: profile it with `fusetune profile`")
    for name in sorted(ours):
        mean, doubts = averaged(metrics[name])
        main = inspection.kernels[inspection.main]
        kernel = next((kernel for kernel in inspection.kernels if kernel.name == name), main)
        held = occupancy(kernel.resources.registers, kernel.resources.shared_bytes, kernel.num_warps, inspection.target)
        grid = 1
        for extent in kernel.grid:
            grid *= extent
        answer = diagnose(name or kernel.name, mean, held, inspection.kind, inspection.target, grid=grid)
        answers.append(msgspec.structs.replace(answer, notes=(*doubts, *answer.notes)))
    return tuple(answers)


class Row(msgspec.Struct, frozen=True):
    """One config of a space: compiled, ranked by the model alone (`estimated`), or rejected with its reason."""

    config: Config
    status: str
    predicted_us: float | None = None
    resources: Resources | None = None
    occupancy: Occupancy | None = None
    reason: str | None = None
    detail: str | None = None


def inspect_space(
    spec: KernelSpec,
    problem: Problem,
    target: Target,
    progress: Progress,
    *,
    space: SpaceName = "standard",
    compiled: int | None = None,
    workers: int | None = None,
) -> tuple[Row, ...]:
    """Every config of a space, the best predicted first, rejected ones last.

    The `compiled` best by the model are compiled and ranked by their real resources; None compiles all. What the
    machine keeps from being compiled is ranked by the model alone, with a warning; raises MachineError, or UsageError
    for what the user has set, where that is all of them.
    """
    rejected: list[Row] = []
    guessed: dict[Config, float | None] = {}
    for config in spec.candidates(problem, target, space):
        rejection = spec.reject(config, problem, target)
        if rejection is None:
            guessed[config] = predicted_us(spec, problem, config, target)
        else:
            rejected.append(Row(config, "rejected", reason=rejection.reason, detail=rejection.detail))
    baseline = spec.baseline(problem)
    order = sorted(guessed, key=lambda config: (config != baseline, guessed[config] or 0.0))
    chosen = order if compiled is None else order[: compiled + 1 if compiled else 0]
    done: list[Row] = []
    troubled: dict[Config, Trouble] = {}
    jobs = [Job(problem, config) for config in chosen]
    with progress.phase(f"Compiling for {target.name}", len(jobs)) as phase:
        for (_, config), result in compile_jobs(spec, jobs, target, workers=workers) if jobs else ():
            phase.advance()
            if isinstance(result, Trouble):
                troubled[config] = result
                continue
            spill = spec.may_spill(problem, config)
            why = result if isinstance(result, Rejection) else reject_resources(result, target, may_spill=spill)
            resources = result if isinstance(result, Resources) else None
            held = _held(resources, config, target) if resources is not None else None
            if why is not None:
                rejected.append(Row(config, "rejected", None, resources, held, why.reason, why.detail))
            else:
                done.append(
                    Row(config, "compiled", predicted_us(spec, problem, config, target, resources), resources, held)
                )
    if troubled:
        first = next(iter(troubled.values()))
        if len(troubled) == len(jobs):
            raise first.error()
        progress.warn(f"{len(troubled)} of {len(jobs)} could not be compiled because of the machine: {first.detail}")
    seen = set(chosen) - set(troubled)
    rest = [Row(config, "estimated", guessed[config]) for config in order if config not in seen]
    by_time = sorted(done, key=lambda row: row.predicted_us or 0.0)
    return (*by_time, *sorted(rest, key=lambda row: row.predicted_us or 0.0), *rejected)


def _held(resources: Resources, config: Config, target: Target) -> Occupancy:
    return occupancy(resources.registers, resources.shared_bytes, config.num_warps, target)


def reason_counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many configs were rejected for each reason, the commonest first."""
    return dict(Counter(row.reason for row in rows if row.reason is not None).most_common())
