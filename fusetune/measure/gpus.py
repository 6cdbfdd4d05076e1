"""Every GPU of this machine, as NVML and CUDA's driver name them: for people who read a report of it.

NVML is asked here. What it does not know, the SMs, CUDA's driver is asked in a process of its own, which makes no
context either; so are GPUs where NVML cannot be asked at all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import msgspec

from fusetune.measure import nvml as nvml_module
from fusetune.measure.nvml import COUNT_LIMIT_S, full_uuid

_ABOUT_CUDA: Final = """
import ctypes, json, os
os.environ.pop("CUDA_VISIBLE_DEVICES", None)
cuda, number, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
told = {"version": None, "gpus": []}
if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0:
    told["version"] = number.value
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(number)) == 0:
    for ordinal in range(number.value):
        device, name, uuid = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
        if cuda.cuDeviceGet(ctypes.byref(device), ordinal) != 0:
            continue
        cuda.cuDeviceGetName(name, 256, device)
        cuda.cuDeviceGetUuid(uuid, device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        asked = []
        for attribute in (75, 76, 16):  # compute capability, major and minor; SMs
            cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
            asked.append(number.value)
        told["gpus"].append([name.value.decode(errors="replace"), uuid.raw.hex(), size.value, *asked])
print(json.dumps(told))
"""
"""Of CUDA's driver API, from cuda.h: the numbers are those of CUdevice_attribute."""


class SeenGpu(msgspec.Struct, frozen=True):
    """One GPU; a figure that nobody gave is None. `memory_bytes` is all that it has."""

    name: str
    capability: str | None = None
    sms: int | None = None
    memory_bytes: int | None = None
    mig: bool = False


class SeenGpus(msgspec.Struct, frozen=True):
    """The driver's version, the newest CUDA that it runs, and its GPUs; `why_none` where it has none."""

    driver: str | None = None
    cuda: str | None = None
    gpus: tuple[SeenGpu, ...] = ()
    why_none: str | None = None


class _ByCuda(msgspec.Struct, frozen=True):
    """What CUDA's driver says: GPUs with their UUIDs."""

    version: int | None = None
    gpus: tuple[tuple[str, str, int, int, int, int], ...] = ()


def every_gpu() -> SeenGpus:
    """All GPUs, whatever CUDA_VISIBLE_DEVICES lets be seen. Raises nothing, and makes no CUDA context."""
    nvml = nvml_module.library()
    if nvml is None:
        return _of_cuda("nvidia-ml-py is not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _of_cuda(f"NVML: {error}")
    try:
        driver = _asked(nvml, "nvmlSystemGetDriverVersion")
        version = _asked(nvml, "nvmlSystemGetCudaDriverVersion")
        count = _asked(nvml, "nvmlDeviceGetCount") or 0
        by_cuda = _by_cuda() if count else _ByCuda()
        sms = {uuid: sms for _, uuid, _, _, _, sms in by_cuda.gpus}
        gpus = tuple(_of_nvml(nvml, index, sms) for index in range(count))
    finally:
        nvml.nvmlShutdown()
    return SeenGpus(driver and nvml_module.text(driver), _version(version), gpus, None if gpus else "NVML counts none")


def _of_nvml(nvml: Any, index: int, sms: dict[str, int]) -> SeenGpu:
    handle = _asked(nvml, "nvmlDeviceGetHandleByIndex", index)
    name = _asked(nvml, "nvmlDeviceGetName", handle)
    capability = _asked(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    memory = _asked(nvml, "nvmlDeviceGetMemoryInfo", handle)
    uuid = _asked(nvml, "nvmlDeviceGetUUID", handle)
    mig = _asked(nvml, "nvmlDeviceGetMigMode", handle)
    return SeenGpu(
        name=nvml_module.text(name) if name else f"GPU {index}, which NVML does not name",
        capability="{}.{}".format(*capability) if capability else None,
        sms=sms.get(_plain(nvml_module.text(uuid))) if uuid else None,
        memory_bytes=memory.total if memory else None,
        mig=bool(mig and mig[0]),
    )


def _asked(nvml: Any, question: str, *arguments: Any) -> Any:
    """The answer; None where this driver, or this GPU, has none."""
    try:
        return getattr(nvml, question)(*arguments)
    except (nvml.NVMLError, *nvml_module.NO_ANSWER):
        return None


def _of_cuda(why_not_nvml: str) -> SeenGpus:
    found = _by_cuda()
    gpus = tuple(
        SeenGpu(nvml_module.text(name), f"{major}.{minor}", sms, memory)
        for name, _, memory, major, minor, sms in found.gpus
    )
    why = why_not_nvml if found.version is None else f"{why_not_nvml}; CUDA's driver shows none either"
    return SeenGpus(None, _version(found.version), gpus, None if gpus else why)


def _by_cuda() -> _ByCuda:
    """Asked in a process of its own; nothing where there is no such driver."""
    if not nvml_module.has_cuda_driver():
        return _ByCuda()
    command = [sys.executable, "-I", "-S", "-c", _ABOUT_CUDA]
    try:
        told = subprocess.run(command, capture_output=True, check=False, timeout=COUNT_LIMIT_S).stdout
        return msgspec.convert(json.loads(told), _ByCuda)
    except (OSError, ValueError, msgspec.MsgspecError, subprocess.TimeoutExpired):
        return _ByCuda()


def _version(number: int | None) -> str | None:
    """13000 is CUDA 13.0."""
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"


def _plain(uuid: str) -> str:
    return full_uuid(uuid).removeprefix("GPU-").replace("-", "").lower()
