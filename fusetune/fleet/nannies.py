"""Workers of a Dask cluster for the GPUs of this machine: a nanny for each, whose worker sees that GPU alone."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Callable, Sequence
from typing import Any, Final

from fusetune.core.extras import install_line
from fusetune.errors import MachineError, MissingPackageError, UsageError
from fusetune.fleet.cluster import CONNECT_LIMIT_S, GPU
from fusetune.fleet.gpus import VISIBLE, GpuHere
from fusetune.fleet.holding import HELD, held_for_workers

_LOOK_EVERY_S: Final = 1.0


def serve_gpus(
    scheduler: str, gpus: Sequence[GpuHere], say: Callable[[str], None], *, leave_after_s: float | None = None
) -> None:
    """Serve these GPUs until the scheduler is gone, or this process is asked to end.

    Each worker has its GPU among its resources and in its environment. The GPUs are held meanwhile. `leave_after_s`
    ends workers without a scheduler. Raises NoUsableGpuError where one of them has a worker, MissingPackageError
    without Dask, MachineError where no scheduler answers.
    """
    with held_for_workers([gpu.uuid for gpu in gpus]):
        asyncio.run(_serve(scheduler, gpus, say, leave_after_s))


async def _serve(
    scheduler: str, gpus: Sequence[GpuHere], say: Callable[[str], None], leave_after_s: float | None
) -> None:
    try:
        from distributed import Nanny
    except ImportError as error:
        raise MissingPackageError(f"a cluster needs Dask ({error}): {install_line('fleet')}") from error
    from distributed.core import Status

    # What nannies do is told in a line of ours; that a worker was lost and is begun again is a warning.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        nannies: list[Any] = [
            Nanny(
                scheduler,
                name=f"{platform.node()}:GPU{gpu.index}",
                nthreads=1,
                resources=GPU,
                memory_limit=0,  # What loads torch and compiles is other processes', which Dask could not see.
                death_timeout=leave_after_s or CONNECT_LIMIT_S,
                silence_logs=logging.WARNING,
                env={VISIBLE: gpu.uuid, HELD: gpu.uuid},
            )
            for gpu in gpus
        ]
    except ValueError as error:
        raise UsageError(f"{scheduler}: {error}; write tcp://HOST:PORT") from error
    try:
        try:
            await asyncio.gather(*nannies)
        except (OSError, asyncio.TimeoutError, RuntimeError) as error:  # Of Python 3.10 it is none of the others.
            raise MachineError(
                f"no scheduler answers at {scheduler}: {error or type(error).__name__}; start one with `dask scheduler`"
            ) from error
        say(f"{len(nannies)} workers for {', '.join(one.name for one in nannies)} at {scheduler}; Ctrl-C ends them")
        while any(nanny.status in {Status.running, Status.starting, Status.init} for nanny in nannies):
            await asyncio.sleep(_LOOK_EVERY_S)
        say("The scheduler is gone, and the workers with it")
    finally:
        await asyncio.gather(*(nanny.close() for nanny in nannies), return_exceptions=True)
