"""What the GPU's own state says about measuring on it: MIG, its name, company, clocks, power and memory."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Final

from fusetune.core.target import match_target
from fusetune.doctor.findings import Found, found
from fusetune.measure.condition import GpuCondition
from fusetune.measure.protocol import GpuFacts
from fusetune.ops.device import UNKNOWN_NAME
from fusetune.units import format_bytes

BUSY_PERCENT: Final = 5
"""An idle GPU shows 0; a desktop that is looked at may show a little more."""
_BELOW: Final = 0.99
"""A limit of power counts as lowered below this share of the default: drivers round."""
_SHARED_GPU: Final = "stop what else uses this GPU, or tune on one that nothing else uses"


def gpu_findings(facts: GpuFacts, condition: GpuCondition, others: Sequence[str], needed_bytes: int) -> list[Found]:
    """What is to be known before something is timed. `needed_bytes` is what the longest of the examples takes."""
    return [
        *_identity(facts, condition),
        *_system(),
        _company(condition, others),
        *_held_down(condition),
        *_power(condition),
        *_memory(condition, needed_bytes),
    ]


def _identity(facts: GpuFacts, condition: GpuCondition) -> Iterator[Found]:
    identity = facts.identity
    told = f"{identity.name}, compute capability {identity.capability}, {identity.sms} SMs"
    if identity.name == UNKNOWN_NAME or (condition.answers and condition.name is None):
        yield found(
            "gpu",
            "note",
            f"{told}; the driver reports a name that is no text, so that no shipped configs are found for it",
            "update the driver: some under WSL do so",
        )
    elif match_target(identity.name, identity.capability, identity.sms) is None:
        told += "; no row of `fusetune targets` is for it: limits come from the driver, and nothing can be predicted"
        yield found("gpu", "note", told)
    else:
        yield found("gpu", "ok", told)
    if condition.mig:
        yield found(
            "MIG",
            "note",
            "the GPU is divided (MIG): what is tuned on this part holds for parts of this size, and their clocks and "
            "power are shared",
            "tune on a whole GPU where the configs are for whole GPUs",
        )
    if not condition.answers:
        told = "NVML does not know this GPU: clocks, throttling and other processes cannot be seen"
        yield found("NVML", "note", told, "rely on the A/A below, and make sure that nothing else uses the GPU")


def _system() -> Iterator[Found]:
    if "microsoft" in platform.release().lower():
        told = "this is WSL: programs of Windows use the GPU unseen, and NVML names processes in part"
        yield found("WSL", "note", told, "close programs of Windows that draw or compute, and rely on the A/A below")


def _company(condition: GpuCondition, others: Sequence[str]) -> Found:
    used = condition.utilization
    busy = used is not None and used >= BUSY_PERCENT
    names = ", ".join(others)
    count = f"{len(others)} other {'process computes' if len(others) == 1 else 'processes compute'} on it"
    if others and busy:
        return found("company", "unfit", f"{count}, and it is busy {used} % of the time", _SHARED_GPU, names)
    if busy:
        told = f"it is busy {used} % of the time before anything is measured, by what is not to be seen from here"
        return found("company", "unfit", told, _SHARED_GPU)
    if others:
        told = f"{count}, idle now: timings may be disturbed, and the A/A control decides"
        return found("company", "note", told, "stop them, or give --exclusive to a sweep", names)
    return found("company", "ok", "no other process is seen to use it")


def _held_down(condition: GpuCondition) -> Iterator[Found]:
    state = condition.state
    if state.discard is not None:
        yield found(
            "clocks",
            "unfit",
            f"held down: {state.discard}",
            "let the GPU cool, and see to its fans, air and power supply",
        )


def _power(condition: GpuCondition) -> Iterator[Found]:
    limit, default = condition.power_limit_w, condition.power_default_w
    if limit is None:
        return
    if default is not None and limit < _BELOW * default:
        yield found(
            "power",
            "note",
            f"limited to {limit:.0f} W, where {default:.0f} W is this GPU's own limit: what is tuned holds for that",
            f"an administrator lifts it with nvidia-smi -pl {default:.0f}",
        )
    else:
        yield found("power", "ok", f"limited to {limit:.0f} W, as it is by default")


def _memory(condition: GpuCondition, needed_bytes: int) -> Iterator[Found]:
    free, total = condition.memory_free_bytes, condition.memory_bytes
    if free is None or total is None:
        return
    told = f"{format_bytes(free)} of {format_bytes(total)} are free"
    if free < needed_bytes:
        told += f", and the longest example takes {format_bytes(needed_bytes)}"
        yield found("memory", "unfit", told, "free the GPU's memory: see nvidia-smi for who has it")
    else:
        yield found("memory", "ok", told)
