"""Locking the SM clock, only where it is asked for, and letting go of it on every way out."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from fusetune.errors import MachineError, UsageError
from fusetune.measure.nvml import full_uuid
from fusetune.measure.protocol import GpuFacts


def locked_clocks_of(facts: GpuFacts, mhz: int | None) -> AbstractContextManager[None]:
    """Hold the SM clock of the GPU that these facts are of; nothing is touched without `mhz`, or on a simulated GPU."""
    if mhz is None or facts.uuid is None:
        return nullcontext()
    return locked_clocks(mhz, facts.uuid)


@contextmanager
def locked_clocks(mhz: int, uuid: str, driver: Any = None) -> Iterator[None]:
    """Hold the SM clock of the GPU with this UUID at `mhz` within the context.

    It is reset at the end of the context, on an exception, on SIGTERM and SIGHUP, and at interpreter exit; only a
    `kill -9` leaves it locked (`nvidia-smi -rgc` resets it by hand). Raises UsageError where the driver does not
    permit it or knows no such clock. `driver` stands in for NVML in tests.
    """
    nvml = driver or import_module("pynvml")
    try:
        nvml.nvmlInit()
        # By UUID: NVML's first GPU need not be the first that CUDA shows to this process.
        handle = nvml.nvmlDeviceGetHandleByUUID(full_uuid(uuid))
    except nvml.NVMLError as error:
        raise UsageError(f"the driver lets nobody ask for its clocks ({error}); leave --lock-clocks out") from error

    def unlock() -> None:
        try:
            nvml.nvmlDeviceResetGpuLockedClocks(handle)
        except nvml.NVMLError as error:
            raise MachineError(
                f"the SM clock stays locked at {mhz} MHz, since the driver does not reset it ({error}); "
                "`nvidia-smi -rgc` does"
            ) from error

    reset = _once(unlock)
    # A signal's default action ends Python without a word; as an exception it passes through the context.
    previous = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    atexit.register(reset)
    refused = False
    try:
        try:
            nvml.nvmlDeviceSetGpuLockedClocks(handle, mhz, mhz)
        except nvml.NVMLError as error:
            refused = True
            raise UsageError(
                f"the driver does not let this user lock the SM clock at {mhz} MHz ({error}); leave --lock-clocks out, "
                "or run as an administrator with a clock that `nvidia-smi -q -d SUPPORTED_CLOCKS` lists"
            ) from error
        yield
    finally:
        if not refused:
            reset()
        atexit.unregister(reset)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _once(work: Callable[[], None]) -> Callable[[], None]:
    done = False

    def run() -> None:
        nonlocal done
        if not done:
            work()
            done = True  # Not before: a signal may cut the work off, and then it is still to be done.

    return run


def _exit(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
