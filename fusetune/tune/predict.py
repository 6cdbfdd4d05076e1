"""Without a GPU: compile for a Target, rank by the cost model, and write what it says as a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from msgspec import structs

from fusetune.compiler.tools import ptxas_version
from fusetune.core.config import Config
from fusetune.core.decision import ROUNDING, Outcome, all_of, choose, choose_over_before, gain
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
from fusetune.tune.compiling import Made, compile_all
from fusetune.tune.fallen import tried_and_fallen, why_fallen
from fusetune.tune.log import RunLog, journal_path, open_run
from fusetune.tune.plan import (
    check_output,
    plausible,
    predictions,
    record_plan,
    resource_use,
)
from fusetune.tune.request import Ranked, SweepRequest, SweepResult, today, with_processes
from fusetune.tune.troubled import ends_with_nothing

SHORTLIST = 32
"""How many candidates are compiled: those that the model, guessing at resources, ranks first."""
CONSERVATIVE_SHORTLIST = 4
"""At least this many of them run with 4 warps and 2 stages, so that the safe choice is among them."""
SHOWN = 3
LISTED = 6
"""So many of the program's own list are compiled for the conditional rules' answer, which keeps two at most."""
NO_MODEL = (
    "{op} has no cost model: candidates are ordered by their occupancy and what they take of an SM, of time only "
    "{walls} known, and {stays} stays until a GPU has timed them"
)
_LEAST_US = 0.001
"""What the YAML keeps of a time is a thousandth of a microsecond."""


def predict(request: SweepRequest, target: Target, progress: Progress) -> SweepResult:
    """Rank the candidates for a GPU that is not there and write the best with `evidence: predicted`.

    Nothing is timed. A measured entry for the same problem stays where it is. Raises UnsupportedProblemError,
    UsageError, ConfigFileError, CompileError, NoCandidateError where everything but the reference is rejected, and
    NothingTunedError where the machine does not let it be compiled.
    """
    with ends_with_nothing(), with_processes(request) as served:
        return _predict(served, target, progress)


def _predict(request: SweepRequest, target: Target, progress: Progress) -> SweepResult:
    request.spec.check(request.problem)
    path = config_path(request.output, target.name, request.spec.name)
    check_output(path)
    identity = TargetIdentity(name=target.name, capability=target.capability, sms=target.sms)
    environment = Environment(
        triton=version("triton"), kernel_hash=request.spec.source_hash(), ptxas=ptxas_version(target)
    )
    with open_run(request, progress, identity=identity, environment=environment, evidence="predicted") as log:
        passed, rejected = plausible(request, target, _of_the_author(request))
        record_plan(passed, rejected, log)
        guessed = predictions(request, passed, target)
        if not guessed and request.space != "rules":  # What the rules leave is few, and all of it is compiled.
            counted = request.spec.flops(request.problem) and request.spec.kind(request.problem)
            walls = "the roofline is" if counted else "bytes over bandwidth are"
            log.note(NO_MODEL.format(op=request.spec.name, walls=walls, stays=log.reference_name))
        shortlist = shortlist_of(guessed or dict.fromkeys(passed, 0.0), (request.reference, request.baseline))
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
        conservative = next((config for config in ranking if config.is_conservative), request.reference)
        chosen = _choose(ranking[0], conservative, request, times)
        if request.before is not None and request.baseline not in times:
            why = why_fallen(journal_path(request, log), request.baseline)
            log.note(f"BASELINE cannot be used ({why}); the rule goes without it")
        entry = Entry(
            problem=request.problem,
            before=request.before,
            config=chosen,
            evidence="predicted",
            verdict="unverified",
            reason="predicted_not_timed",
            environment=structs.replace(environment, kernel_hash=request.spec.source_hash(chosen)),
            run=log.run,
            date=today(),
            predicted_us=_predicted_us(request, times, conservative, chosen),
        )
        place = place_of(request.spec.name)
        result = write_entry(path, request.spec.name, identity, entry, place, request.spec.kernel_place)
        log.journal.write(
            RunEnd(entry=entry, file=str(path) if result.written else None, message="predicted; nothing was timed")
        )
        tried, failures = tried_and_fallen(journal_path(request, log), (request.reference,))
        return SweepResult(
            run=log.run,
            entry=entry,
            best=tuple(Ranked(config, times[config]) for config in ranking[:SHOWN]),
            file=path if result.written else None,
            journal=journal_path(request, log),
            target_name=target.name,
            kept_instead=result.kept,
            has_model=bool(guessed),
            tried=tried,
            failures=failures,
        )


def _of_the_author(request: SweepRequest) -> Sequence[Config]:
    """Of the program's own list what may be left to try: nothing was timed that would speak against it."""
    return request.spec.listed(request.problem)[:LISTED] if request.space == "rules" else ()


def _compile(
    request: SweepRequest, shortlist: Sequence[Config], passed: Sequence[Config], target: Target, log: RunLog
) -> dict[Config, Made]:
    """What compiles of the shortlist; where that is the reference alone, of the others too, until one of them does."""
    compiled = compile_all(request, shortlist, target, log)
    left = [config for config in passed if config not in shortlist]
    while left and compiled.keys() == {request.reference}:
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


def _predicted_us(request: SweepRequest, times: Mapping[Config, float], conservative: Config, chosen: Config) -> Times:
    """Before's time where that is not BASELINE, which may be without one then, as may be all conservative configs."""
    safe = conservative if request.before is None or conservative.is_conservative else None

    def rounded(config: Config | None) -> float | None:
        return round(times[config], 3) if config is not None and config in times else None

    return Times(
        before=rounded(request.before),
        baseline=rounded(request.baseline),
        conservative=rounded(safe),
        config=round(times[chosen], 3),
    )


def _choose(best: Config, conservative: Config, request: SweepRequest, times: Mapping[Config, float]) -> Config:
    """The keep rule on predicted times: it keeps no more than a measurement could."""
    reference, baseline = request.reference, request.baseline

    def outcome(config: Config, over: Config) -> Outcome:
        return "keep" if gain(times[config], times[over]) >= request.rule.min_gain - ROUNDING else "revert"

    def over_both(config: Config) -> Outcome:
        return all_of(outcome(config, reference), outcome(config, baseline) if baseline in times else None)

    if request.before is None:
        decision = choose(
            best_over_baseline=outcome(best, baseline),
            best_over_conservative=None if best == conservative else outcome(best, conservative),
            conservative_over_baseline=outcome(conservative, baseline),
        )
    else:
        safest = outcome(best, conservative) if not best.is_conservative and conservative.is_conservative else None
        decision = choose_over_before(
            best=None if best in {reference, baseline} else all_of(over_both(best), safest),
            conservative=None if conservative in {reference, baseline, best} else over_both(conservative),
            baseline=outcome(baseline, reference) if baseline in times else None,
        )
    of_choice = {"best": best, "conservative": conservative, "baseline": baseline, "before": reference}
    return of_choice[decision.choice]


def shortlist_of(guessed: Mapping[Config, float], always: Sequence[Config]) -> list[Config]:
    """Those `always`, Before and BASELINE, the best by the guessed times, and enough conservative ones."""
    ranking = sorted(guessed, key=lambda config: guessed[config])
    conservative = [config for config in ranking if config.is_conservative]
    chosen = [
        *(config for config in always if config in guessed),
        *ranking[:SHORTLIST],
        *conservative[:CONSERVATIVE_SHORTLIST],
    ]
    return list(dict.fromkeys(chosen))
