"""`fusetune warmup`: compile ahead of time what calls will launch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from fusetune.cli.helped import Helped
from fusetune.cli.options import problem_options, problems_of
from fusetune.cli.shown import echo
from fusetune.errors import NoUsableGpuError


@click.command("warmup", cls=Helped)
@click.argument("path", metavar="[FILE|DIR]", required=False, type=click.Path(path_type=Path))
@functools.partial(problem_options, repeated=True)
@click.option("--allow-predicted", is_flag=True, help="Use predicted entries, too, as load(..., allow_predicted=True).")
def warmup(*, path: Path | None, allow_predicted: bool, **given: Any) -> None:
    """Compile what calls of these problems will launch, into Triton's cache: nothing is tuned, timed or run.

    Without sizes: every problem that the files hold for this GPU, at FILE or DIR or on the search path. A later process
    with the same cache then loads its kernels instead of compiling them.
    """
    op, problems = problems_of(given)

    from fusetune.measure.nvml import gpu_present

    if not gpu_present():
        raise NoUsableGpuError("there is no NVIDIA GPU here to compile for and load on")

    from fusetune.runtime.configs import load
    from fusetune.runtime.warmup import warmup as warm_up

    load(path, allow_predicted=allow_predicted)
    done = warm_up(problems or None, op=op)
    for warmed in done:
        echo(f"{warmed.op}  {warmed.problem.describe()}  {warmed.config.label():<22} {warmed.ms:8.1f} ms")
    if not done:
        echo("no problems: the files hold none for this GPU; name one by its sizes")
