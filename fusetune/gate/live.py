"""On a GPU: what was kept must still gain its minimum, and the kernels must not be slower than another revision's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fusetune.core.decision import KeepRule, reference_name
from fusetune.core.problem import Problem
from fusetune.core.progress import Progress
from fusetune.core.trouble import refuse_interpreter
from fusetune.errors import NotCheckableError, NoUsableGpuError
from fusetune.gate.against import Against
from fusetune.gate.findings import Check, Finding, LoadedFile, Outcome, as_used
from fusetune.gate.judge import Allowance, Judgement, Limits, judge_against, judge_gain
from fusetune.gate.recording import GateJournal
from fusetune.gate.replays import Replays
from fusetune.gate.sources import Sources, is_captured
from fusetune.gate.static import static_findings
from fusetune.measure.lock import hold_gpu_of
from fusetune.measure.protocol import GpuFacts, Measurer
from fusetune.ops.before import before_of, reference_of
from fusetune.ops.loading import spec_named
from fusetune.ops.spec import KernelSpec
from fusetune.store.lookup import target_differences
from fusetune.store.schema import ConfigFile, Entry

MeasurerFactory = Callable[[KernelSpec, Problem], Measurer]
OnMismatch = Literal["fail", "static", "skip"]


class LiveOptions(msgspec.Struct, frozen=True):
    """How a live gate goes about it.

    on_mismatch: what becomes of a file for another GPU: an error, the static check instead, or nothing. budget_s: wall
    time in seconds after which nothing new is begun. against: the revision whose kernels are timed beside these.
    journals: the folder of the runs, where each check is recorded; None records nothing. sources: where kernels of
    programs may be had from, to be compiled; replays: captures of their launches. elsewhere: files that are known to be
    for another GPU than this, each with in what it differs.
    """

    seed: int = 0
    on_mismatch: OnMismatch = "fail"
    budget_s: float | None = None
    against: Against | None = None
    journals: Path | None = None
    workers: int | None = None
    sources: Sources | None = None
    replays: Replays | None = None
    elsewhere: Mapping[Path, str] = {}


def live_gate(
    files: Sequence[LoadedFile],
    measurer_for: MeasurerFactory,
    progress: Progress,
    options: LiveOptions | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Finding]:
    """Measure every kept entry of the files against BASELINE or Before on this GPU, and every measured one against REV.

    holds: the interval of the gain is at or above the entry's own minimum gain. regression: it is below it, in two
    measurements. inconclusive: neither, or BASELINE against itself was too noisy, or no time was left. Entries that
    keep nothing are not gated. Raises NoUsableGpuError where the GPU is not the files', unless `on_mismatch` says else.
    """
    refuse_interpreter()
    options = options or LiveOptions()
    deadline = None if options.budget_s is None else clock() + options.budget_s
    limits = Allowance(seed=options.seed, deadline=deadline, clock=clock)
    findings: list[Finding] = []
    gated = [(path, file, entry) for path, file in files for entry in file.entries]
    elsewhere = dict(options.elsewhere)
    if elsewhere and options.on_mismatch == "fail":
        path, why = next(iter(elsewhere.items()))
        raise NoUsableGpuError(f"{path} cannot be gated on this machine: {why}")
    with progress.phase("Measuring what was kept", len(gated)) as phase:
        for path, file, entry in gated:
            phase.update(detail=entry.problem.describe())
            if path not in elsewhere:
                findings += _gate_entry(path, file, entry, measurer_for, progress, options, limits, elsewhere)
            phase.advance()
    for path, file in files:
        if path in elsewhere:
            findings = [finding for finding in findings if finding.file != path]
            findings += _other_machine(path, file, elsewhere[path], progress, options)
    return findings


def _gate_entry(
    path: Path,
    file: ConfigFile,
    entry: Entry,
    measurer_for: MeasurerFactory,
    progress: Progress,
    options: LiveOptions,
    limits: Allowance,
    elsewhere: dict[Path, str],
) -> list[Finding]:
    """The findings of one entry; a file for another machine goes into `elsewhere` instead."""
    kept = entry.evidence == "measured" and entry.verdict == "keep"
    checks: list[Check] = ["baseline"]
    if options.against is not None and entry.evidence == "measured":
        checks = ["baseline", "against"] if kept else ["against"]
    elif not kept:
        return [not_gated(path, file, entry, f"{entry.evidence}, {entry.verdict}: there is no gain to hold")]
    findings = []
    for check in checks:
        if limits.over:
            told = f"not measured: the budget of {options.budget_s:g} s was spent before its turn"
            findings.append(finding_of(path, file.op, entry, check, Judgement("inconclusive", told), None))
            continue
        found = _measure(path, file, entry, check, measurer_for, progress, options, limits)
        if isinstance(found, str):
            elsewhere[path] = found
            return []
        findings.append(found)
    return findings


def _measure(
    path: Path,
    file: ConfigFile,
    entry: Entry,
    check: Check,
    measurer_for: MeasurerFactory,
    progress: Progress,
    options: LiveOptions,
    limits: Allowance,
) -> Finding | str:
    """The finding, or in what this machine differs from the file's."""
    against = options.against if check == "against" else None
    spec = _spec_of(path, file, entry, check, options)
    if isinstance(spec, tuple):
        return finding_of(path, file.op, entry, check, Judgement(*spec), None)
    is_replayed = is_captured(file)
    other = against.beside(spec, file.op) if against and not is_replayed else None
    measurer = measurer_for(other or spec, entry.problem)
    journal: GateJournal | None = None
    try:
        try:
            facts = measurer.facts()
        except NoUsableGpuError as error:  # The driver shows a GPU, and PyTorch cannot use it.
            if options.on_mismatch == "fail":
                raise
            return str(error)
        differences = target_differences(file.target, facts.identity)
        if differences and options.on_mismatch == "fail":
            raise NoUsableGpuError(f"{path} cannot be gated on this machine: {'; '.join(differences)}")
        if differences:
            return "; ".join(differences)
        with hold_gpu_of(facts, progress):
            journal = GateJournal(options.journals)
            own = limits.of(reference_of(spec, entry.problem), reference_name(before_of(spec, entry.problem)))
            asked = _as_replayed(entry, spec) if is_replayed else entry
            try:
                judgement = _judge(measurer, facts, file, asked, check, against, own, journal)
            except NotCheckableError as error:
                judgement = Judgement("inconclusive", str(error))
            journal.end(asked, path, judgement.status)
    finally:
        if journal is not None:
            journal.close()
        measurer.close()
    if check == "baseline" and is_replayed:
        status, detail = as_used((judgement.status, judgement.detail), entry, spec.source_hash(entry.config))
        judgement = msgspec.structs.replace(judgement, status=status, detail=detail)
    elif check == "baseline" and spec.source_hash(entry.config) != entry.environment.kernel_hash:
        told = "the kernel has changed since, so the runtime does not use this entry: sweep again"
        judgement = msgspec.structs.replace(judgement, detail=f"{judgement.detail}; {told}")
    return finding_of(path, file.op, entry, check, judgement, journal.path)


def _spec_of(path: Path, file: ConfigFile, entry: Entry, check: Check, options: LiveOptions) -> KernelSpec | Outcome:
    """What launches an entry, or what is found instead."""
    if not is_captured(file):
        return spec_named(file.op)
    name = options.against.name if options.against is not None else ""
    return (options.replays or Replays((), {})).spec_of(path, file, entry, check, name)


def _as_replayed(entry: Entry, spec: KernelSpec) -> Entry:
    """The entry with what ran before, which is what it is held against, as the kernel is now."""
    before = reference_of(spec, entry.problem)
    return msgspec.structs.replace(entry, before=before.here() if before.is_elsewhere else before)


def _judge(
    measurer: Measurer,
    facts: GpuFacts,
    file: ConfigFile,
    entry: Entry,
    check: Check,
    against: Against | None,
    limits: Limits,
    journal: GateJournal,
) -> Judgement:
    rule = KeepRule()
    if entry.gain is not None:
        rule = KeepRule(min_gain=entry.gain.min_gain, confidence=entry.gain.confidence)
    journal.begin(file.op, entry, facts, rule, limits.seed, limits.baseline)
    if against is None:
        return judge_gain(measurer, entry, limits, journal)
    other = against.config(entry.config)
    return judge_against(measurer, entry.config, other, against.name, rule, limits, journal)


def finding_of(path: Path, op: str, entry: Entry, check: Check, judgement: Judgement, journal: Path | None) -> Finding:
    """What a judgement of an entry says to the reader of a gate."""
    result = judgement.result
    return Finding(
        file=path,
        op=op,
        entry=entry,
        status=judgement.status,
        detail=judgement.detail,
        check=check,
        gain=result.gain if result else None,
        baseline_us=result.baseline_us if result else None,
        config_us=result.config_us if result else None,
        journal=str(journal) if journal else None,
    )


def not_gated(path: Path, file: ConfigFile, entry: Entry, why: str) -> Finding:
    """The finding of an entry that nothing was asked of."""
    return Finding(file=path, op=file.op, entry=entry, status="not_gated", detail=why)


def _other_machine(path: Path, file: ConfigFile, why: str, progress: Progress, options: LiveOptions) -> list[Finding]:
    if options.on_mismatch == "static":
        progress.warn(f"{path} is only compiled: {why}")
        return static_findings(  # Beside what was measured.
            [(path, file)], progress, workers=options.workers, sources=options.sources
        )[0]
    return [not_gated(path, file, entry, f"skipped: {why}") for entry in file.entries]
