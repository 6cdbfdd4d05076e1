"""On a GPU: what was kept must still be the minimum gain faster than BASELINE, shown in fresh paired blocks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fusetune.core.config import BASELINE
from fusetune.core.decision import KeepRule
from fusetune.core.problem import Problem
from fusetune.core.progress import Progress
from fusetune.errors import NoUsableGpuError
from fusetune.gate.findings import Finding, LoadedFile, Status
from fusetune.kernels.spec import KernelSpec, load_spec
from fusetune.measure.lock import hold_gpu_of
from fusetune.measure.paired import PairResult, compare, is_quiet
from fusetune.measure.protocol import Failure, Measurer
from fusetune.store.lookup import target_differences
from fusetune.store.schema import Entry
from fusetune.units import format_gain, format_interval, format_us

MeasurerFactory = Callable[[KernelSpec, Problem], Measurer]


def live_gate(
    files: Sequence[LoadedFile], measurer_for: MeasurerFactory, progress: Progress, *, seed: int = 0
) -> list[Finding]:
    """Measure every kept entry of the files against BASELINE on the GPU at hand.

    holds: the interval of the gain is at or above the entry's own minimum gain. regression: it is below it.
    inconclusive: neither, or BASELINE against itself was too noisy. Entries that keep nothing are not gated.
    Raises NoUsableGpuError where the GPU is not the files'.
    """
    findings = []
    gated = [(path, file, entry) for path, file in files for entry in file.entries]
    with progress.phase("Measuring what was kept", len(gated)) as phase:
        for path, file, entry in gated:
            phase.update(detail=entry.problem.describe())
            status: Status
            if entry.evidence != "measured" or entry.verdict != "keep":
                status, detail = "not_gated", f"{entry.evidence}, {entry.verdict}: there is no gain to hold"
            else:
                spec = load_spec(file.op)
                measurer = measurer_for(spec, entry.problem)
                try:
                    facts = measurer.facts()
                    differences = target_differences(file.target, facts.identity)
                    if differences:
                        raise NoUsableGpuError(f"{path} cannot be gated on this machine: {'; '.join(differences)}")
                    with hold_gpu_of(facts, progress):
                        status, detail = _measure(measurer, entry, random.Random(seed), seed)
                    if spec.source_hash() != entry.environment.kernel_hash:
                        detail += "; the kernel has changed since, so the runtime does not use this entry: sweep again"
                finally:
                    measurer.close()
            findings.append(Finding(file=path, op=file.op, entry=entry, status=status, detail=detail))
            phase.advance()
    return findings


def _measure(measurer: Measurer, entry: Entry, rng: random.Random, seed: int) -> tuple[Status, str]:
    assert entry.gain is not None, "the schema gives every measured entry a gain"
    rule = KeepRule(min_gain=entry.gain.min_gain, confidence=entry.gain.confidence)
    measurer.prepare(seed)
    checked = measurer.check(entry.config)
    if isinstance(checked, Failure):
        wrong = checked.reason in {"wrong_result", "nan"}
        return "wrong_result" if wrong else "regression", f"{checked.reason}: {checked.detail}"
    measurer.warm_up()
    noise = compare(measurer, BASELINE, BASELINE, rule, comparisons=1, rng=rng, on_block=_unrecorded, decided=is_quiet)
    if isinstance(noise, Failure) or not is_quiet(noise.gain):
        seen = noise.detail if isinstance(noise, Failure) else _told(noise)
        return "inconclusive", f"this machine is too noisy: BASELINE against itself shows {seen}"
    result = compare(measurer, BASELINE, entry.config, rule, comparisons=1, rng=rng, on_block=_unrecorded)
    if isinstance(result, Failure):
        return "regression", f"{result.reason}: {result.detail}"
    outcomes: dict[str, Status] = {"keep": "holds", "revert": "regression", "inconclusive": "inconclusive"}
    return outcomes[result.outcome], f"{_told(result)}; {format_gain(entry.gain.median)} when it was kept"


def _told(result: PairResult) -> str:
    gain = result.gain
    return (
        f"gain {format_gain(gain.median)} in {format_interval(gain.low, gain.high)}, {gain.blocks} blocks, "
        f"{gain.min_gain * 100:g} % needed, {format_us(result.baseline_us)} to {format_us(result.config_us)}"
    )


def _unrecorded(_: object) -> None:
    """A gate keeps no journal."""
