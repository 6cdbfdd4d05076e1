"""Without a GPU: compile for a Target, rank by the cost model, and write what it says as a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from msgspec import structs

from fusetune.compiler.build import ptxas_version
from fusetune.core.config import BASELINE, Config
from fusetune.core.decision import ROUNDING, Outcome, choose, gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import Progress
from fusetune.core.target import Target
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.store.journal import RunEnd
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, Times
from fusetune.store.yaml_files import write_entry
from fusetune.tune.log import journal_path, open_run
from fusetune.tune.plan import check_output, check_problem, compile_all, plausible, record_plan, resource_use
from fusetune.tune.request import Ranked, SweepRequest, SweepResult, today
from fusetune.tune.troubled import ends_with_nothing

SHORTLIST = 32
"""How many candidates are compiled: those that the model, guessing at resources, ranks first."""
CONSERVATIVE_SHORTLIST = 4
"""At least this many of them run with 4 warps and 2 stages, so that the safe choice is among them."""
SHOWN = 3


def predict(request: SweepRequest, target: Target, progress: Progress) -> SweepResult:
    """Rank the candidates for a GPU that is not there and write the best with `evidence: predicted`.

    Nothing is timed. A measured entry for the same problem stays where it is. Raises UnsupportedProblemError,
    UsageError, ConfigFileError, CompileError, and NothingTunedError where the machine does not let it be compiled.
    """
    with ends_with_nothing():
        return _predict(request, target, progress)


def _predict(request: SweepRequest, target: Target, progress: Progress) -> SweepResult:
    check_problem(request.spec, request.problem)
    path = config_path(request.output, target.name, request.spec.name)
    check_output(path)
    identity = TargetIdentity(name=target.name, capability=target.capability, sms=target.sms)
    environment = Environment(
        triton=version("triton"), kernel_hash=request.spec.source_hash(), ptxas=ptxas_version(target)
    )
    with open_run(request, progress, identity=identity, environment=environment, evidence="predicted") as log:
        passed, rejected = plausible(request, target)
        record_plan(passed, rejected, log)
        guessed = {config: estimate(config, request.problem, target).time_us for config in passed}
        shortlist = shortlist_of(guessed)
        for config in passed:
            if config not in shortlist:
                log.candidate(config, "skipped", reason="predicted_slow", predicted_us=round(guessed[config], 3))
        compiled = compile_all(request, shortlist, target, log)
        times = {
            config: estimate(config, request.problem, target, resources).time_us
            for config, resources in compiled.items()
        }
        ranking = sorted(
            times, key=lambda config: (round(times[config], 3), resource_use(config, compiled[config], target), config)
        )
        conservative = next(config for config in ranking if config.is_conservative)
        chosen = _choose(ranking[0], conservative, times, request.rule.min_gain)
        entry = Entry(
            problem=request.problem,
            config=chosen,
            evidence="predicted",
            verdict="unverified",
            reason="predicted_not_timed",
            environment=structs.replace(environment, kernel_hash=request.spec.source_hash(chosen.variant)),
            run=log.run,
            date=today(),
            predicted_us=Times(
                baseline=round(times[BASELINE], 3),
                conservative=round(times[conservative], 3),
                config=round(times[chosen], 3),
            ),
        )
        result = write_entry(path, request.spec.name, identity, entry)
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
        )


def _choose(best: Config, conservative: Config, times: dict[Config, float], min_gain: float) -> Config:
    """The keep rule on predicted times: it keeps no more than a measurement could."""

    def outcome(config: Config, over: Config) -> Outcome:
        return "keep" if gain(times[config], times[over]) >= min_gain - ROUNDING else "revert"

    decision = choose(
        best_over_baseline=outcome(best, BASELINE),
        best_over_conservative=None if best == conservative else outcome(best, conservative),
        conservative_over_baseline=outcome(conservative, BASELINE),
    )
    return {"best": best, "conservative": conservative, "baseline": BASELINE}[decision.choice]


def shortlist_of(guessed: Mapping[Config, float]) -> list[Config]:
    """BASELINE, the best by the guessed times, and enough conservative ones."""
    ranking = sorted(guessed, key=lambda config: guessed[config])
    conservative = [config for config in ranking if config.is_conservative]
    chosen = [BASELINE, *ranking[:SHORTLIST], *conservative[:CONSERVATIVE_SHORTLIST]]
    return list(dict.fromkeys(chosen))
