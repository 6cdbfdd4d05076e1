"""Without a GPU: compile for a Target, rank by the cost model, and write what it says as a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from msgspec import structs

from fusetune.compiler.build import ptxas_version
from fusetune.core.config import Config
from fusetune.core.decision import ROUNDING, Outcome, choose, gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import Progress
from fusetune.core.resources import Resources, occupancy
from fusetune.core.roofline import roofline
from fusetune.core.target import Target
from fusetune.ops.loading import place_of
from fusetune.store.journal import RunEnd
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, Times
from fusetune.store.yaml_files import write_entry
from fusetune.tune.alone import end_if_alone
from fusetune.tune.log import RunLog, journal_path, open_run
from fusetune.tune.plan import (
    Made,
    check_output,
    compile_all,
    plausible,
    predictions,
    record_plan,
    resource_use,
)
from fusetune.tune.request import Ranked, SweepRequest, SweepResult, today
from fusetune.tune.troubled import ends_with_nothing

SHORTLIST = 32
"""How many candidates are compiled: those that the model, guessing at resources, ranks first."""
CONSERVATIVE_SHORTLIST = 4
"""At least this many of them run with 4 warps and 2 stages, so that the safe choice is among them."""
SHOWN = 3
NO_MODEL = (
    "{op} has no cost model: candidates are ordered by their occupancy and what they take of an SM, every time is the "
    "roofline's, and BASELINE stays until a GPU has timed them"
)
_LEAST_US = 0.001
"""What the YAML keeps of a time is a thousandth of a microsecond."""


def predict(request: SweepRequest, target: Target, progress: Progress) -> SweepResult:
    """Rank the candidates for a GPU that is not there and write the best with `evidence: predicted`.

    Nothing is timed. A measured entry for the same problem stays where it is. Raises UnsupportedProblemError,
    UsageError, ConfigFileError, CompileError, NoCandidateError where everything but BASELINE is rejected, and
    NothingTunedError where the machine does not let it be compiled.
    """
    with ends_with_nothing():
        return _predict(request, target, progress)


def _predict(request: SweepRequest, target: Target, progress: Progress) -> SweepResult:
    request.spec.check(request.problem)
    path = config_path(request.output, target.name, request.spec.name)
    check_output(path)
    identity = TargetIdentity(name=target.name, capability=target.capability, sms=target.sms)
    environment = Environment(
        triton=version("triton"), kernel_hash=request.spec.source_hash(), ptxas=ptxas_version(target)
    )
    with open_run(request, progress, identity=identity, environment=environment, evidence="predicted") as log:
        passed, rejected = plausible(request, target)
        record_plan(passed, rejected, log)
        guessed = predictions(request, passed, target)
        if not guessed:
            log.note(NO_MODEL.format(op=request.spec.name))
        shortlist = shortlist_of(guessed or dict.fromkeys(passed, 0.0), request.baseline)
        for config in passed:
            if config not in shortlist:
                predicted_us = round(guessed[config], 3) if guessed else None
                reason = "predicted_slow" if guessed else "not_compiled"
                log.candidate(config, "skipped", reason=reason, predicted_us=predicted_us)
        compiled = _compile(request, shortlist, passed, target, log)
        end_if_alone(request, log, compiled, (*passed, *rejected))
        times = _times(request, compiled, target)
        ranking = sorted(
            times,
            key=lambda config: (
                round(times[config], 3),
                0.0 if guessed else -_occupied(config, compiled[config].resources, target),
                resource_use(config, compiled[config].resources, target),
                config,
            ),
        )
        conservative = next((config for config in ranking if config.is_conservative), request.baseline)
        chosen = _choose(ranking[0], conservative, request.baseline, times, request.rule.min_gain)
        entry = Entry(
            problem=request.problem,
            config=chosen,
            evidence="predicted",
            verdict="unverified",
            reason="predicted_not_timed",
            environment=structs.replace(environment, kernel_hash=request.spec.source_hash(chosen)),
            run=log.run,
            date=today(),
            predicted_us=Times(
                baseline=round(times[request.baseline], 3),
                conservative=round(times[conservative], 3),
                config=round(times[chosen], 3),
            ),
        )
        result = write_entry(path, request.spec.name, identity, entry, place_of(request.spec.name))
        log.journal.write(
            RunEnd(entry=entry, file=str(path) if result.written else None, message="predicted; nothing was timed")
        )
        return SweepResult(
            run=log.run,
            entry=entry,
            best=tuple(Ranked(config, times[config]) for config in ranking[:SHOWN]),
            file=path if result.written else None,
            journal=journal_path(request, log),
            target_name=target.name,
            kept_instead=result.kept,
            has_model=bool(guessed),
        )


def _compile(
    request: SweepRequest, shortlist: Sequence[Config], passed: Sequence[Config], target: Target, log: RunLog
) -> dict[Config, Made]:
    """What compiles of the shortlist; where that is BASELINE alone, of the others too, until one of them does."""
    compiled = compile_all(request, shortlist, target, log)
    left = [config for config in passed if config not in shortlist]
    while left and compiled.keys() == {request.baseline}:
        compiled |= compile_all(request, left[:SHORTLIST], target, log)
        left = left[SHORTLIST:]
    return compiled


def _times(request: SweepRequest, compiled: Mapping[Config, Made], target: Target) -> dict[Config, float]:
    """Predicted microseconds; without a cost model those of the roofline, which are the same for all."""
    known = {config: made.predicted_us for config, made in compiled.items() if made.predicted_us is not None}
    if len(known) == len(compiled):
        return known
    spec, problem = request.spec, request.problem
    floor_us = roofline(spec.flops(problem), spec.bytes(problem), spec.kind(problem), target).time_us
    return dict.fromkeys(compiled, max(floor_us, _LEAST_US))


def _occupied(config: Config, resources: Resources, target: Target) -> float:
    return occupancy(resources.registers, resources.shared_bytes, config.num_warps, target).fraction


def _choose(
    best: Config, conservative: Config, baseline: Config, times: Mapping[Config, float], min_gain: float
) -> Config:
    """The keep rule on predicted times: it keeps no more than a measurement could."""

    def outcome(config: Config, over: Config) -> Outcome:
        return "keep" if gain(times[config], times[over]) >= min_gain - ROUNDING else "revert"

    decision = choose(
        best_over_baseline=outcome(best, baseline),
        best_over_conservative=None if best == conservative else outcome(best, conservative),
        conservative_over_baseline=outcome(conservative, baseline),
    )
    return {"best": best, "conservative": conservative, "baseline": baseline}[decision.choice]


def shortlist_of(guessed: Mapping[Config, float], baseline: Config) -> list[Config]:
    """BASELINE, the best by the guessed times, and enough conservative ones."""
    ranking = sorted(guessed, key=lambda config: guessed[config])
    conservative = [config for config in ranking if config.is_conservative]
    chosen = [baseline, *ranking[:SHORTLIST], *conservative[:CONSERVATIVE_SHORTLIST]]
    return list(dict.fromkeys(chosen))
