"""The options by which a command is spread over GPUs, and the fleet that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from fusetune.errors import NoUsableGpuError, UsageError

if TYPE_CHECKING:
    from fusetune.core.progress import Progress
    from fusetune.fleet.run import Fleet

F = TypeVar("F", bound=Callable[..., Any])

_JOIN_LIMIT_S: Final = 30.0
"""Lanes of this machine join at once; what takes longer is a machine in trouble."""
_CLUSTER_LIMIT_S: Final = 120.0
"""So long the first worker of a cluster is waited for, as where a job scheduler starts them later."""
_EMPTY_LIMIT_S: Final = 300.0
"""So long a run waits for workers of a cluster after the last one left."""


class FleetChoice(NamedTuple):
    """GPUs of this machine, or a cluster by its scheduler's address or by a file of Dask's configuration."""

    gpus: str | None
    scheduler: str | None
    dask_config: Path | None

    @property
    def is_cluster(self) -> bool:
        """Whether the workers are Dask's."""
        return self.gpus is None


def fleet_options(command: F) -> F:
    """Add --gpus, --scheduler and --dask-config."""
    options = (
        click.option(
            "--gpus",
            metavar="all|0,1",
            help="One process for each of these GPUs of this machine, by nvidia-smi's numbers; see docs/guides.",
        ),
        click.option(
            "--scheduler", metavar="tcp://HOST:PORT", help="The GPUs of a Dask cluster, started by `fusetune worker`."
        ),
        click.option(
            "--dask-config",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="The same by a YAML file of Dask's own configuration, whose scheduler-address says where.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def fleet_choice(
    gpus: str | None, scheduler: str | None, dask_config: Path | None, *, target: str | None
) -> FleetChoice | None:
    """What those options ask for; None where none is given. Raises UsageError where they contradict each other."""
    given = {"--gpus": gpus, "--scheduler": scheduler, "--dask-config": dask_config}
    named = [name for name, value in given.items() if value is not None]
    if not named:
        return None
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)}: give one of them; each says where the GPUs are")
    if target is not None:
        raise UsageError(f"{named[0]}: GPUs measure, and --target predicts; leave one of the two out")
    return FleetChoice(gpus, scheduler, dask_config)


def fleet_of_program(
    gpus: str | None, scheduler: str | None, dask_config: Path | None, *, target: str | None
) -> FleetChoice | None:
    """The same for a command that runs a program first. Raises NoUsableGpuError where there is no GPU for that."""
    from fusetune.measure import nvml

    choice = fleet_choice(gpus, scheduler, dask_config, target=target)
    if choice is not None and not nvml.gpu_present():
        raise NoUsableGpuError("the program runs here before its kernels go to other GPUs, and there is no GPU here")
    return choice


@contextmanager
def opened_fleet(
    choice: FleetChoice, runs: Path, *, workers: int | None, limit_s: float | None = None, captures: bool = False
) -> Iterator[Fleet]:
    """The fleet, whose workers have begun to load; they end with the context.

    `workers` compile at once on a machine, `limit_s` is for one candidate, and `captures`: captures will be sent.
    Raises UsageError, NoUsableGpuError or MissingPackageError where it cannot be had.
    """
    from fusetune.cli.progress import make_progress
    from fusetune.fleet.run import CANDIDATE_LIMIT_S, Fleet, compiling_for_each

    progress = make_progress()
    with ExitStack() as stack:
        if choice.gpus is None:
            yield _in_cluster(stack, choice, progress, limit_s or CANDIDATE_LIMIT_S, workers, captures=captures)
            return
        from fusetune.compiler.processes import usable_cores
        from fusetune.fleet.gpus import chosen_gpus
        from fusetune.fleet.holding import held_for_workers
        from fusetune.fleet.lane import Begin
        from fusetune.fleet.local import LocalExecutor

        gpus = chosen_gpus(choice.gpus)
        stack.enter_context(held_for_workers([gpu.uuid for gpu in gpus]))
        share = compiling_for_each(len(gpus), usable_cores(), workers)
        executor = LocalExecutor(gpus, Begin(str(runs.absolute()), workers=share, captures=captures))
        stack.callback(executor.close)
        fleet = Fleet(executor, progress, limit_s=limit_s or CANDIDATE_LIMIT_S, workers=workers)
        fleet.gather(len(gpus), _JOIN_LIMIT_S)
        yield fleet


def _in_cluster(
    stack: ExitStack, choice: FleetChoice, progress: Progress, limit_s: float, workers: int | None, *, captures: bool
) -> Fleet:
    from fusetune.fleet.cluster import ClusterExecutor, connected
    from fusetune.fleet.lane import Begin
    from fusetune.fleet.run import Fleet
    from fusetune.fleet.schedule import Rules

    client = connected(choice.scheduler, choice.dask_config)
    executor = ClusterExecutor(client, Begin("", captures=captures))
    stack.callback(executor.close)
    fleet = Fleet(executor, progress, rules=Rules(empty_s=_EMPTY_LIMIT_S), limit_s=limit_s, workers=workers)
    fleet.gather(executor.expected(), _CLUSTER_LIMIT_S)
    return fleet
