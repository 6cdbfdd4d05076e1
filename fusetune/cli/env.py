"""`fusetune env`: what to put into a bug report."""

from __future__ import annotations

import click

from fusetune.cli.helped import Helped
from fusetune.cli.shown import echo, echo_json, json_option
from fusetune.core.text import printable


@click.command("env", cls=Helped)
@json_option
def env(as_json: bool) -> None:
    """Show what a bug report needs: versions, GPUs, compilers, folders, and the settings in the environment.

    Nothing is changed and no kernel is launched; GPUs are listed whatever CUDA_VISIBLE_DEVICES lets be seen. Paths
    below your home begin with ~, and nothing else of you is in it.
    """
    import msgspec

    from fusetune.report.machine import lines_of, machine_here

    found = machine_here()
    if as_json:
        echo_json(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        echo("\n".join(printable(line) for line in lines_of(found)))
