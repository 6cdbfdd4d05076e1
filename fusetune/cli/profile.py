"""`fusetune profile`: Nsight Compute's metrics of one config on the GPU here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fusetune.cli.helped import Helped
from fusetune.cli.options import config_of, problem_of, problem_options
from fusetune.cli.shown import echo, echo_json, json_option
from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.store.regular import is_folder


@click.command("profile", cls=Helped)
@problem_options
@click.option("--config", "config_text", metavar="CONFIG", help="As in `fusetune inspect`.  [default: BASELINE]")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("metrics.json"),
    show_default=True,
    help="Where the metrics go, for `fusetune inspect --ncu`.",
)
@click.option(
    "--ncu", type=click.Path(path_type=Path), metavar="PATH", help="Nsight Compute's command.  [default: found]"
)
@click.option("--metrics", help="More metrics, comma-separated, as `ncu --query-metrics` lists them.")
@click.option("--print-command", is_flag=True, help="Print the ncu command instead of running it.")
@json_option
def profile(
    *,
    config_text: str | None,
    output: Path,
    ncu: Path | None,
    metrics: str | None,
    print_command: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Profile one config with Nsight Compute, clocks as found, and write {kernel: {metric: value}}.

    Needs an NVIDIA GPU, ncu, and the driver's permission to read its counters; exit code 4 says which is missing and
    what to do. `fusetune inspect --ncu FILE` then says what limits the kernel.
    """
    import shlex

    from fusetune.core.diagnosis import METRICS
    from fusetune.measure.nvml import gpu_present
    from fusetune.measure.profile import find_ncu, ncu_command, profile_config
    from fusetune.ops.spec import Launch, abstract_tensors
    from fusetune.store.whole import write_whole

    op = given["op"]
    spec, problem = problem_of(given)
    config = config_of(spec, problem, config_text)
    command_path = Path("ncu") if print_command and ncu is None else find_ncu(ncu)
    wanted = dict.fromkeys([*METRICS, *(part.strip() for part in (metrics or "").split(",") if part.strip())])
    if not is_folder(output.parent):
        raise UsageError(f"cannot write {output}: there is no folder {output.parent}; make it first")
    launches = spec.launches(problem, config, abstract_tensors(spec, problem, config))
    kernels = [launch.kernel.__name__ for launch in launches if isinstance(launch, Launch)]
    if not kernels:
        raise UsageError(f"{config.label()} is a library's: there is no kernel of ours to profile")
    command = ncu_command(command_path, op, problem, config, kernels, list(wanted))
    if print_command:
        _tell(shlex.join(command), {"command": command}, as_json=as_json)
        return
    if not gpu_present():
        raise NoUsableGpuError(
            "there is no NVIDIA GPU here to profile on; `fusetune inspect` reports what is known without"
        )
    found = profile_config(command)
    try:
        in_file = write_whole(output, json.dumps(found, indent=1) + "\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; choose another --output") from error
    if not in_file:
        return
    told = f"Wrote {output}: {', '.join(found)}\n`fusetune inspect ... --ncu {output}` says what limits it."
    _tell(told, {"file": str(output), "command": command, "metrics": found}, as_json=as_json)


def _tell(words: str, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo_json(json.dumps(document, indent=1))
    else:
        echo(words)
