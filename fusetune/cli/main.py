"""The `fusetune` command: hands over to one file a command, prints a mistake in one line, exits with its code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final, NoReturn

import click

import fusetune
from fusetune.errors import FusetuneError

COMMANDS: Final = {
    "sweep": "Find the best launch configuration on the GPU here, or predict one for another.",
    "report": "Show the tuned problems with their evidence, and what each run tried.",
    "compare": "Say what changed from A to B, and whether it matters.",
    "export": "Write the kernel with its tuned config as a standalone module.",
    "gate": "Check that tuned configs still hold.",
    "inspect": "Compile a config for a GPU and tell what follows.",
    "profile": "Profile one config with Nsight Compute.",
    "targets": "The GPUs that fusetune knows.",
    "warmup": "Compile what calls of these problems will launch, into Triton's cache.",
}
"""What `fusetune --help` says of each command, which is the one of this name in the module of this name.

None is loaded to be listed, and only the one that is asked for to be run.
"""


class _Commands(click.Group):
    """Loads a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"fusetune.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(fusetune.__version__, prog_name="fusetune")
def cli() -> None:
    """Find the fastest launch configuration of a fused Triton kernel, and keep it only with evidence.

    Exit codes: 0 done; 1 the gate found a regression; 2 usage or a bad file; 3 noisy or inconclusive; 4 no usable
    GPU; 5 wrong results.
    """


def main() -> NoReturn:
    """Run the command line of this process; a mistake of the user's ends in one message, never in a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("Interrupted; nothing was half-written.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FusetuneError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
