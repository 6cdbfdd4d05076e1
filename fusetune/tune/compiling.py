"""Candidates from the compiler, as they come: what may run, and why the rest may not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from fusetune.compiler.facts import reject_resources
from fusetune.compiler.pool import Compiled, CompileRun, Outcome
from fusetune.core.config import Config
from fusetune.core.progress import Phase
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.ops.predicting import predicted_us
from fusetune.store.journal import Candidate
from fusetune.tune.log import RunLog
from fusetune.tune.plan import start_compiling, without_reference
from fusetune.tune.request import SweepRequest
from fusetune.tune.troubled import NOT_TRIED, allow_for

Hopeless = Callable[[Collection[Config]], Mapping[Config, Rejection]]
"""Which of those that wait for the compiler cannot win any more, and why."""


class Made(NamedTuple):
    """What compiled: its Resources, and the cost model's microseconds by them where the op has a model."""

    resources: Resources
    predicted_us: float | None


def compile_all(
    request: SweepRequest,
    configs: Sequence[Config],
    target: Target,
    log: RunLog,
    *,
    running: Iterable[Compiled] | None = None,
    on_compiled: Callable[[Config, Resources], None] | None = None,
    hopeless: Hopeless | None = None,
    tried: int = 0,
) -> dict[Config, Made]:
    """Compile for `target`; what compiles without a spill and fits is returned, the rest recorded with its reason.

    What may spill (`KernelSpec.may_spill`) is returned whatever it spills. `running` are compilations that began
    earlier. `on_compiled` is called for each config as soon as it is there, while others still compile; after each,
    `hopeless` is asked which of those that are not there yet need not be compiled any more. What the machine kept from
    being compiled is recorded as not tried; so many were `tried` before. Raises CompileError where the reference,
    Before or BASELINE, does not compile, UsageError where it takes more shared memory than the target has, and as
    `troubled.allow_for` does.
    """
    made: dict[Config, Made] = {}
    reference = request.reference
    troubled: dict[Config, Trouble] = {}

    def accept(config: Config, result: Resources, predicted_us: float | None) -> None:
        made[config] = Made(result, predicted_us)
        if on_compiled is not None:
            on_compiled(config, result)

    def receive(config: Config, result: Outcome) -> None:
        if isinstance(result, Trouble):
            troubled[config] = result
            log.candidate(config, "skipped", reason=NOT_TRIED, detail=result.detail)
            return
        rejection = (
            result
            if isinstance(result, Rejection)
            else reject_resources(result, target, may_spill=request.spec.may_spill(request.problem, config))
        )
        resources = result if isinstance(result, Resources) else None
        if rejection is not None:
            log.candidate(config, "rejected", reason=rejection.reason, detail=rejection.detail, resources=resources)
            if config == reference:
                raise without_reference(request, rejection, target)
        elif resources is not None:
            if config == reference and resources.spills:
                stack = f"{resources.stack_bytes} bytes of stack a thread"
                log.note(f"{log.reference_name} spills {stack}; it is the reference")
            time_us = predicted_us(request.spec, request.problem, config, target, resources)
            rounded_us = None if time_us is None else round(time_us, 3)
            log.candidate(config, "compiled", resources=resources, predicted_us=rounded_us)
            accept(config, resources, time_us)

    with log.phase("compile", f"Compiling for {target.name}", len(configs)) as phase:
        known = _known(configs, log)
        for config, record in known.items():
            log.take_over(record)
            phase.advance()
            if record.status == "compiled" and record.resources is not None:
                accept(config, record.resources, record.predicted_us)
        waiting = dict.fromkeys(config for config in configs if config not in known)
        _keep(running, waiting)
        left_out = _drop_hopeless(waiting, hopeless, running, log, phase)
        if not waiting:
            running = ()
        elif running is None:
            running = start_compiling(request, list(waiting), target)
        for (_, config), result in running:
            if config in waiting:  # Not what is known already, or was dropped while a process was at it.
                del waiting[config]
                phase.advance()
                receive(config, result)
                left_out += _drop_hopeless(waiting, hopeless, running, log, phase)
            if not waiting or reference in troubled:
                break
    if left_out:
        log.progress.say(f"{left_out} of {len(configs)} left out: by what was measured so far they cannot win any more")
    allow_for(troubled, tried + len(configs) - len(troubled) - left_out, request, target, log)
    # Compilations end in any order; everything after goes by the plan's own.
    return {config: made[config] for config in configs if config in made}


def _known(configs: Sequence[Config], log: RunLog) -> dict[Config, Candidate]:
    """What earlier runs had from the compiler.

    A run ends where the reference is rejected: one that goes on has to see for itself.
    """
    return {
        config: record
        for config in configs
        if (record := log.ledger.compiled.get(config)) and (config != log.reference or record.status == "compiled")
    }


def _drop_hopeless(
    waiting: dict[Config, None],
    hopeless: Hopeless | None,
    running: Iterable[Compiled] | None,
    log: RunLog,
    phase: Phase,
) -> int:
    """Take from `waiting` what is not to be compiled any more; returns how many these are.

    What a process is just at may be among them: it is not waited for.
    """
    dropped = hopeless(waiting) if hopeless is not None and waiting else {}
    for config, why in dropped.items():
        del waiting[config]
        phase.advance()
        if not log.ledger.is_written(config, "skipped"):
            log.candidate(config, "skipped", reason=why.reason, detail=why.detail)
    if dropped:
        _keep(running, waiting)
    return len(dropped)


def _keep(running: Iterable[Compiled] | None, waiting: Collection[Config]) -> None:
    if isinstance(running, CompileRun):
        running.keep(waiting)
