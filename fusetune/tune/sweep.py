"""On a GPU: compile, check, screen, confirm in paired blocks, revalidate in a new process, write."""

from __future__ import annotations

import random
from collections.abc import Mapping

from msgspec import structs

from fusetune.compiler.build import ptxas_version
from fusetune.core.config import BASELINE, Config
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment
from fusetune.core.progress import Progress
from fusetune.core.resources import Resources
from fusetune.errors import MeasurementError, NoisyMachineError
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import Failure, Measurer
from fusetune.store.journal import RunEnd, Sampling
from fusetune.store.paths import config_path
from fusetune.store.schema import ConservativeGain, Entry, Times
from fusetune.store.yaml_files import write_entry
from fusetune.tune.confirm import Bench, Final, confirm, control, revalidate
from fusetune.tune.log import RunLog, journal_path, open_run
from fusetune.tune.plan import check_problem, compile_all, plausible
from fusetune.tune.race import race
from fusetune.tune.request import Ranked, SweepRequest, SweepResult, today

SHOWN = 10


def sweep(request: SweepRequest, measurer: Measurer, progress: Progress) -> SweepResult:
    """Tune one problem on the measurer's GPU and write the outcome, keep or revert, as a measured entry.

    Raises NoisyMachineError (nothing is written) where BASELINE timed against itself does not come out equal,
    NoUsableGpuError, WrongResultError or CompileError where BASELINE cannot be run, UnsupportedProblemError.
    """
    check_problem(request.spec, request.problem)
    facts = measurer.facts()
    environment = structs.replace(facts.environment, ptxas=ptxas_version(facts.target))
    rng = random.Random(request.seed)
    progress.say(f"GPU: {facts.identity.name}, {facts.identity.sms} SMs")
    with open_run(request, progress, identity=facts.identity, environment=environment, evidence="measured") as log:
        for warning in facts.warnings:
            log.note(warning)
        resources = compile_all(request, plausible(request, facts.target, log), facts.target, log)
        _prepare(measurer, request.seed, log)
        rough_us = _check_all(measurer, resources, log)
        measurer.warm_up()
        raced = race(measurer, rough_us, rng, log)
        bench = Bench(measurer, request.rule, rng, log)
        try:
            aa = control(bench)
        except NoisyMachineError as error:
            log.journal.write(RunEnd(entry=None, file=None, message=str(error)))
            raise
        final = confirm(bench, raced, resources)
        if final.decision.verdict == "keep":
            _prepare(measurer, request.seed + 1, log)
            final = revalidate(bench, final)
        entry = _entry(request, environment, final, aa, log.run)
        path = config_path(request.output, facts.identity.name, request.spec.name)
        result = write_entry(path, request.spec.name, facts.identity, entry)
        log.journal.write(RunEnd(entry=entry, file=str(path), message=entry.verdict))
        return SweepResult(
            run=log.run,
            entry=entry,
            best=tuple(Ranked(standing.config, standing.time_us) for standing in raced.standings[:SHOWN]),
            file=path if result.written else None,
            journal=journal_path(request, log),
            target_name=facts.identity.name,
            kept_instead=result.kept,
        )


def _prepare(measurer: Measurer, seed: int, log: RunLog) -> None:
    with log.phase("prepare", "Preparing inputs in a new process"):
        facts = measurer.prepare(seed)
    log.journal.write(
        Sampling(
            input_sets=facts.input_sets,
            launches=facts.launches,
            touched_bytes=facts.touched_bytes,
            l2_bytes=facts.l2_bytes,
            seed=seed,
        )
    )


def _check_all(measurer: Measurer, resources: Mapping[Config, Resources], log: RunLog) -> dict[Config, float]:
    """Every candidate against the float64 reference; those that are right, with the rough time of one launch."""
    rough_us = {}
    with log.phase("check", "Checking results", len(resources)) as phase:
        for config, used in resources.items():
            outcome = measurer.check(config)
            phase.advance()
            if isinstance(outcome, Failure):
                log.candidate(config, "failed", reason=outcome.reason, detail=outcome.detail, resources=used)
            else:
                log.candidate(config, "checked", resources=used, error=outcome.error)
                rough_us[config] = outcome.rough_us
    if BASELINE not in rough_us:
        raise MeasurementError("BASELINE was right at first and failed its second check; run the command again")
    return rough_us


def _entry(request: SweepRequest, environment: Environment, final: Final, aa: PairResult, run: str) -> Entry:
    """What goes into the YAML. A reverted problem stores BASELINE, with the gain of the best that was not enough."""
    judged = final.best if final.decision.choice == "baseline" else final.chosen
    result = final.over_baseline.get(judged, aa)
    conservative = final.over_baseline.get(final.conservative)
    kept = final.decision.choice != "baseline"
    conservative_us = conservative.config_us if conservative else result.baseline_us
    if final.chosen == final.conservative or not kept:
        over_conservative = None
    else:
        over_conservative = _conservative_gain(final)
        if final.over_conservative is not None:
            conservative_us = final.over_conservative.baseline_us
    return Entry(
        problem=request.problem,
        config=final.chosen,
        evidence="measured",
        verdict=final.decision.verdict,
        reason=final.decision.reason,
        environment=environment,
        run=run,
        date=today(),
        gain=_rounded(result.gain),
        gain_over_conservative=over_conservative,
        time_us=Times(
            baseline=round(result.baseline_us, 3),
            conservative=round(conservative_us, 3),
            config=round(result.config_us if kept else result.baseline_us, 3),
        ),
    )


def _conservative_gain(final: Final) -> ConservativeGain | None:
    if final.over_conservative is None:
        return None
    gain = _rounded(final.over_conservative.gain)
    return ConservativeGain(
        median=gain.median, low=gain.low, high=gain.high, blocks=gain.blocks, config=final.conservative
    )


def _rounded(gain: Gain) -> Gain:
    return Gain(
        median=round(gain.median, 4),
        low=round(gain.low, 4),
        high=round(gain.high, 4),
        confidence=gain.confidence,
        min_gain=gain.min_gain,
        blocks=gain.blocks,
    )
