"""BASELINE against itself, at a short and a long launch: exactly what a sweep asks before it decides anything."""

from __future__ import annotations

import math
import random
from typing import Literal

from fusetune.core.decision import KeepRule
from fusetune.core.problem import Problem
from fusetune.doctor.findings import Found, found
from fusetune.measure.paired import NOISE_LIMIT, PairResult, compare, is_quiet
from fusetune.measure.protocol import BlockTimes, Failure, Measurer, SamplingFacts
from fusetune.ops.before import reference_of
from fusetune.ops.spec import KernelSpec
from fusetune.store.doctor_file import GainFound, Noise
from fusetune.units import format_us

What = Literal["short", "long"]
_DO = "stop what else uses this GPU and this machine's cores, let the GPU cool, and run the command again"
_SLOW_CLOCK = 0.8
"""A clock under load below this share of the highest is worth a word."""


def noise_of(what: What, spec: KernelSpec, problem: Problem, measurer: Measurer, seed: int) -> Noise | Failure:
    """The A/A of one problem, in a process of its own. Raises as `Measurer.prepare` does."""
    sampling = measurer.prepare(seed)
    reference = reference_of(spec, problem)
    measurer.warm_up()
    blocks: list[BlockTimes] = []
    result = compare(
        measurer,
        reference,
        reference,
        KeepRule(),
        comparisons=1,
        rng=random.Random(seed),
        on_block=blocks.append,
        decided=is_quiet,
    )
    if isinstance(result, Failure):
        return result
    return _noise(what, spec.name, problem.describe(), sampling, result, blocks)


def noise_findings(what: What, noise: Noise | Failure, sm_max_mhz: int | None) -> list[Found]:
    """Whether it came out as equal; how clocks and the event clock were meanwhile."""
    check = f"A/A, {what}"
    if isinstance(noise, Failure):
        return [found(check, "unfit", f"could not be timed ({noise.reason}: {noise.detail})", _DO)]
    gain = noise.gain
    told = (
        f"{format_us(noise.baseline_us)} a launch, against itself {gain.median:+.2%} in {_interval(gain)}, "
        f"{gain.blocks} blocks, timed by {noise.timer}"
    )
    findings = []
    if noise.quiet:
        findings.append(found(check, "ok", told))
    else:
        findings.append(found(check, "unfit", f"{told}; 0 within {NOISE_LIMIT:.1%} is needed", _DO))
    findings += _clocks(what, noise, sm_max_mhz)
    if what == "short":
        findings.append(found("timer", "ok", f"the event clock steps by {noise.tick_us:.3f} us"))
    return findings


def _interval(gain: GainFound) -> str:
    """Finer than gains are told: what is asked is whether it is 0 within half a percent."""
    if gain.low is None or gain.high is None:
        return "no interval"
    return f"[{gain.low:+.2%}, {gain.high:+.2%}]"


def _clocks(what: What, noise: Noise, sm_max_mhz: int | None) -> list[Found]:
    check = f"clocks, {what}"
    findings = []
    if noise.discarded:
        told = f"{noise.discarded} blocks were thrown away, since the GPU was slowed down by heat or power meanwhile"
        findings.append(found(check, "unfit", told, "let the GPU cool, and see to its fans, air and power supply"))
    if noise.sm_mhz is None:
        return findings
    low, high = noise.sm_mhz
    span = f"{low} MHz" if low == high else f"{low} to {high} MHz"
    power = f", {noise.power_w:.0f} W" if noise.power_w is not None else ""
    heat = f", {noise.temperature_c} C" if noise.temperature_c is not None else ""
    most = f" of {sm_max_mhz} MHz at most" if sm_max_mhz else ""
    told = f"SM clock under load {span}{most}{power}{heat}"
    if noise.flags:
        told += f"; held by: {', '.join(noise.flags)}"
    slow = bool(sm_max_mhz) and low < _SLOW_CLOCK * (sm_max_mhz or 0)
    do = "see whether clocks are locked or power is limited (nvidia-smi -q -d CLOCK,POWER)" if slow else ""
    findings.append(found(check, "note" if slow or noise.flags else "ok", told, do))
    return findings


def _noise(
    what: What, op: str, problem: str, sampling: SamplingFacts, result: PairResult, blocks: list[BlockTimes]
) -> Noise:
    clocks = [block.sm_mhz for block in blocks if block.sm_mhz is not None]
    power = [block.power_w for block in blocks if block.power_w is not None]
    heat = [block.temperature_c for block in blocks if block.temperature_c is not None]
    return Noise(
        what=what,
        op=op,
        problem=problem,
        baseline_us=round(result.baseline_us, 4),
        gain=gain_found(result),
        quiet=is_quiet(result.gain),
        timer=sampling.timer,
        launches=next((block.launches[0] for block in blocks if block.launches), sampling.launches),
        tick_us=sampling.tick_us,
        discarded=result.discarded_blocks,
        flags=tuple(dict.fromkeys(flag for block in blocks for flag in block.flags)),
        sm_mhz=(min(clocks), max(clocks)) if clocks else None,
        power_w=max(power, default=None),
        temperature_c=max(heat, default=None),
    )


def gain_found(result: PairResult) -> GainFound:
    """The gain of a pair as the file has it."""
    gain = result.gain
    low, high = (round(end, 5) if math.isfinite(end) else None for end in (gain.low, gain.high))
    return GainFound(round(gain.median, 5), low, high, confidence=gain.confidence, blocks=gain.blocks)
