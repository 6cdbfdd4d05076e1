"""The commands: one file each, loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

import click

import fusetune
from fusetune.cli.volume import volume_options
from fusetune.core.near import did_you_mean
from fusetune.ops.built_in import example_command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Final = {
    "sweep": "Find the best launch configuration on the GPU here, or predict one for another.",
    "tune": "Tune the kernels that a program launches, as it is.",
    "run": "Run a program with the configs that were kept: its kernels are not tuned again.",
    "report": "Show the tuned problems with their evidence, and what each run tried.",
    "compare": "Say what changed from A to B, and whether it matters.",
    "export": "Write the kernel with its tuned config as a standalone module.",
    "capture": "Show the kernels that a program launches, and what of them may vary.",
    "gate": "Check that tuned configs still hold.",
    "inspect": "Compile a config for a GPU and report what follows.",
    "profile": "Profile one config with Nsight Compute.",
    "targets": "The GPUs that fusetune knows.",
    "warmup": "Compile what calls of these problems will launch, into Triton's cache.",
    "worker": "Serve the GPUs of this machine to a cluster.",
    "doctor": "Say whether this machine is fit to tune on, and how the installed ops do on its GPU.",
    "env": "What to put into a bug report: versions, GPUs, folders, settings.",
}
"""What `fusetune --help` says of each command, which is the one of this name in the module of this name.

None is loaded to be listed, and only the one that is asked for to be run.
"""
DEBUG: Final = "--debug"
_FIRST: Final = ("fusetune tune train.py", example_command(), "fusetune report")
"""Examples of what a user may begin with."""


class _Commands(click.Group):
    """Loads a command when it is asked for, and gives each one --debug."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"fusetune.cli.{cmd_name}"), cmd_name)
        if not any(DEBUG in parameter.opts for parameter in command.params):
            command.params += [*_volume_options(command), _debug_option()]
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See click: without loading any command for what is said of it."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=about) for name, about in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = did_you_mean(args[0], COMMANDS) or ";"
            ctx.fail(f"No such command {args[0]!r}{near} the commands are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line in _FIRST:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        formatter.write("\n`fusetune COMMAND --help` has examples of each command.\n")


def _volume_options(command: click.Command) -> list[click.Option]:
    """Those of a command: none behind the name of one that runs a program, which may have a -q and a -v of its own."""
    return [] if any(parameter.name == "program" for parameter in command.params) else volume_options()


def _debug_option() -> click.Option:
    """`main` looks for it before anything is parsed, since what it is for may happen earlier."""
    return click.Option(
        [DEBUG], is_flag=True, expose_value=False, help="Show the traceback of the error that ends the command."
    )


@click.group(
    cls=_Commands,
    params=[*volume_options(), _debug_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(fusetune.__version__, prog_name="fusetune")
def cli() -> None:
    """Find the fastest launch configuration of a fused Triton kernel, and keep it only with evidence.

    Exit codes: 0 done; 1 the gate found a regression; 2 usage or a bad file; 3 noisy, inconclusive, or trouble of the
    machine such as a full disk; 4 no usable GPU; 5 wrong results; 6 your program failed; 70 a fault of fusetune, see
    --debug; 130 interrupted, and 129 or 143 by SIGHUP or SIGTERM; 141 nobody reads the output any more.
    """
