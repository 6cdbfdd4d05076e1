"""`fusetune capture`: what a program launches, what of it may vary, and why the rest may not."""

from __future__ import annotations

from pathlib import Path

import click

from fusetune.cli.completing import CAPTURES
from fusetune.cli.program_options import CONTEXT, OfAProgram, program_options, quota_option
from fusetune.cli.shown import echo, echo_console, echo_json, json_option
from fusetune.core.target import DEFAULT_TARGET, find_target
from fusetune.core.text import printable
from fusetune.errors import EXIT_OK, EXIT_PROGRAM, UsageError
from fusetune.units import format_bytes


@click.command("capture", cls=OfAProgram, context_settings=CONTEXT)
@program_options
@click.option(
    "--explain", is_flag=True, help="Each parameter with its reason, each tensor with its role, and the grid."
)
@click.option(
    "--once",
    is_flag=True,
    help="Do not run the program once more for the time of all its kernels: shares are of Triton's.",
)
@click.option("--keep", is_flag=True, help="Keep the cases on disk, to be launched again without the program.")
@click.option(
    "--exact", is_flag=True, help="With --keep: large tensors of floats with all their bytes, not by distribution."
)
@quota_option("With --keep: at most this")
@click.option("--list", "list_runs", is_flag=True, help="What is kept, and where.")
@click.option(
    "--remove",
    metavar="RUN",
    shell_complete=CAPTURES,
    help="Remove a run that is kept, by its name in --list, or `all`.",
)
@json_option
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
    once: bool,
    target_name: str | None,
    limit_s: float | None,
    keep: bool,
    exact: bool,
    quota_bytes: int | None,
    list_runs: bool,
    remove: str | None,
    as_json: bool,
) -> None:
    """Run a program once and show the Triton kernels that it launches: nothing is tuned, and only --keep writes files.

    PROGRAM is a script with its arguments, `package.module:function` with --args, or a file with ModelNew beside a
    reference with Model, get_inputs and get_init_inputs; -m runs a module. What it prints goes to stderr. Launches of
    autotuners that only time are not the program's. Without a GPU the program runs on the CPU, its tensors stand in for
    those of a GPU, and its kernels are compiled, not run.

    --keep keeps each case in a folder that is only yours: its kernel, its arguments, and the tensors before and after.

    Exit code 6 where the program fails by itself; its launches so far are shown.
    """
    if list_runs or remove is not None:
        _kept_before(program, module=module, list_runs=list_runs, remove=remove, as_json=as_json)
        return
    if not keep and (exact or quota_bytes is not None):
        raise UsageError(f"{'--exact' if exact else '--quota'} belongs to --keep; add it, or leave that away")
    from fusetune.capture.captures import new_run
    from fusetune.capture.child import QUOTA_BYTES
    from fusetune.capture.look import look, with_gpu_time
    from fusetune.capture.programs import parse_program
    from fusetune.measure.nvml import gpu_present

    words = [*(["-m", module] if module else []), *program]
    parsed = parse_program(words, args=expression, reference=reference)
    if target_name is None and not gpu_present():
        target_name = DEFAULT_TARGET
    target = find_target(target_name).name if target_name else None
    folder = new_run() if keep else None
    quota_bytes = QUOTA_BYTES if quota_bytes is None else quota_bytes
    looked = look(parsed, target=target, limit_s=limit_s, keep=folder, exact=exact, quota_bytes=quota_bytes)
    looked = looked if once else with_gpu_time(parsed, looked, limit_s=limit_s)
    if as_json:
        import msgspec

        echo_json(msgspec.json.format(msgspec.json.encode(looked), indent=1).decode())
    else:
        from rich.console import Console

        from fusetune.report.captured import besides, notes_on, of_what, selected, table_of, to_explanation
        from fusetune.report.wording import plural

        cases = selected(looked, kernel=kernel, top=top, share=share)
        if explain:
            echo(to_explanation(cases), nl=False)
        elif cases:
            echo_console(Console(), lambda console: console.print(table_of(looked, cases)))
        for line in [
            *([] if explain else of_what(looked)),
            *besides(looked, cases),
            *([] if explain else notes_on(cases)),
        ]:
            echo(printable(line))
        if keep:
            count = sum(case.kept is not None for case in looked.cases)
            where = f" in {looked.kept}" if looked.kept else ": the program launched nothing that could be"
            where += ", without what the tensors held" if looked.kept and looked.compiled_for else ""
            echo(printable(f"{plural(count, 'case')} kept{where}"))
    if looked.failed:
        echo(printable(f"The program failed by itself: {looked.failed}"), err=True)
    ctx.exit(EXIT_PROGRAM if looked.failed else EXIT_OK)


def _kept_before(
    program: tuple[str, ...], *, module: str | None, list_runs: bool, remove: str | None, as_json: bool
) -> None:
    """Show the runs that are kept, or remove some."""
    from fusetune.capture.captures import remove_runs, runs
    from fusetune.report.wording import plural
    from fusetune.store.paths import captures_folder

    if program or module or (list_runs and remove is not None):
        raise UsageError("--list and --remove stand alone; give no program, and one of them")
    found = runs() if remove is None else remove_runs(remove)
    if as_json:
        import msgspec

        echo_json(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    for one in found:
        gone = "removed: " if remove is not None else ""
        size = f"{plural(one.cases, 'case')}  {format_bytes(one.bytes)}"
        echo(printable(f"{gone}{one.run}  {one.made or '-'}  {size}  {one.program}"))
    if remove is None:
        echo(printable(f"in {captures_folder()}" if found else "no case is kept; `fusetune capture --keep` keeps some"))
