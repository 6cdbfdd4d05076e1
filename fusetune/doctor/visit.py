"""A visit: the machine, then its GPU's noise, and where they are asked for the ops. The file grows meanwhile."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from fusetune.compiler.pool import Job, compile_jobs
from fusetune.compiler.processes import CompileProcesses
from fusetune.core.problem import Problem
from fusetune.core.progress import Progress
from fusetune.core.resources import Resources
from fusetune.core.target import DEFAULT_TARGET, Target, find_target
from fusetune.doctor.findings import Found, exit_code, found
from fusetune.doctor.gpu import gpu_findings
from fusetune.doctor.items import items_for
from fusetune.doctor.noise import What, noise_findings, noise_of
from fusetune.doctor.rounds import Deadline, MeasurerFactory, examine_all
from fusetune.doctor.shareable import shareable_platform
from fusetune.doctor.software import Host, software_findings
from fusetune.doctor.trial import is_wrong
from fusetune.errors import FusetuneError, NoUsableGpuError, WrongResultError
from fusetune.measure.condition import GpuCondition
from fusetune.measure.lock import hold_gpu_of
from fusetune.measure.protocol import GpuFacts, Measurer
from fusetune.measure.session import loaded_bytes
from fusetune.measure.timers import L2_TURNOVER
from fusetune.ops.built_in import default_op
from fusetune.ops.loading import spec_named
from fusetune.ops.spec import KernelSpec
from fusetune.report.machine import Machine
from fusetune.report.wording import plural
from fusetune.store.doctor_file import (
    DOCTOR_VERSION,
    DoctorFile,
    Examined,
    GpuFigures,
    Level,
    Noise,
    NotReached,
    Versions,
)
from fusetune.tune.request import today


class Here(NamedTuple):
    """A machine, as a visit asks it: what is known, and how more is found out. Tests give their own."""

    machine: Machine
    host: Host
    has_gpu: bool
    measurer_for: MeasurerFactory
    condition: Callable[[GpuFacts], GpuCondition]
    processes: CompileProcesses | None = None


class Wish(msgspec.Struct, frozen=True):
    """What a visit is to do beside the machine: `ops` are measured, in `limit_s` seconds altogether; none without."""

    ops: tuple[str, ...] = ()
    limit_s: float | None = None
    seed: int = 0


class Visit:
    """What is known so far.

    `save` gets the whole file each time that there is more of it, `tell` each finding as soon as it is there.
    """

    def __init__(
        self,
        here: Here,
        wish: Wish,
        progress: Progress,
        save: Callable[[DoctorFile], object] = lambda file: None,
        tell: Callable[[Found], object] = lambda found: None,
    ) -> None:
        self._here, self._wish, self._progress, self._save, self._tell = here, wish, progress, save, tell
        self.found: list[Found] = []
        self._deadline = Deadline(wish.limit_s)
        self._sm_max_mhz: int | None = None
        self.file = DoctorFile(
            doctor=DOCTOR_VERSION, date=today(), complete=False, versions=_versions(here.machine, None)
        )

    @property
    def exit_code(self) -> int:
        """By the gravest finding."""
        return exit_code(self.file.findings)

    def make(self) -> None:
        """The whole visit. Raises nothing for what is found wrong; that is a finding."""
        here = self._here
        try:
            spec = spec_named(default_op())
        except FusetuneError as error:  # Without triton, there is no op.
            self._add(software_findings(here.machine, here.host, gpu_here=here.has_gpu))
            self._add([_failed("ops", error, "install what lacks, or mend it")])
        else:
            if here.has_gpu:
                self._on_gpu(spec)
            else:
                self._add(software_findings(here.machine, here.host, gpu_here=False))
                self._compiles(spec, find_target(DEFAULT_TARGET))
        unmet = bool(self._wish.ops) and not self.file.kernels
        self._update(complete=not self.file.not_reached and not unmet, seconds=round(self._deadline.seconds, 1))

    def _on_gpu(self, spec: KernelSpec) -> None:
        examples = spec.examples()
        with contextlib.ExitStack() as held:
            facts = self._first_look(held, spec, examples[0], examples[-1])
            if facts is not None:
                with contextlib.closing(self._here.measurer_for(spec, examples[-1])) as measurer:
                    self._noise("long", spec, examples[-1], measurer)
                self._kernels(facts)

    def _first_look(
        self, held: contextlib.ExitStack, spec: KernelSpec, short: Problem, long: Problem
    ) -> GpuFacts | None:
        """The GPU's own state, and its noise at a short launch; None where nothing more can be measured."""
        here = self._here
        with contextlib.closing(here.measurer_for(spec, short)) as measurer:
            try:
                facts = measurer.facts()
            except FusetuneError as error:
                self._add(software_findings(here.machine, here.host, gpu_here=True))
                self._add([_failed("gpu", error, "")])
                return None
            self._add(software_findings(here.machine, here.host, gpu_here=True, used=True))
            condition = here.condition(facts)
            self._sm_max_mhz = condition.sm_max_mhz
            self._update(gpu=facts.identity, figures=_figures(condition), versions=_versions(here.machine, facts))
            try:
                # Who asks for the machine alone wants to hear that it is in use, and not to wait for its end.
                held.enter_context(hold_gpu_of(facts, self._progress, self._wish.limit_s or 0))
                others = measurer.company()
            except FusetuneError as error:
                self._add([_failed("company", error, "")])
                return None
            self._add(gpu_findings(facts, condition, others, _needed_bytes(spec, long, facts.target)))
            if not self._compiles(spec, facts.target):
                return None
            self._noise("short", spec, short, measurer)
        return facts

    def _compiles(self, spec: KernelSpec, target: Target) -> bool:
        """Whether the compilers make anything here: BASELINE of the shortest and the longest example."""
        examples = spec.examples()
        jobs = [Job(problem, spec.baseline(problem)) for problem in dict.fromkeys((examples[0], examples[-1]))]
        began = time.monotonic()
        try:
            results = [result for _, result in compile_jobs(spec, jobs, target, processes=self._here.processes)]
        except FusetuneError as error:
            self._add([_failed("compiling", error, "mend it, and run the command again")])
            return False
        wrong = [result for result in results if not isinstance(result, Resources)]
        if wrong:
            do = "see that torch, triton and the C compiler are whole, and that their folders can be written to"
            self._add(
                [found("compiling", "unfit", f"{spec.name} does not compile for {target.name}: {wrong[0].detail}", do)]
            )
            return False
        took = f"{len(jobs)} kernels compile for {target.name}, in {time.monotonic() - began:.1f} s with what loads"
        self._add([found("compiling", "ok", took)])
        return True

    def _noise(self, what: What, spec: KernelSpec, problem: Problem, measurer: Measurer) -> None:
        try:
            noise = noise_of(what, spec, problem, measurer, self._wish.seed)
        except WrongResultError as error:
            self._add([found("kernels", "wrong", str(error), "report it, with this output")])
            return
        except FusetuneError as error:
            self._add([_failed(f"A/A, {what}", error, "mend it, and run the command again")])
            return
        self._add(noise_findings(what, noise, self._sm_max_mhz))
        if isinstance(noise, Noise):
            self._update(noise=(*self.file.noise, noise))

    def _kernels(self, facts: GpuFacts) -> None:
        """Every problem that was asked for, as far as there is time; the file says all along what is not reached."""
        wish, here = self._wish, self._here
        if not wish.ops:
            return
        with self._progress.phase("Listing what to launch"):
            items, findings = items_for(wish.ops, facts.target, facts.identity, wish.seed)
        self._add(findings)
        self._update(not_reached=tuple(NotReached(item.spec.name, item.problem.describe()) for item in items))
        try:
            examine_all(
                items,
                here.measurer_for,
                facts.target,
                wish.seed,
                self._deadline,
                self._progress,
                self._examined,
                here.processes,
            )
        except FusetuneError as error:
            self._add([_failed("kernels", error, "mend it, and run the command again")])
        self._add([_summary(self.file)])

    def _examined(self, examined: Examined) -> None:
        """One more is reached: they come in order."""
        self._update(kernels=(*self.file.kernels, examined), not_reached=self.file.not_reached[1:])

    def _add(self, findings: Sequence[Found]) -> None:
        for one in findings:
            self.found.append(one)
            self._tell(one)
        self._update(findings=tuple(one.finding for one in self.found))

    def _update(self, **changes: Any) -> None:
        self.file = structs.replace(self.file, **changes)
        self._save(self.file)


def _failed(check: str, error: FusetuneError, do: str) -> Found:
    level: Level = "no_gpu" if isinstance(error, NoUsableGpuError) else "unfit"
    return found(check, level, str(error), do)


def _summary(file: DoctorFile) -> Found:
    """What the installed ops came to, in a line."""
    launched = [one for examined in file.kernels for one in examined.launched]
    right = sum(one.outcome == "right" for one in launched)
    problems = len(file.kernels)
    failed = sum(one.outcome == "failed" for one in launched)
    wrong = [examined for examined in file.kernels if is_wrong(examined)]
    troubled = sum(bool(examined.trouble) for examined in file.kernels)
    told = f"{plural(right, 'config')} at {plural(problems, 'problem')} right"
    told += f"; not reached: {plural(len(file.not_reached), 'problem')}" if file.not_reached else ""
    told += f"; not measured to the end: {plural(troubled, 'problem')}" if troubled else ""
    if wrong:
        names = ", ".join(dict.fromkeys(examined.op for examined in wrong))
        return found("kernels", "wrong", f"wrong results of {names}; {told}", "report it, with the file")
    if failed:
        return found("kernels", "note", f"{plural(failed, 'config')} failed; {told}", "report it, with the file")
    do = "give more time with --limit" if file.not_reached else ""
    return found("kernels", "unfit" if troubled and not right else "ok", told, do)


def _versions(machine: Machine, facts: GpuFacts | None) -> Versions:
    environment = facts.environment if facts else None
    return Versions(
        fusetune=machine.fusetune,
        python=machine.python,
        platform=shareable_platform(machine.platform),
        torch=machine.torch,
        torch_cuda=machine.torch_cuda,
        triton=environment.triton if environment else machine.triton,
        ptxas=next((tool.release for tool in machine.ptxas if tool.release), None),
        driver=machine.driver or (environment.driver if environment else None),
        cuda=machine.cuda,
        settings=tuple(machine.variables),
    )


def _figures(condition: GpuCondition) -> GpuFigures:
    return GpuFigures(
        memory_bytes=condition.memory_bytes,
        memory_free_bytes=condition.memory_free_bytes,
        power_limit_w=condition.power_limit_w,
        power_default_w=condition.power_default_w,
        sm_max_mhz=condition.sm_max_mhz,
        mig=condition.mig,
        persistence=condition.persistence,
        utilization=condition.utilization,
    )


def _needed_bytes(spec: KernelSpec, problem: Problem, target: Target) -> int:
    """Of GPU memory, for a problem: inputs that turn L2 over, float64 copies of one set, and what flushes L2."""
    turnover = L2_TURNOVER * (target.l2_bytes or 0)
    one_set = sum(operand.size_bytes for operand in spec.operands(problem))
    return loaded_bytes(spec, problem, max(1, math.ceil(turnover / max(1, one_set)))) + turnover
