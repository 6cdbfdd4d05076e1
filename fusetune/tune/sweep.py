"""On a GPU: compile, check, screen, confirm in paired blocks, revalidate in a new process, write."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import structs

from fusetune.compiler.pool import Compiled, CompileRun
from fusetune.compiler.tools import ptxas_version
from fusetune.core.config import Config
from fusetune.core.progress import Progress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.stats import preload
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.errors import MeasurementError, NoisyMachineError, NoUsableGpuError
from fusetune.measure.clocks import locked_clocks_of
from fusetune.measure.lock import hold_gpu_of
from fusetune.measure.protocol import BY_MACHINE, Failure, GpuFacts, Measurer
from fusetune.measure.replay import sampling_record
from fusetune.ops.loading import place_of
from fusetune.store.journal import PhaseTime, RunEnd
from fusetune.store.paths import config_path
from fusetune.store.yaml_files import write_entry
from fusetune.tune.alone import end_if_alone
from fusetune.tune.bench import Bench
from fusetune.tune.compiling import compile_all
from fusetune.tune.confirm import confirm, control, revalidate
from fusetune.tune.entry import entry_of
from fusetune.tune.fallen import last_words, tried_and_fallen, why_fallen
from fusetune.tune.grow import grow
from fusetune.tune.log import RunLog, journal_path, open_run
from fusetune.tune.outlook import Outlook, kinds_of
from fusetune.tune.plan import (
    Plan,
    check_output,
    make_plan,
    record_plan,
    resource_use,
    start_compiling,
)
from fusetune.tune.race import FirstRound, race
from fusetune.tune.references import beside_chosen, time_references
from fusetune.tune.request import Ranked, SweepRequest, SweepResult, with_processes
from fusetune.tune.troubled import allow_for, ends_with_nothing, held_by_file

SHOWN = 10


def sweep(request: SweepRequest, measurer: Measurer, progress: Progress) -> SweepResult:
    """Tune one problem on the measurer's GPU and write the outcome, keep or revert, as a measured entry.

    A killed sweep goes on where it stopped when it is called again; another one on the same GPU is waited for. Raises
    NoisyMachineError (nothing is written) where the reference, Before or BASELINE, timed against itself does not come
    out equal, NoCandidateError (likewise) where every other candidate is rejected or fails its check, NoUsableGpuError,
    WrongResultError or CompileError where the reference cannot be run, UnsupportedProblemError, and NothingTunedError
    where the machine does not let it come to an end.
    """
    with ends_with_nothing(), with_processes(request) as served:
        return _held_sweep(served, measurer, progress)


def _held_sweep(request: SweepRequest, measurer: Measurer, progress: Progress) -> SweepResult:
    request.spec.check(request.problem)
    early = _EarlyStart(request, measurer.likely_target())
    threading.Thread(target=preload, daemon=True).start()
    try:
        # The process of the revalidation loads from here on. That may disturb screening, whose samples are thrown away;
        # it is over before the first block that a decision rests on.
        measurer.standby(request.seed + 1)
        facts = measurer.facts()
        early.told_s = time.monotonic() - early.began
        asked_at = time.monotonic()
        with hold_gpu_of(facts, progress):
            early.waited_s = time.monotonic() - asked_at
            # Not before: another fusetune that was waited for is no company any more.
            others = measurer.company()
            if others and request.exclusive:
                raise NoUsableGpuError(f"{_told(others)}; stop them, or leave --exclusive out")
            with locked_clocks_of(facts, request.lock_mhz):
                return _sweep(request, measurer, facts, others, early, progress)
    finally:
        early.close()


def _sweep(
    request: SweepRequest,
    measurer: Measurer,
    facts: GpuFacts,
    others: Sequence[str],
    early: _EarlyStart,
    progress: Progress,
) -> SweepResult:
    environment = structs.replace(facts.environment, ptxas=early.ptxas(facts.target))
    if request.lock_mhz is not None:
        environment = structs.replace(environment, clocks=f"locked at {request.lock_mhz} MHz")
    path = config_path(request.output, facts.identity.name, request.spec.name)
    check_output(path)
    progress.say(f"GPU: {facts.identity.name}, {facts.identity.sms} SMs")
    run = open_run(
        request, progress, identity=facts.identity, environment=environment, evidence="measured", card=facts.card
    )
    with run as log:
        if others:
            log.note(f"{_told(others)}. Timings may be disturbed; the A/A control decides")
        plan = early.plan(facts.target)
        record_plan(plan.compiled, plan.rejected, log, plan.skipped)
        early.record(log)
        asked = (*plan.configs, *plan.skipped, *plan.rejected)
        end_if_alone(request, log, _of_ours(request, plan.configs, plan.references), asked)
        if plan.predicted_before is not None:
            progress.say(f"Starting from the predicted entry for this problem, {plan.predicted_before.label()}")
        _prepare(measurer, request.seed, log)
        resources, first, right = _compile_and_screen(request, measurer, plan, early, log)
        end_if_alone(request, log, _of_ours(request, first.rough_us, right), asked)
        measurer.warm_up()
        raced = race(measurer, first, request.seed, log)
        if request.before is not None and raced.baseline is None:
            why = why_fallen(journal_path(request, log), request.baseline)
            log.note(f"BASELINE cannot be used ({why}); the rule goes without it")
        bench = _settled(request, measurer, log)
        try:
            aa = control(bench)
        except NoisyMachineError as error:
            log.journal.write(RunEnd(entry=None, file=None, message=str(error)))
            raise
        # Among several, the reference's blocks find the fastest; a single one need only be timed beside what stays.
        several = len(right) > 1 or request.allow_library
        reference = time_references(bench, right) if several else None
        contender = reference.config if reference and request.allow_library else None
        used = {config: resource_use(config, compiled, facts.target) for config, compiled in resources.items()}
        final = confirm(bench, raced, used, contender)
        if final.decision.verdict == "keep":
            _prepare(measurer, request.seed + 1, log)
            final = revalidate(bench, final)
        reference = beside_chosen(bench, final.chosen, reference, () if several else right)
        measurer.end()  # The driver takes its time, and what follows needs no GPU.
        entry = entry_of(request, environment, final, aa, reference, log.run)
        place = place_of(request.spec.name)
        result = write_entry(path, request.spec.name, facts.identity, entry, place, request.spec.kernel_place)
        log.journal.write(RunEnd(entry=entry, file=str(path), message=entry.verdict))
        tried, failures = tried_and_fallen(journal_path(request, log), (request.reference, *plan.references))
        # What broke in a block, or in a fresh process, was screened as the others were.
        last = last_words(journal_path(request, log)).items()
        broken = {config for config, record in last if record.status == "failed"} - {entry.config}
        screened = tuple(Ranked(one.config, one.time_us) for one in raced.standings if one.config not in broken)
        return SweepResult(
            run=log.run,
            entry=entry,
            best=screened[:SHOWN],
            file=path if result.written else None,
            journal=journal_path(request, log),
            target_name=facts.identity.name,
            kept_instead=result.kept,
            tried=tried,
            failures=failures,
            screened=screened,
        )


class _EarlyStart:
    """What needs no GPU, done for the target that it most likely is while the measuring process still loads torch.

    `told_s` after it `began`, that process has said what the GPU is; `waited_s` were another fusetune's, which held it.
    """

    told_s = waited_s = 0.0

    def __init__(self, request: SweepRequest, guess: Target | None) -> None:
        self.began = time.monotonic()
        self._request, self._ptxas = request, ""
        self._plan: Plan | None = None
        self._running: Iterable[Compiled] | None = None
        if guess is not None:
            self._plan = make_plan(request, guess)
            self._running = start_compiling(request, self._plan.compiled, guess)
            self._ptxas = ptxas_version(guess)

    def plan(self, target: Target) -> Plan:
        """The plan for the target, made already if the guess was right."""
        if self._plan is None or self._plan.target != target:
            return make_plan(self._request, target)
        return self._plan

    def ptxas(self, target: Target) -> str:
        """The release of the ptxas that compiles for the target."""
        right = self._plan is not None and self._plan.target == target
        return self._ptxas if right else ptxas_version(target)

    def results(self, plan: Plan) -> Iterable[Compiled] | None:
        """The compilations that were begun, if the guess was right; otherwise they end here."""
        if plan is self._plan:
            return self._running
        self.close()
        return None

    def record(self, log: RunLog) -> None:
        """How long the start took, which ends here, and in it the wait for the measuring process."""
        own_s = time.monotonic() - self.began - self.waited_s
        log.journal.write(PhaseTime(name="start", seconds=round(own_s, 3)))
        log.journal.write(PhaseTime(name="libraries", seconds=round(self.told_s, 3), within="start"))

    def close(self) -> None:
        """End what still runs."""
        if isinstance(self._running, CompileRun):
            self._running.close()


def _of_ours(request: SweepRequest, configs: Collection[Config], references: Collection[Config]) -> tuple[Config, ...]:
    """What may be chosen: candidates, and a library's configs where those are let win."""
    return (*configs, *(references if request.allow_library else ()))


def _told(others: Sequence[str]) -> str:
    return f"Other processes use this GPU: {', '.join(others)}"


def _prepare(measurer: Measurer, seed: int, log: RunLog) -> None:
    with log.phase("prepare", "Preparing inputs in a new process"):
        facts = measurer.prepare(seed)
    log.journal.write(sampling_record(facts, seed))


def _settled(request: SweepRequest, measurer: Measurer, log: RunLog) -> Bench:
    """What decides, on a GPU on which nothing of ours runs but what is timed."""
    with log.phase("settle", "Waiting for the process of the revalidation"):
        measurer.settle()
    return Bench(measurer, request.rule, request.seed, log)


def _compile_and_screen(
    request: SweepRequest, measurer: Measurer, plan: Plan, early: _EarlyStart, log: RunLog
) -> tuple[dict[Config, Resources], FirstRound, list[Config]]:
    """Check every candidate against the float64 reference as soon as it is compiled, and time those that are right.

    Others still compile meanwhile, as long as they can still win; where the op names neighbours of the best, those are
    tried next. Returns the resources of what compiled, the first round of screening, and the library's configs that are
    right.
    """
    first = FirstRound(measurer, plan.configs, log)
    never = (request.reference, request.baseline, plan.predicted_before, held_by_file(request, plan.target))
    outlook = Outlook(plan.predicted, plan.pilots, kinds_of(request.spec, request.problem), never)
    right: set[Config] = set()
    troubled: dict[Config, Trouble] = {}
    checking_s = screening_s = 0.0

    def check(config: Config, used: Resources) -> float | None:
        """The rough time of one launch, where the result is right."""
        record = log.ledger.checked.get(config)
        if record is not None:
            log.take_over(record)
            return record.rough_us or 0.0 if record.status == "checked" else None
        outcome = measurer.check(config)
        if isinstance(outcome, Failure):
            if outcome.reason in BY_MACHINE:
                troubled[config] = Trouble(f"{outcome.reason}: {outcome.detail}")
            log.candidate(config, "failed", reason=outcome.reason, detail=outcome.detail, resources=used)
            return None
        rough_us = round(outcome.rough_us, 3)
        log.candidate(config, "checked", resources=used, error=outcome.error, rough_us=rough_us)
        return rough_us

    def check_and_time(config: Config, used: Resources) -> None:
        nonlocal checking_s, screening_s
        began = time.monotonic()
        rough_us = check(config, used)
        checked = time.monotonic()
        if rough_us is not None and config in plan.references:
            right.add(config)
        elif rough_us is not None:
            first.add(config, rough_us)
        checking_s += checked - began
        screening_s += time.monotonic() - checked

    def hopeless(waiting: Collection[Config]) -> Mapping[Config, Rejection]:
        return outlook.hopeless(waiting, first.at_least, len(first.rough_us))

    began = time.monotonic()
    running = early.results(plan)
    made = compile_all(
        request, plan.compiled, plan.target, log, running=running, on_compiled=check_and_time, hopeless=hopeless
    )

    def try_more(configs: Sequence[Config]) -> None:
        first.plan_more(configs)
        more = compile_all(request, configs, plan.target, log, on_compiled=check_and_time, tried=len(made))
        made.update(more)

    grow(request, plan, first.ratios, try_more, log, began)
    resources = {config: found.resources for config, found in made.items()}
    log.journal.write(PhaseTime(name="check", seconds=round(checking_s, 3), within="compile"))
    log.journal.write(PhaseTime(name="first_round", seconds=round(screening_s, 3), within="compile"))
    allow_for(troubled, len(resources) - len(troubled), request, plan.target, log)
    if log.reference not in first.rough_us:
        name = log.reference_name
        raise MeasurementError(f"{name} was right at first and failed its second check; run the command again")
    return resources, first, [config for config in plan.references if config in right]
