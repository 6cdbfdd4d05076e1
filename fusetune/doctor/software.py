"""What the software of a machine says about tuning on it: driver, torch, Triton, its compilers, and the folders."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fusetune.compiler.processes import usable_cores
from fusetune.core.trouble import full_place, refuse_interpreter
from fusetune.doctor.findings import Found, found
from fusetune.errors import UsageError
from fusetune.report.machine import Machine, Ptxas
from fusetune.store.doctor_file import Level
from fusetune.units import format_bytes

_ADVICE: Final = (
    (
        "mismatch",
        "restart the machine: the driver was updated, and its old half is still loaded; in a container, restart that",
    ),
    (
        "permission",
        "let this user open the devices of the driver: a container is started with --gpus all, a user of a cluster "
        "asks the scheduler for a GPU",
    ),
    ("not found", "install NVIDIA's driver, or start the container with --gpus all; nvidia-smi then lists the GPU"),
    ("not loaded", "load NVIDIA's driver (modprobe nvidia) or restart the machine; nvidia-smi then lists the GPU"),
    ("lost", "the GPU has fallen off the bus: restart the machine, and see dmesg for Xid"),
    ("not installed", "pip install nvidia-ml-py"),
)
"""What to do by what NVML, or `every_gpu`, says as it refuses."""
_NO_GPU: Final = "install NVIDIA's driver and see nvidia-smi; nothing but predictions can be made without a GPU"
COMPILING_BYTES: Final = 300 << 20
"""Of a process that compiles: 142 MiB at its most, and as much again for its ptxas (six problems of the op that has the
most kernels, triton 3.7.1)."""
_MEMORY: Final = Path("/proc/meminfo")
_AVAILABLE: Final = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
_GROUP: Final = Path("/sys/fs/cgroup")
_DRIVER_SETTINGS: Final = Path("/proc/driver/nvidia/params")
_ADMIN_ONLY: Final = re.compile(r"^RmProfilingAdminOnly: (\d)", re.MULTILINE)
_NEEDED_FOLDERS: Final = ("Triton's cache", "temporary files", "runs")
_TRITON_CACHE: Final = "Triton's cache"


class Host(NamedTuple):
    """The host beside the GPU: the C compiler that Triton builds launchers with, and Python's headers for it; cores.

    `load` is how many processes wanted to run in the last minute, `profiling` whether this user may read the GPU's
    counters, `free_bytes` the memory that is left to this process; None where that is not told. `is_root`: this user is
    the administrator.
    """

    c_compiler: str | None
    headers: bool
    cores: int
    load: float | None
    profiling: bool | None = None
    is_root: bool = False
    free_bytes: int | None = None


def host_here() -> Host:
    """The C compiler as Triton 3.6 looks for it: $CC, then gcc, then clang."""
    named = os.environ.get("CC")
    path = shutil.which(named) if named else shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    try:
        load: float | None = os.getloadavg()[0]
    except OSError:
        load = None
    is_root = getattr(os, "geteuid", lambda: 1)() == 0
    return Host(path, headers, usable_cores(), load, _may_profile(is_root), is_root, _free_bytes())


def _free_bytes() -> int | None:
    """What Linux says can be had, or less where a container has a limit of its own."""
    try:
        available = _AVAILABLE.search(_MEMORY.read_text(encoding="utf-8"))
    except OSError:
        return None
    found = [int(available[1]) << 10] if available else []
    with contextlib.suppress(OSError, ValueError):  # No limit is the word max, and without a group there is no file.
        most, used = (int(Path(_GROUP, name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
        found.append(max(0, most - used))
    return min(found, default=None)


def _may_profile(is_root: bool) -> bool | None:
    """By what the driver was loaded with; None where it does not say."""
    try:
        told = _DRIVER_SETTINGS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _ADMIN_ONLY.search(told)
    return None if found is None else is_root or found[1] == "0"


def software_findings(machine: Machine, host: Host, *, gpu_here: bool, used: bool = False) -> list[Found]:
    """One finding for each part. `gpu_here`: this process sees a GPU; `used`: torch has been seen to use one."""
    return [
        *_driver(machine, gpu_here=gpu_here, used=used),
        *_which_gpu(machine),
        _torch(machine, used=used),
        _triton(machine),
        *map(_ptxas, machine.ptxas),
        _c_compiler(host, gpu_here=gpu_here),
        _cores(host),
        *_interpreter(),
        *([_permissions(host)] if gpu_here else []),
        *_folders(machine),
        *_room(),
    ]


def why_no_gpu(machine: Machine) -> Found:
    """The finding that no GPU is to be had, by the driver's own words."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset") in {"", "-1"}:
        told = "CUDA_VISIBLE_DEVICES hides every GPU from this process"
        return found("gpu", "no_gpu", told, "unset CUDA_VISIBLE_DEVICES")
    why = machine.no_gpu or "the driver shows no GPU to this process"
    return found("gpu", "no_gpu", why, _advice(why))


def _advice(why: str) -> str:
    return next((advice for word, advice in _ADVICE if word in why.lower()), _NO_GPU)


def _driver(machine: Machine, *, gpu_here: bool, used: bool) -> Iterator[Found]:
    if not gpu_here:
        yield why_no_gpu(machine)
        return
    if machine.driver is None:
        why = machine.no_gpu or "NVML does not answer"
        told = f"{why}: clocks, throttling and other processes cannot be seen while something is timed"
        yield found("driver", "note", told, _advice(why))
        return
    cuda, wanted = _major(machine.cuda), _major(machine.torch_cuda)
    told = f"{machine.driver}, runs CUDA up to {machine.cuda or '?'}"
    if cuda is not None and wanted is not None and cuda < wanted:
        yield found(
            "driver",
            "note" if used else "no_gpu",
            f"{told}; torch is built for CUDA {machine.torch_cuda}",
            f"update the driver, or install a torch that is built for CUDA {machine.cuda} or older",
        )
    else:
        yield found("driver", "ok", told)


def _which_gpu(machine: Machine) -> Iterator[Found]:
    """Of several, one is seen to at a time."""
    count = len(machine.gpus)
    if count > 1:
        told = f"{count} are here, and the first that this process sees is seen to"
        yield found("gpus", "ok", told, "CUDA_VISIBLE_DEVICES=1 fusetune doctor sees to another")


def _torch(machine: Machine, *, used: bool) -> Found:
    do = "install the CUDA build of torch"
    if machine.torch is None:
        return found("torch", "no_gpu", "not installed", do)
    if machine.torch_cuda is None and not used:
        return found("torch", "no_gpu", f"{machine.torch} is built without CUDA", do)
    return found("torch", "ok", f"{machine.torch}, built for CUDA {machine.torch_cuda or '?'}")


def _triton(machine: Machine) -> Found:
    if machine.triton is None:
        return found("triton", "no_gpu", "not installed", "pip install triton, on Linux")
    return found("triton", "ok", machine.triton)


def _ptxas(tool: Ptxas) -> Found:
    if tool.release is not None:
        return found(tool.name, "ok", tool.release, private=tool.path)
    # Triton has another one where this cannot be run; whether that compiles, the trial says.
    told = f"no release is known ({tool.trouble})" if tool.trouble else "it is not there"
    return found(tool.name, "note", told, "install triton from its wheel, or correct TRITON_PTXAS_PATH", tool.path)


def _c_compiler(host: Host, *, gpu_here: bool) -> Found:
    level: Level = "unfit" if gpu_here else "note"
    if host.c_compiler is None:
        told = "neither $CC, gcc nor clang is there, with which Triton builds what launches kernels"
        return found("C compiler", level, told, "install gcc")
    if not host.headers:
        told = "Python's headers are not there (Python.h), which Triton needs to build what launches kernels"
        return found("C compiler", level, told, "install python3-dev, or the headers of this Python")
    return found("C compiler", "ok", Path(host.c_compiler).name, private=host.c_compiler)


def _cores(host: Host) -> Found:
    told = f"{host.cores} can be used"
    free = host.free_bytes
    if free is not None:
        told += f", with {format_bytes(free)} of memory"
    if free is not None and free < host.cores * COMPILING_BYTES:
        told += ", which is less than what compiles on all of them takes"
        return found("cores", "note", told, f"give --workers {max(1, free // COMPILING_BYTES)}")
    if host.load is not None and host.load > host.cores:
        told += f", and {host.load:.1f} processes want to run: launches may come late, and compiling takes longer"
        return found("cores", "note", told, "wait until what runs beside has ended, and rely on the A/A")
    return found("cores", "ok", told)


def _permissions(host: Host) -> Found:
    """What needs more than a user has. Nothing of a sweep does."""
    clocks = "may be asked for" if host.is_root else "needs an administrator"
    told = f"--lock-clocks {clocks}"
    if host.profiling is None:
        return found("permissions", "ok", told)
    if host.profiling:
        return found("permissions", "ok", f"{told}; the GPU's counters can be read")
    return found(
        "permissions",
        "note",
        f"{told}; Nsight Compute may not read the GPU's counters for this user, so that nothing can be profiled",
        "an administrator sets NVreg_RestrictProfilingToAdminUsers=0 for the driver (see ERR_NVGPUCTRPERM)",
    )


def _interpreter() -> Iterator[Found]:
    try:
        refuse_interpreter()
    except UsageError as error:
        yield found("TRITON_INTERPRET", "unfit", str(error), "unset TRITON_INTERPRET")


def _folders(machine: Machine) -> Iterator[Found]:
    fit = 0
    for folder in machine.folders:
        if folder.writable or folder.what not in _NEEDED_FOLDERS:
            fit += folder.writable
            continue
        do = "make it writable"
        do += ", or set TRITON_CACHE_DIR to a folder that you may write to" if folder.what == _TRITON_CACHE else ""
        do += ", or set FUSETUNE_RUNS to one" if folder.what == "runs" else ""
        do += ", or set TMPDIR to one" if folder.what == "temporary files" else ""
        yield found("folders", "unfit", f"the folder of {folder.what} is {folder.state()}", do, folder.path)
    for trouble in machine.troubles:
        yield found("folders", "unfit", "a folder cannot be used", "correct it, or the variable that names it", trouble)
    yield found("folders", "ok", f"{fit} of {len(machine.folders)} can be written to")


def _room() -> Iterator[Found]:
    full = full_place()
    if full is not None:
        yield found("disk", "unfit", "there is no room left where kernels are compiled to", "make room there", full)


def _major(version: str | None) -> int | None:
    head = (version or "").partition(".")[0]
    return int(head) if head.isdigit() else None
