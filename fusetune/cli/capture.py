"""`fusetune capture`: what a program launches, what of it may vary, and why the rest may not."""

from __future__ import annotations

from pathlib import Path

import click

from fusetune.cli.shown import echo, echo_console, echo_json
from fusetune.core.target import DEFAULT_TARGET, find_target
from fusetune.core.text import printable
from fusetune.errors import EXIT_OK, EXIT_PROGRAM


@click.command("capture", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("program", nargs=-1, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED)
@click.option(
    "-m", "module", metavar="MODULE", help="Run a module, as `python -m`: -m pytest tests/test_norm.py::test_a"
)
@click.option(
    "--args", "expression", metavar="EXPRESSION", help="Arguments of a function: \"torch.randn(8, device='cuda')\""
)
@click.option(
    "--reference",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where Model, get_inputs and get_init_inputs are, beside a file with ModelNew.",
)
@click.option("--kernel", metavar="GLOB", help="Kernels of this name alone, as *norm*.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="The first N kernels by their time.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="The kernels that make up this share of the time of all.",
)
@click.option(
    "--explain", is_flag=True, help="Each parameter with its reason, each tensor with its role, and the grid."
)
@click.option(
    "--target",
    "target_name",
    metavar="NAME",
    help=f"Run nothing on a GPU, and compile for this one.  [default: the GPU here; without one, {DEFAULT_TARGET}]",
)
@click.option(
    "--limit", "limit_s", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="End it after so long."
)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@click.pass_context
def capture(
    ctx: click.Context,
    *,
    program: tuple[str, ...],
    module: str | None,
    expression: str | None,
    reference: Path | None,
    kernel: str | None,
    top: int | None,
    share: float,
    explain: bool,
    target_name: str | None,
    limit_s: float | None,
    as_json: bool,
) -> None:
    """Run a program once and show the Triton kernels that it launches: nothing is tuned, and no file is written.

    PROGRAM is a script with its arguments, `package.module:function` with --args, or a file with ModelNew beside a
    reference with Model, get_inputs and get_init_inputs; -m runs a module. What it prints goes to stderr. Launches of
    autotuners that only time are not the program's. Without a GPU the program runs on the CPU, its tensors stand in for
    those of a GPU, and its kernels are compiled, not run.

    Exit code 6 where the program fails by itself; its launches so far are shown.
    """
    from fusetune.capture.look import look
    from fusetune.capture.programs import parse_program
    from fusetune.measure.nvml import gpu_present

    words = [*(["-m", module] if module else []), *program]
    parsed = parse_program(words, args=expression, reference=reference)
    if target_name is None and not gpu_present():
        target_name = DEFAULT_TARGET
    target = find_target(target_name).name if target_name else None
    looked = look(parsed, target=target, limit_s=limit_s)
    if as_json:
        import msgspec

        echo_json(msgspec.json.format(msgspec.json.encode(looked), indent=1).decode())
    else:
        from rich.console import Console

        from fusetune.report.captured import besides, selected, table_of, to_explanation

        cases = selected(looked, kernel=kernel, top=top, share=share)
        if explain:
            echo(to_explanation(cases), nl=False)
        elif cases:
            echo_console(Console(), lambda console: console.print(table_of(looked, cases)))
        for line in besides(looked, cases):
            echo(printable(line))
    if looked.failed:
        echo(printable(f"The program failed by itself: {looked.failed}"), err=True)
    ctx.exit(EXIT_PROGRAM if looked.failed else EXIT_OK)
