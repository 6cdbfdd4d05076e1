"""Without a GPU: every config must still compile for its file's GPU, without a spill and within shared memory."""

from __future__ import annotations

from collections.abc import Sequence

from fusetune.compiler.pool import Job, compile_jobs
from fusetune.core.config import Config
from fusetune.core.progress import Progress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target, match_target
from fusetune.errors import UsageError
from fusetune.gate.findings import Finding, LoadedFile
from fusetune.kernels.spec import load_spec
from fusetune.store.schema import ConfigFile
from fusetune.units import format_bytes


def static_gate(files: Sequence[LoadedFile], progress: Progress, *, workers: int | None = None) -> list[Finding]:
    """Compile every entry's config for the GPU of its file.

    Raises UsageError for a GPU that the table of targets does not hold, or an op that is not there.
    """
    findings = []
    for path, file in files:
        target = _target_of(file)
        jobs = {Job(entry.problem, entry.config): entry for entry in file.entries}
        with progress.phase(f"Compiling {path} for {target.name}", len(jobs)) as phase:
            for job, result in compile_jobs(load_spec(file.op), list(jobs), target, workers=workers):
                regression = _what_is_wrong(result, target)
                findings.append(
                    Finding(
                        file=path,
                        op=file.op,
                        entry=jobs[job],
                        status="regression" if regression else "holds",
                        detail=regression or _told(job.config, result),
                    )
                )
                phase.advance()
    return sorted(findings, key=lambda finding: (finding.file, finding.entry.problem.describe()))


def _target_of(file: ConfigFile) -> Target:
    target = match_target(file.target.name, file.target.capability, file.target.sms)
    if target is None:
        raise UsageError(
            f"the table of targets has no {file.target.name} with compute capability {file.target.capability} and "
            f"{file.target.sms} SMs, so nothing can be compiled for it; add it to fusetune/core/targets.yaml"
        )
    return target


def _what_is_wrong(result: Resources | Rejection, target: Target) -> str | None:
    if isinstance(result, Rejection):
        return f"does not compile: {result.detail}"
    if result.spills:
        return f"spills: {result.stack_bytes} bytes of stack a thread"
    if result.shared_bytes > target.shared_bytes_per_cta:
        return (
            f"needs {format_bytes(result.shared_bytes)} of shared memory, "
            f"{target.name} has {format_bytes(target.shared_bytes_per_cta)}"
        )
    return None


def _told(config: Config, result: Resources | Rejection) -> str:
    if isinstance(result, Rejection):
        return result.detail
    if config.is_library and not result.registers:
        return "a library's call: there is no kernel of ours to compile"
    return f"{result.registers} registers, no spill, {format_bytes(result.shared_bytes)} of shared memory"
