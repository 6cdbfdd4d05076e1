"""NVML: is there a GPU, who else uses it, and how it is doing. Reads only; no clock is ever changed here."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from typing import Any, Final

import msgspec

from fusetune.core.text import printable

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


NO_ANSWER: Final = (AttributeError, UnicodeDecodeError)
"""What comes of a question that this NVML does not know, and of a name that is no UTF-8 (driver 555 under WSL)."""
COUNT_LIMIT_S: Final = 30.0
_ONE_UUID: Final = re.compile(r"GPU(?:-[0-9a-f]+){5}")
_NAMES_GPUS: Final = re.compile(r"\s*\d|GPU-")
"""What begins a list of GPUs by their numbers, or by their UUIDs; a part of a GPU (MIG) is none."""
_CUDA_DRIVER: Final = "libcuda.so.1"
_COUNT_BY_CUDA: Final = f"""
import ctypes
cuda, count = ctypes.CDLL("{_CUDA_DRIVER}"), ctypes.c_int()
print(count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0)
"""


class GpuState(msgspec.Struct, frozen=True):
    """The GPU at one moment: SM clock in MHz, power in W, temperature in C, and why its clocks are held down, if so."""

    sm_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    discard: str | None = None
    flags: tuple[str, ...] = ()


def gpu_present() -> bool:
    """Whether the driver shows a GPU to this process, by NVML, or by CUDA where NVML cannot be asked.

    Containers may have one without the other. Loads no CUDA into this process.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset") in {"", "-1"}:
        return False
    nvml = library()
    if nvml is None:
        return _counted_by_cuda() > 0
    try:
        nvml.nvmlInit()
        try:
            return bool(nvml.nvmlDeviceGetCount() > 0)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return _counted_by_cuda() > 0


def visible_gpu() -> tuple[str, str] | None:
    """Name and compute capability of the GPU that this process runs on; None where that is not sure.

    It is sure where CUDA_VISIBLE_DEVICES names one by its UUID, as each process of a fleet has, and where all of the
    machine are alike. Which one a number means there is up to CUDA.
    """
    nvml = library()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if nvml is None or (named is not None and not _NAMES_GPUS.match(named)):
        return None
    try:
        nvml.nvmlInit()
        try:
            if named is not None and _ONE_UUID.fullmatch(named):
                return _seen(nvml, nvml.nvmlDeviceGetHandleByUUID(named))
            handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
            found = {_seen(nvml, handle) for handle in handles}
        finally:
            nvml.nvmlShutdown()
    except (nvml.NVMLError, *NO_ANSWER):
        return None
    return found.pop() if len(found) == 1 else None


def _seen(nvml: Any, handle: Any) -> tuple[str, str]:
    name = text(nvml.nvmlDeviceGetName(handle))
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return name, f"{major}.{minor}"


def library() -> Any:
    """NVML's module, or None where it is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def has_cuda_driver() -> bool:
    """Whether CUDA's driver is installed here; nothing of it is called."""
    try:
        ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return False
    return True


def _counted_by_cuda() -> int:
    """How many GPUs CUDA's driver counts, asked in a process of its own; 0 where there is no such driver."""
    if not has_cuda_driver():
        return 0
    command = [sys.executable, "-I", "-S", "-c", _COUNT_BY_CUDA]
    try:
        told = subprocess.run(command, capture_output=True, check=False, timeout=COUNT_LIMIT_S).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(told) if told.isdigit() else 0


def text(answer: str | bytes) -> str:
    """What NVML says in words, on one line."""
    return printable(answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer))


def full_uuid(uuid: str) -> str:
    """A GPU's UUID as NVML writes it; PyTorch leaves the `GPU-` in front of it out."""
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


class Monitor:
    """Watches one GPU, named by its UUID; where NVML does not answer, everything is None and nothing is discarded."""

    def __init__(self, uuid: str) -> None:
        self._nvml = library()
        self._handle: Any = None
        if self._nvml is None:
            return
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(full_uuid(uuid))
        except self._nvml.NVMLError:
            self._handle = None

    @property
    def answers(self) -> bool:
        """Whether NVML knows this GPU."""
        return self._handle is not None

    def state(self) -> GpuState:
        """Clock, power and throttling now."""
        if self._handle is None:
            return GpuState()
        reasons = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # An older NVML has the same answer by another name.
            reasons = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        discard = next((name for bit, name in _DISCARDING.items() if reasons & bit), None)
        milliwatts = self.ask("nvmlDeviceGetPowerUsage")
        return GpuState(
            sm_mhz=self.ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            power_w=None if milliwatts is None else milliwatts / 1000,
            temperature_c=self.ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            discard=discard,
            flags=("software power cap",) if reasons & _SOFTWARE_POWER_CAP else (),
        )

    def other_processes(self) -> list[str]:
        """The processes, other than this one, that compute on the GPU now: `pid 4242 (python3)`."""
        running = self.ask("nvmlDeviceGetComputeRunningProcesses") or []
        pids = sorted(process.pid for process in running if process.pid != os.getpid())
        return [f"pid {pid} ({self._name_of(pid)})" for pid in pids]

    def driver_version(self) -> str | None:
        """The driver's version, such as 580.159.04."""
        if self._handle is None:
            return None
        try:
            return text(self._nvml.nvmlSystemGetDriverVersion())
        except (self._nvml.NVMLError, *NO_ANSWER):
            return None

    def _name_of(self, pid: int) -> str:
        try:
            return text(self._nvml.nvmlSystemGetProcessName(pid))
        except self._nvml.NVMLError:
            return "of another container or user"
        except NO_ANSWER:
            return "whose name cannot be read"

    def sm_max_mhz(self) -> int | None:
        """The highest clock of the SMs."""
        found: int | None = (
            None if self._nvml is None else self.ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM)
        )
        return found

    def ask(self, function: str, *arguments: Any) -> Any:
        """NVML's answer to a question about this GPU; None where it has none."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, *NO_ANSWER):
            return None  # Some GPUs and drivers do not answer some questions; the figure is then absent.
