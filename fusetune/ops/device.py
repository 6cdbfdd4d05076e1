"""The GPU at hand, as PyTorch's driver sees it."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any, Final, NamedTuple

from fusetune.core.environment import TargetIdentity
from fusetune.core.target import Target, known_targets, match_target
from fusetune.errors import NoUsableGpuError


class Gpu(NamedTuple):
    """What a launch depends on: the compute capability as `sm` (90 for 9.0; 0 for none), and the number of SMs."""

    sm: int
    sms: int


NO_GPU: Final = Gpu(0, 2)
"""Where Triton interprets. Two SMs, so that more than one program walks through the tiles."""


def gpu_of(tensor: Any) -> Gpu:
    """The GPU that a tensor lies on, or that an abstract one stands for; a CPU, where Triton interprets, has sm 0."""
    stands_for: Gpu | None = getattr(tensor, "gpu", None)
    if stands_for is not None:
        return stands_for
    if tensor.device.type != "cuda":
        return NO_GPU
    return _gpu(tensor.device.index)


@functools.cache
def _gpu(index: int) -> Gpu:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return Gpu(10 * properties.major + properties.minor, properties.multi_processor_count)


UNKNOWN_NAME: Final = "unknown NVIDIA GPU"
"""Of a GPU whose driver tells a name that is no text."""


def why_no_cuda() -> str | None:
    """Why PyTorch can use no GPU here and what to do, or None where it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed; install the CUDA build of torch"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install the CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU; check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
    return None


def gpu_identity(index: int) -> TargetIdentity:
    """Name, compute capability and SM count of CUDA device `index`; initialises CUDA in this process."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    try:
        name = properties.name
    except UnicodeDecodeError:  # pybind11 decodes it, and drivers have been seen that put no text there.
        name = ""
    return TargetIdentity(
        name=name or UNKNOWN_NAME,
        capability=f"{properties.major}.{properties.minor}",
        sms=properties.multi_processor_count,
    )


def local_target(index: int) -> Target:
    """The Target of CUDA device `index`: its row of the table, or for an unknown model what the driver tells.

    Limits come from the driver in both cases; peaks and bandwidth only from the table. Raises NoUsableGpuError where
    PyTorch can use no GPU, whatever the driver shows.
    """
    why = why_no_cuda()
    if why is not None:
        raise NoUsableGpuError(why)

    import torch

    properties = torch.cuda.get_device_properties(index)
    identity = gpu_identity(index)
    listed = match_target(identity.name, identity.capability, identity.sms)
    if listed is not None:
        return listed
    same_capability = [target for target in known_targets() if target.capability == identity.capability]
    # 16 is the least of any capability since 8.0: an unknown one is then promised too little, never too much.
    max_ctas = min((target.max_ctas_per_sm for target in same_capability), default=16)
    return Target(
        name=identity.name,
        capability=identity.capability,
        sms=identity.sms,
        registers_per_sm=properties.regs_per_multiprocessor,
        max_warps_per_sm=properties.max_threads_per_multi_processor // 32,
        max_ctas_per_sm=max_ctas,
        shared_bytes_per_sm=properties.shared_memory_per_multiprocessor,
        shared_bytes_per_cta=properties.shared_memory_per_block_optin,
        l2_bytes=properties.L2_cache_size,
    )


_ASK_DRIVER: Final = """
import ctypes, sys
cuda, name = ctypes.CDLL("libcuda.so.1"), ctypes.create_string_buffer(256)
device, value = ctypes.c_int(), ctypes.c_int()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuDeviceGetName(name, 256, device) == 0
told = []
for attribute in (75, 76, 16):  # of cuda.h: major and minor compute capability, SMs
    assert cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) == 0
    told.append(str(value.value))
sys.stdout.buffer.write(" ".join(told).encode() + b"\\n" + name.value)
"""
_ASK_LIMIT_S: Final = 60.0


@functools.cache
def identity_by_driver() -> TargetIdentity | None:
    """The first GPU that CUDA's driver shows to this process, as `gpu_identity` has it; None where there is none.

    Asked in a process of its own, for which no PyTorch is loaded: CUDA is not initialised in this one, so that its
    forks can still use a GPU.
    """
    command = [sys.executable, "-I", "-S", "-c", _ASK_DRIVER]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_ASK_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    numbers, _, name = done.stdout.partition(b"\n")
    major, minor, sms = numbers.split()
    try:
        told = name.decode()
    except UnicodeDecodeError:
        told = ""
    return TargetIdentity(name=told or UNKNOWN_NAME, capability=f"{int(major)}.{int(minor)}", sms=int(sms))
