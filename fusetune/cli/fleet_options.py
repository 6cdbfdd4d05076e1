"""The options by which a command is spread over GPUs, and the fleet that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from fusetune.errors import UsageError

if TYPE_CHECKING:
    from fusetune.fleet.run import Fleet

F = TypeVar("F", bound=Callable[..., Any])

_JOIN_LIMIT_S: Final = 30.0
"""Lanes of this machine join at once; what takes longer is a machine in trouble."""


class FleetChoice(NamedTuple):
    """GPUs of this machine."""

    gpus: str


def fleet_options(command: F) -> F:
    """Add --gpus."""
    options = (
        click.option(
            "--gpus",
            metavar="all|0,1",
            help="One process for each of these GPUs of this machine, by nvidia-smi's numbers; see docs/guides.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def fleet_choice(gpus: str | None, *, target: str | None) -> FleetChoice | None:
    """What those options ask for; None where none is given. Raises UsageError where they contradict each other."""
    if gpus is None:
        return None
    if target is not None:
        raise UsageError("--gpus: GPUs measure, and --target predicts; leave one of the two out")
    return FleetChoice(gpus)


@contextmanager
def opened_fleet(
    choice: FleetChoice, runs: Path, *, workers: int | None, limit_s: float | None = None, captures: bool = False
) -> Iterator[Fleet]:
    """The fleet, whose workers have begun to load; they end with the context.

    `workers` compile at once on a machine, `limit_s` is for one candidate, and `captures`: captures will be sent.
    Raises UsageError, NoUsableGpuError or MissingPackageError where it cannot be had.
    """
    from fusetune.cli.progress import make_progress
    from fusetune.fleet.run import CANDIDATE_LIMIT_S, Fleet

    progress = make_progress()
    with ExitStack() as stack:
        from fusetune.compiler.processes import usable_cores
        from fusetune.fleet.gpus import chosen_gpus
        from fusetune.fleet.holding import held_for_workers
        from fusetune.fleet.lane import Begin
        from fusetune.fleet.local import LocalExecutor

        gpus = chosen_gpus(choice.gpus)
        stack.enter_context(held_for_workers([gpu.uuid for gpu in gpus]))
        share = max(1, (workers or usable_cores()) // len(gpus))
        executor = LocalExecutor(gpus, Begin(str(runs.absolute()), workers=share, captures=captures))
        stack.callback(executor.close)
        fleet = Fleet(executor, progress, limit_s=limit_s or CANDIDATE_LIMIT_S, workers=workers)
        fleet.gather(len(gpus), _JOIN_LIMIT_S)
        yield fleet
