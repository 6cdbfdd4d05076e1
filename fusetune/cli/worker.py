"""`fusetune worker`: the GPUs of this machine as workers of a Dask cluster."""

from __future__ import annotations

import click

from fusetune.cli.helped import Helped
from fusetune.cli.needed import needs
from fusetune.cli.shown import echo
from fusetune.core.text import printable


@click.command("worker", cls=Helped)
@click.argument("scheduler", metavar="tcp://HOST:PORT")
@click.option("--gpus", metavar="all|0,1", default="all", show_default=True, help="Which, by nvidia-smi's numbers.")
@click.option(
    "--leave-after",
    "leave_after_s",
    metavar="SECONDS",
    type=click.FloatRange(1),
    help="End where no scheduler answers for so long.  [default: 20]",
)
@needs("tune")
@needs("fleet")
def worker(scheduler: str, gpus: str, leave_after_s: float | None) -> None:
    """Serve GPUs of this machine to a Dask cluster: one worker each, which `--scheduler` of sweep and tune then uses.

    A worker sees its GPU alone, and takes one problem at a time. It may come and go while a command runs. A GPU that
    has a worker of fusetune gets no second one.
    """
    from fusetune.fleet.gpus import chosen_gpus
    from fusetune.fleet.nannies import serve_gpus

    serve_gpus(scheduler, chosen_gpus(gpus), lambda text: echo(printable(text), err=True), leave_after_s=leave_after_s)
