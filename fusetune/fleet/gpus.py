"""Which GPUs of this machine a fleet takes, as `--gpus` names them; CUDA is not asked, so that nothing is loaded."""

from __future__ import annotations

import os
from typing import Any, Final

import msgspec

from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.measure import nvml as nvml_module

ALL: Final = "all"
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class GpuHere(msgspec.Struct, frozen=True):
    """One GPU: its number as `nvidia-smi` counts, its UUID, its name and compute capability, and its driver."""

    index: int
    uuid: str
    name: str
    capability: str
    driver: str | None = None


def chosen_gpus(asked: str) -> tuple[GpuHere, ...]:
    """The GPUs that `all`, or a list of numbers such as `0,1`, names; each once, in the order of their numbers.

    CUDA_VISIBLE_DEVICES limits `all`, and what it hides cannot be named. Raises UsageError for what is no such list or
    names a GPU that is not there, NoUsableGpuError where NVML shows none.
    """
    wanted = None if asked.strip().lower() == ALL else _numbers(asked)
    found = {gpu.index: gpu for gpu in gpus_here()}
    if wanted is None:
        return tuple(found.values())
    missing = sorted(wanted - found.keys())
    if missing:
        there = ", ".join(map(str, found))
        raise UsageError(f"--gpus {asked}: there is no GPU {missing[0]} here; there are {there}")
    return tuple(found[number] for number in sorted(wanted))


def gpus_here() -> tuple[GpuHere, ...]:
    """Those that CUDA_VISIBLE_DEVICES lets be seen. Raises NoUsableGpuError where there are none, or NVML is not there.

    A GPU that is divided by MIG is left out: its parts are no GPUs of their own to NVML's counters.
    """
    nvml = nvml_module.library()
    if nvml is None:
        raise NoUsableGpuError("--gpus needs NVML to tell the GPUs apart: install nvidia-ml-py")
    try:
        nvml.nvmlInit()
        try:
            found = [_gpu(nvml, number) for number in range(nvml.nvmlDeviceGetCount())]
        finally:
            nvml.nvmlShutdown()
    except (nvml.NVMLError, *nvml_module.NO_ANSWER) as error:
        raise NoUsableGpuError(f"--gpus needs NVML to tell the GPUs apart, and it does not answer: {error}") from error
    whole = [gpu for gpu in found if gpu is not None and _is_visible(gpu)]
    if not whole:
        divided = "; a GPU that is divided by MIG is none of a fleet" if None in found else ""
        hidden = f"; {VISIBLE} is {os.environ[VISIBLE]!r}" if VISIBLE in os.environ else ""
        raise NoUsableGpuError(f"NVML shows no GPU that could be used{divided}{hidden}")
    return tuple(whole)


def _gpu(nvml: Any, index: int) -> GpuHere | None:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    if _is_divided(nvml, handle):
        return None
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GpuHere(
        index=index,
        uuid=nvml_module.text(nvml.nvmlDeviceGetUUID(handle)),
        name=nvml_module.text(nvml.nvmlDeviceGetName(handle)),
        capability=f"{major}.{minor}",
        driver=nvml_module.text(nvml.nvmlSystemGetDriverVersion()),
    )


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except (nvml.NVMLError, *nvml_module.NO_ANSWER):
        return False  # Most GPUs cannot be divided, and say that they do not know the question.


def _is_visible(gpu: GpuHere) -> bool:
    named = os.environ.get(VISIBLE)
    if named is None:
        return True
    words = [word.strip() for word in named.split(",") if word.strip()]
    return any(word == str(gpu.index) or (len(word) > 4 and gpu.uuid.startswith(word)) for word in words)


def _numbers(asked: str) -> set[int]:
    words = [word.strip() for word in asked.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"--gpus {asked!r}: write all, or numbers as nvidia-smi counts, as in --gpus 0,1")
    return {int(word) for word in words}
