"""Without a GPU: every config must compile for its file's GPU without a spill, and no worse than it is pinned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from fusetune.capture.from_source import KernelSource, NoKernel
from fusetune.capture.pinned import PinnedSpec
from fusetune.compiler import pool as compiler
from fusetune.compiler.pool import TIME_LIMIT_S, Job, compile_jobs, outcome_of
from fusetune.compiler.processes import CompileProcesses, usable_cores
from fusetune.compiler.record import KernelRecord, kernel_records
from fusetune.compiler.tools import ptxas_version
from fusetune.core.progress import Progress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target, match_target
from fusetune.core.trouble import Trouble, machine_told, refuse_interpreter, trouble_of
from fusetune.errors import CompileError, FusetuneError, UsageError
from fusetune.gate.drift import METRICS, Drift, drift
from fusetune.gate.findings import Finding, LoadedFile, Outcome, Status, as_used, without_kernel
from fusetune.gate.pins import PINS_VERSION, Pin, PinFile, Toolchain, merged, pins_path, read_pins, write_pins
from fusetune.gate.sources import Sources, is_captured, launches_of_captures, pinned_spec
from fusetune.ops.loading import spec_named
from fusetune.ops.spec import KernelSpec
from fusetune.store.schema import ConfigFile, Entry
from fusetune.units import format_bytes

_CAPTURED_NEED: Final = ("torch", "fusetune.capture.pinned")
"""To compile a captured kernel. Triton asks torch about the arguments of a launch, and loading it takes seconds."""


class Compiled(msgspec.Struct, frozen=True):
    """An entry's config as compiled, with a record of each kernel where that was asked for."""

    result: compiler.Outcome
    kernels: tuple[KernelRecord, ...] | None


def static_gate(
    files: Sequence[LoadedFile], progress: Progress, *, workers: int | None = None, sources: Sources | None = None
) -> list[Finding]:
    """Compile every entry's config for the GPU of its file and hold it against its pin, where the file has pins.

    `sources` are needed for files of captured kernels. Raises as `static_findings` does, and MachineError, or
    UsageError for what the user has set, where the machine let nothing be compiled at all: one line instead of as many
    as there are entries.
    """
    findings, troubles = static_findings(files, progress, workers=workers, sources=sources)
    if troubles and len(troubles) == len(findings):
        raise troubles[0].error()
    return findings


def static_findings(
    files: Sequence[LoadedFile], progress: Progress, *, workers: int | None = None, sources: Sources | None = None
) -> tuple[list[Finding], list[Trouble]]:
    """What is found of every entry, and what of the machine kept some from being compiled: those are inconclusive.

    What is pinned by other toolchains alone is reported, whatever comes of it, and not compared. A captured kernel is
    compiled as its pins say that it is launched. Raises UsageError for a GPU that the table of targets does not hold or
    an op that is not there, ConfigFileError for pins that cannot be read, and as `Sources.kernels`.
    """
    refuse_interpreter()
    findings: list[Finding] = []
    troubles: list[Trouble] = []
    with _captured_of(files, sources, workers) as (kernels, processes):
        for path, file in files:
            target, pins = target_of(file), read_pins(pins_path(path), METRICS)
            if pins is not None:
                _refuse_other(pins, file, pins_path(path))
            toolchain = toolchain_for(target) if pins else None
            spec = _spec_of(file, kernels.get(path), pins)
            if isinstance(spec, NoKernel):
                findings += [_found(path, file, entry, without_kernel(spec, entry)) for entry in file.entries]
                continue
            made = _compile(path, file, spec, target, progress, workers, processes, pins is not None)
            for entry in file.entries:
                job = Job(entry.problem, entry.config)
                compiled = made.get(job)
                if compiled is None:
                    found = _as_used(_not_compared(entry, spec, pins), entry, spec)
                elif isinstance(compiled.result, Trouble):
                    troubles.append(compiled.result)
                    found = _not_compiled(compiled.result)
                else:
                    found = _checked(entry, compiled.result, target, spec)
                    if pins is not None and toolchain is not None:
                        found = _held_to_pin(found, job, compiled.kernels, pins, spec, toolchain)
                    found = _as_used(found, entry, spec)
                findings.append(_found(path, file, entry, found))
    return sorted(findings, key=lambda finding: (finding.file, finding.entry.problem.describe())), troubles


@contextmanager
def _captured_of(
    files: Sequence[LoadedFile], sources: Sources | None, workers: int | None
) -> Iterator[tuple[dict[Path, KernelSource | NoKernel], CompileProcesses | None]]:
    """The captured kernels of the files that are for one, and processes that compile them, where there are any."""
    captured = [(path, file, target_of(file)) for path, file in files if is_captured(file)]
    if not captured:
        yield {}, None
        return
    with CompileProcesses(workers, loads=_CAPTURED_NEED) as processes:
        processes.begin_to_load()  # While the files are imported.
        yield (sources or Sources((), Path())).kernels(captured), processes


def _spec_of(file: ConfigFile, source: KernelSource | NoKernel | None, pins: PinFile | None) -> KernelSpec | NoKernel:
    if source is None:
        return spec_named(file.op)
    return source if isinstance(source, NoKernel) else pinned_spec(file, source, pins)


def _found(path: Path, file: ConfigFile, entry: Entry, found: Outcome) -> Finding:
    return Finding(file=path, op=file.op, entry=entry, status=found[0], detail=found[1], check="static")


class Pinned(msgspec.Struct, frozen=True):
    """Pins that were written for one file, and the entries that were not pinned, with the reason."""

    path: Path
    count: int
    refused: tuple[str, ...]


def pin(
    files: Sequence[LoadedFile], progress: Progress, *, workers: int | None = None, sources: Sources | None = None
) -> list[Pinned]:
    """Put on record what the compiler makes of every entry's config; what spills or does not compile is refused.

    How a captured kernel is launched is taken from a kept capture of it, or else from the pins that there are. Pins by
    other toolchains stay, as do overrides and the pins of what is refused. Raises as `static_gate` does, and
    where the machine kept any entry from being compiled: that file's pins are then left as they are.
    """
    refuse_interpreter()
    written = []
    with _captured_of(files, sources, workers) as (kernels, processes):
        for path, file in files:
            target, place = target_of(file), pins_path(path)
            old = read_pins(place, METRICS)
            if old is not None:
                _refuse_other(old, file, place)
            toolchain = toolchain_for(target)
            spec = _spec_of(file, kernels.get(path), old)
            if isinstance(spec, NoKernel):
                written.append(Pinned(place, 0, (spec.why,)))
                continue
            if isinstance(spec, PinnedSpec):
                spec = spec.with_launches(launches_of_captures(file, file.entries, target))
            made = _compile(path, file, spec, target, progress, workers, processes, True)
            entries, refused = [], []
            for entry in file.entries:
                compiled = made.get(Job(entry.problem, entry.config))
                if compiled is None:
                    refused.append(
                        f"{entry.problem.describe()}  {entry.config.label()}: {_not_compared(entry, spec, old)[1]}"
                    )
                    continue
                if isinstance(compiled.result, Trouble):
                    told = (
                        f"{path} was not pinned, {entry.config.label()} could not be compiled: {compiled.result.detail}"
                    )
                    raise Trouble(told, compiled.result.is_setting).error()
                status, detail = _checked(entry, compiled.result, target, spec)
                override = old.override(entry.problem) if old else None
                if status == "regression" and not (
                    override and _is_spill(compiled) and _accepts_spill(override.accepts)
                ):
                    refused.append(f"{entry.problem.describe()}  {entry.config.label()}: {detail}")
                elif compiled.kernels is not None:
                    entries.append(_pin_of(entry, spec, toolchain, compiled.kernels, old))
            new = PinFile(pins=PINS_VERSION, op=file.op, target=file.target, entries=tuple(entries))
            write_pins(place, merged(old, new, [(entry.problem, entry.config) for entry in file.entries]))
            written.append(Pinned(place, len(entries), tuple(refused)))
    return written


def _pin_of(
    entry: Entry, spec: KernelSpec, toolchain: Toolchain, kernels: tuple[KernelRecord, ...], old: PinFile | None
) -> Pin:
    hashed = spec.source_hash(entry.config)
    made = Pin(entry.problem, entry.config, hashed, toolchain, kernels)
    if not isinstance(spec, PinnedSpec):
        return made
    known = next((pin.before for pin in (old.of(entry.problem, entry.config) if old else ()) if pin.before), None)
    launch = spec.pinned(entry.problem, entry.config)
    return msgspec.structs.replace(made, before=entry.before or known, launch=launch)


def toolchain_for(target: Target) -> Toolchain:
    """What compiles for `target` here."""
    return Toolchain(triton=version("triton"), ptxas=ptxas_version(target))


def _compile(
    path: Path,
    file: ConfigFile,
    spec: KernelSpec,
    target: Target,
    progress: Progress,
    workers: int | None,
    processes: CompileProcesses | None,
    with_records: bool,
) -> dict[Job, Compiled]:
    jobs = list(dict.fromkeys(Job(entry.problem, entry.config) for entry in file.entries))
    if isinstance(spec, PinnedSpec):
        jobs = [job for job in jobs if spec.unfit(*job) is None]
    results: dict[Job, compiler.Outcome] = {}
    with progress.phase(f"Compiling {path} for {target.name}", len(jobs)) as phase:
        for job, result in compile_jobs(spec, jobs, target, workers=workers, processes=processes):
            results[job] = result
            phase.advance()
        if not with_records:
            return {job: Compiled(result, None) for job, result in results.items()}
        able = [job for job, result in results.items() if isinstance(result, Resources)]
        recorded = _recorded(spec, able, target, workers, processes)
    made = {}
    for job, result in results.items():
        kernels = recorded.get(job)
        if isinstance(kernels, Rejection | Trouble):
            made[job] = Compiled(kernels, None)
        else:
            made[job] = Compiled(result, kernels)
    return made


def _recorded(
    spec: KernelSpec, able: Sequence[Job], target: Target, workers: int | None, processes: CompileProcesses | None
) -> dict[Job, tuple[KernelRecord, ...] | Rejection | Trouble]:
    """What compiled a moment ago in another process: Triton's cache has it, and threads wait for cuobjdump."""
    if processes is not None:
        running = [processes.schedule(_record, (spec, job, target), TIME_LIMIT_S) for job in able]
        return {job: outcome_of(future.result, TIME_LIMIT_S) for job, future in zip(able, running, strict=True)}
    with machine_told(), ThreadPoolExecutor(workers or usable_cores()) as pool:
        return dict(zip(able, pool.map(lambda job: _record(spec, job, target), able), strict=True))


def _record(spec: KernelSpec, job: Job, target: Target) -> tuple[KernelRecord, ...] | Rejection | Trouble:
    try:
        return kernel_records(spec, job.problem, job.config, target)
    except CompileError as error:
        return Rejection("compile_error", str(error))
    except (FusetuneError, OSError, MemoryError) as error:
        return trouble_of(error) or Trouble(str(error), is_setting=isinstance(error, UsageError))


def target_of(file: ConfigFile) -> Target:
    """The GPU that a file is for. Raises UsageError where the table of targets does not hold it."""
    target = match_target(file.target.name, file.target.capability, file.target.sms)
    if target is None:
        raise UsageError(
            f"the table of targets has no {file.target.name} with compute capability {file.target.capability} and "
            f"{file.target.sms} SMs, so nothing can be compiled for it; add it to fusetune/core/targets.yaml"
        )
    return target


def _refuse_other(pins: PinFile, file: ConfigFile, path: Path) -> None:
    if (pins.op, pins.target) != (file.op, file.target):
        raise UsageError(
            f"{path} pins {pins.op} on {pins.target.name}, its configs are for {file.op} on {file.target.name}; "
            "remove it and run `fusetune gate --pin`"
        )


def _checked(entry: Entry, result: Resources | Rejection, target: Target, spec: KernelSpec) -> Outcome:
    """What can be said without a pin."""
    may_spill = entry.config == entry.before or spec.may_spill(entry.problem, entry.config)
    if isinstance(result, Rejection):
        return "regression", f"does not compile: {result.detail}"
    if result.spills and not may_spill:
        return "regression", f"spills: {result.stack_bytes} bytes of stack a thread"
    if result.shared_bytes > target.shared_bytes_per_cta:
        return "regression", (
            f"needs {format_bytes(result.shared_bytes)} of shared memory, "
            f"{target.name} has {format_bytes(target.shared_bytes_per_cta)}"
        )
    if entry.config.is_library and not result.registers:
        return "holds", "a library's call: there is no kernel of ours to compile"
    # BASELINE is the reference, and what calls fall back to, whatever it spills; Before and captured kernels
    # likewise.
    spiller = "a program's kernel" if isinstance(spec, PinnedSpec) else "BASELINE"
    stack = f"spills {result.stack_bytes} bytes a thread, as {spiller} may" if result.spills else "no spill"
    return "holds", f"{result.registers} registers, {stack}, {format_bytes(result.shared_bytes)} of shared memory"


def _not_compiled(trouble: Trouble) -> Outcome:
    return "inconclusive", f"not compiled, because of the machine: {trouble.detail}"


def _not_compared(entry: Entry, spec: KernelSpec, pins: PinFile | None) -> Outcome:
    """Of an entry whose captured kernel cannot be launched as pins say, or of which they say nothing."""
    own = pins.of(entry.problem, entry.config) if pins is not None else []
    if own and all(pin.launch is None for pin in own):
        return "not_gated", "it is launched with what no file can hold, such as a function: it is gated on a GPU alone"
    why = spec.unfit(entry.problem, entry.config) if isinstance(spec, PinnedSpec) else None
    advice = "`fusetune tune` pins it again, and so does `fusetune gate --pin` where a capture of it is kept"
    return "no_reference", f"{why}: {advice}"


def _as_used(found: Outcome, entry: Entry, spec: KernelSpec) -> Outcome:
    return as_used(found, entry, spec.source_hash(entry.config)) if isinstance(spec, PinnedSpec) else found


def _held_to_pin(
    unpinned: Outcome,
    job: Job,
    made: tuple[KernelRecord, ...] | None,
    pins: PinFile,
    spec: KernelSpec,
    toolchain: Toolchain,
) -> Outcome:
    """What the pins say of what was found without them; `made` is None where nothing was compiled."""
    status, detail = unpinned
    own = pins.of(job.problem, job.config)
    here = next((pin for pin in own if pin.toolchain == toolchain), None)
    if own and here is None:
        # Whatever another toolchain makes of it, be it nothing at all: what is shipped was promised for those pinned.
        others = " and ".join(dict.fromkeys(pin.toolchain.describe() for pin in own))
        return "other_toolchain", (
            f"{detail}; pinned with {others}, compiled with {toolchain.describe()}: not compared"
            f"{'' if status == 'regression' else ', `fusetune gate --pin` adds this one'}"
        )
    override = pins.override(job.problem)
    accepts = override.accepts if override else ()
    reason = f"accepted, because: {override.reason}" if override else ""
    if status == "regression" and not (_spills(made) and _accepts_spill(accepts)):
        return unpinned
    if status == "regression":
        status, detail = "holds", f"{detail}; {reason}"
    if here is None or made is None:
        return "no_reference", f"{detail}; not pinned, while others are: `fusetune gate --pin` puts it on record"
    hashed = spec.source_hash(job.config)
    changed = "" if here.kernel_hash == hashed else "; the kernels' source has changed since"
    return _compared(drift(here.kernels, made), status, detail, accepts, reason, changed)


def _compared(
    found: Drift, status: Status, detail: str, accepts: Collection[str], reason: str, changed: str
) -> Outcome:
    """What a difference from the pin comes to; `status` and `detail` say what was found without it."""
    if found.is_none:
        return status, f"{detail}, as pinned{changed}"
    unaccepted = [metric for metric in found.worse if metric not in accepts]
    if unaccepted:
        return "regression", (
            f"worse than pinned in {', '.join(unaccepted)}: {found.told}{changed}. If that is meant, "
            "run `fusetune gate --pin`, or accept it with a reason in the pins' overrides"
        )
    if found.worse:
        return "holds", f"{found.told}; {reason}"
    how = "better than pinned" if found.better else "other than pinned, and no worse"
    return "better", f"{how}: {found.told}{changed}; `fusetune gate --pin` records it"


def _spills(made: Iterable[KernelRecord] | None) -> bool:
    return any(record.stack_bytes for record in made or ())


def _is_spill(compiled: Compiled) -> bool:
    return isinstance(compiled.result, Resources) and compiled.result.spills


def _accepts_spill(accepts: Iterable[str]) -> bool:
    return bool({"stack_bytes", "spill_bytes"} & set(accepts))
