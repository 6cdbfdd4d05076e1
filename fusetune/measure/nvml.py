"""NVML: is there a GPU, who else uses it, and how it is doing. Reads only; no clock is ever changed here."""

from __future__ import annotations

import os
from typing import Any

import msgspec

# nvmlClocksEventReason bits, from NVML's header.
_SOFTWARE_POWER_CAP = 0x4
_HARDWARE_SLOWDOWN = 0x8
_SOFTWARE_THERMAL = 0x20
_HARDWARE_THERMAL = 0x40
_HARDWARE_POWER_BRAKE = 0x80
_DISCARDING = {
    _HARDWARE_SLOWDOWN: "hardware slowdown",
    _SOFTWARE_THERMAL: "thermal throttling",
    _HARDWARE_THERMAL: "thermal throttling",
    _HARDWARE_POWER_BRAKE: "power brake",
}


class GpuState(msgspec.Struct, frozen=True):
    """The GPU at one moment: SM clock in MHz, power in W, temperature in C, and why its clocks are held down, if so."""

    sm_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    discard: str | None = None
    flags: tuple[str, ...] = ()


def gpu_present() -> bool:
    """Whether the driver shows a GPU to this process; loads no CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset") in {"", "-1"}:
        return False
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return bool(pynvml.nvmlDeviceGetCount() > 0)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False


def visible_gpu() -> tuple[str, str] | None:
    """Name and compute capability of the first GPU, when this process sees all of them; None where that is not sure."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            if pynvml.nvmlDeviceGetCount() != 1:
                return None
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            name = pynvml.nvmlDeviceGetName(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return (name.decode() if isinstance(name, bytes) else str(name)), f"{major}.{minor}"


def full_uuid(uuid: str) -> str:
    """A GPU's UUID as NVML writes it; PyTorch leaves the `GPU-` in front of it out."""
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


class Monitor:
    """Watches one GPU, named by its UUID; where NVML does not answer, everything is None and nothing is discarded."""

    def __init__(self, uuid: str) -> None:
        import pynvml

        self._nvml = pynvml
        self._handle: Any = None
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(full_uuid(uuid))
        except pynvml.NVMLError:
            self._handle = None

    def state(self) -> GpuState:
        """Clock, power and throttling now."""
        if self._handle is None:
            return GpuState()
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons") or 0
        discard = next((name for bit, name in _DISCARDING.items() if reasons & bit), None)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return GpuState(
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            power_w=None if milliwatts is None else milliwatts / 1000,
            temperature_c=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            discard=discard,
            flags=("software power cap",) if reasons & _SOFTWARE_POWER_CAP else (),
        )

    def other_processes(self) -> list[str]:
        """The processes, other than this one, that compute on the GPU now: `pid 4242 (python3)`."""
        running = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        pids = sorted(process.pid for process in running if process.pid != os.getpid())
        return [f"pid {pid} ({self._name_of(pid)})" for pid in pids]

    def driver_version(self) -> str | None:
        """The driver's version, such as 580.159.04."""
        if self._handle is None:
            return None
        try:
            version = self._nvml.nvmlSystemGetDriverVersion()
        except self._nvml.NVMLError:
            return None
        return version.decode() if isinstance(version, bytes) else str(version)

    def _name_of(self, pid: int) -> str:
        try:
            name = self._nvml.nvmlSystemGetProcessName(pid)
        except self._nvml.NVMLError:
            return "of another container or user"
        return str(name.decode() if isinstance(name, bytes) else name)

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None  # Some GPUs and drivers do not answer some questions; the figure is then absent.
