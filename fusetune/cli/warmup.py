"""`fusetune warmup`: compile ahead of time what calls will launch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusetune.cli.helped import Helped
from fusetune.cli.options import problem_options, problems_of
from fusetune.cli.shown import echo, echo_json, json_option
from fusetune.errors import NoUsableGpuError

if TYPE_CHECKING:
    from fusetune.runtime.warmup import Warmed


@click.command("warmup", cls=Helped)
@click.argument("path", metavar="[FILE|DIR]", required=False, type=click.Path(path_type=Path))
@functools.partial(problem_options, repeated=True)
@click.option("--allow-predicted", is_flag=True, help="Use predicted entries, too, as load(..., allow_predicted=True).")
@json_option
def warmup(*, path: Path | None, allow_predicted: bool, as_json: bool, **given: Any) -> None:
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
    if as_json:
        echo_json(json.dumps([_builtins(warmed) for warmed in done], indent=2))
        return
    for warmed in done:
        echo(f"{warmed.op}  {warmed.problem.describe()}  {warmed.config.label():<22} {warmed.ms:8.1f} ms")
    if not done:
        echo("no problems: the files hold none for this GPU; name one by its sizes")


def _builtins(warmed: Warmed) -> dict[str, Any]:
    problem, config = warmed.problem.to_builtins(), warmed.config.to_builtins()
    return {"op": warmed.op, "problem": problem, "config": config, "ms": round(warmed.ms, 3)}
