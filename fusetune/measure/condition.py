"""How one GPU is at the moment, as NVML has it: before anything is measured on it, and without a CUDA context."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from fusetune.measure.nvml import GpuState, Monitor, text

LOOKS: Final = 3
LOOK_EVERY_S: Final = 0.2
"""NVML's utilization is of the last sixth of a second to a second: a few looks see what comes and goes."""


class GpuCondition(msgspec.Struct, frozen=True):
    """A figure that NVML does not give is None: bytes, watts, MHz, and percent of the time that something ran.

    `answers`: NVML knows the GPU at all. `name` is None where NVML tells none that is text.
    """

    answers: bool
    name: str | None = None
    mig: bool = False
    utilization: int | None = None
    memory_free_bytes: int | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    sm_max_mhz: int | None = None
    persistence: bool | None = None
    state: GpuState = GpuState()


def condition_of(monitor: Monitor, sleep: Callable[[float], None] = time.sleep) -> GpuCondition:
    """Ask for all of it. Raises nothing for what is not answered."""
    if not monitor.answers:
        return GpuCondition(answers=False)
    used = []
    for look in range(LOOKS):
        if look:
            sleep(LOOK_EVERY_S)
        rates = monitor.ask("nvmlDeviceGetUtilizationRates")
        used += [int(rates.gpu)] if rates is not None else []
    name, memory = monitor.ask("nvmlDeviceGetName"), monitor.ask("nvmlDeviceGetMemoryInfo")
    mig, persistence = monitor.ask("nvmlDeviceGetMigMode"), monitor.ask("nvmlDeviceGetPersistenceMode")
    limit = monitor.ask("nvmlDeviceGetEnforcedPowerLimit")
    default = monitor.ask("nvmlDeviceGetPowerManagementDefaultLimit")
    return GpuCondition(
        answers=True,
        name=text(name) if name else None,
        mig=bool(mig and mig[0]),
        utilization=max(used, default=None),
        memory_free_bytes=int(memory.free) if memory else None,
        memory_bytes=int(memory.total) if memory else None,
        power_limit_w=_watts(limit),
        power_default_w=_watts(default),
        sm_max_mhz=monitor.sm_max_mhz(),
        persistence=None if persistence is None else bool(persistence),
        state=monitor.state(),
    )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
