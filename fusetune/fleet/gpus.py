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
    names a GPU that is not there or cannot be used, NoUsableGpuError where NVML shows none.
    """
    wanted = None if asked.strip().lower() == ALL else _numbers(asked)
    found = {gpu.index: gpu for gpu in gpus_here()}
    if wanted is None:
        return tuple(found.values())
    missing = sorted(wanted - found.keys())
    if missing:
        there = ", ".join(map(str, found))
        why = _unusable().get(missing[0])
        told = f"there is no GPU {missing[0]} here" if why is None else f"GPU {missing[0]} cannot be used: {why}"
        raise UsageError(f"--gpus {asked}: {told}; there are {there}")
    return tuple(found[number] for number in sorted(wanted))


def gpus_here() -> tuple[GpuHere, ...]:
    """Those that CUDA_VISIBLE_DEVICES lets be seen. Raises NoUsableGpuError where there are none, or NVML is not there.

    One that is divided by MIG is left out: its parts are no GPUs of their own to NVML's counters. So is one that does
    not answer, as after it fell off the bus: the others go on without it.
    """
    found = _asked()
    whole = [gpu for gpu in found if isinstance(gpu, GpuHere) and _is_visible(gpu)]
    if not whole:
        whys = "".join(f"; GPU {number}: {why}" for number, why in enumerate(found) if isinstance(why, str))
        hidden = f"; {VISIBLE} is {os.environ[VISIBLE]!r}" if VISIBLE in os.environ else ""
        raise NoUsableGpuError(f"NVML shows no GPU that could be used{whys}{hidden}")
    return tuple(whole)


def _unusable() -> dict[int, str]:
    """The GPUs that are there and cannot be used, with why."""
    hidden = f"{VISIBLE} is {os.environ.get(VISIBLE)!r}"
    try:
        found = _asked()
    except NoUsableGpuError:  # It answered a moment ago; the numbers that are there are told all the same.
        return {}
    return {number: gpu if isinstance(gpu, str) else hidden for number, gpu in enumerate(found)}


def _asked() -> list[GpuHere | str]:
    """All GPUs by their numbers; of one that cannot be used why."""
    nvml = nvml_module.library()
    if nvml is None:
        raise NoUsableGpuError("NVML is needed to tell the GPUs apart: install nvidia-ml-py")
    try:
        nvml.nvmlInit()
        try:
            return [_gpu(nvml, number) for number in range(nvml.nvmlDeviceGetCount())]
        finally:
            nvml.nvmlShutdown()
    except (nvml.NVMLError, *nvml_module.NO_ANSWER) as error:
        raise NoUsableGpuError(
            f"NVML is needed to tell the GPUs apart, and does not answer: {error}; see `fusetune doctor`"
        ) from error


def _gpu(nvml: Any, index: int) -> GpuHere | str:
    try:
        return _whole_gpu(nvml, index)
    except (nvml.NVMLError, *nvml_module.NO_ANSWER) as error:
        return f"it does not answer ({error})"


def _whole_gpu(nvml: Any, index: int) -> GpuHere | str:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    if _is_divided(nvml, handle):
        return "it is divided by MIG, and so none of a fleet"
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
