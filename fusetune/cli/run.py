"""`fusetune run`: a program as it is, whose launches take tuned configs and time nothing."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fusetune.cli.completing import files
from fusetune.cli.helped import Helped
from fusetune.cli.shared_options import arguments_option
from fusetune.cli.shown import echo
from fusetune.cli.volume import is_quiet
from fusetune.core.brief import brief
from fusetune.errors import EXIT_PROGRAM, EXIT_USAGE, UsageError
from fusetune.store.regular import is_folder

if TYPE_CHECKING:
    from fusetune.capture.serving.served import Served

_UNCAUGHT: Final = 1
"""What Python ends with where nobody caught an error."""
_LONGEST: Final = 10_000
"""Of the words of a program in a variable, which may be no longer than 128 KiB."""
_PYTHON_S: Final = frozenset({".py", ".pyc", ".pyw", ".pyz"})


class _Run(Helped):
    """Options stand before the program: what is behind it, or behind -m MODULE, is the program's own, as in Python."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes = {name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            if args[at] == "-m" and at + 1 < len(args):
                args = [*args[: at + 2], "--", *args[at + 2 :]]
                break
            at += 2 if args[at] in takes else 1
        return super().parse_args(ctx, args)


@click.command("run", cls=_Run, context_settings={"allow_interspersed_args": False})
@click.argument("program", nargs=-1, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED, shell_complete=files)
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m`.")
@arguments_option
@click.option(
    "--configs",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The folder or file of tuned configs.  [default: $FUSETUNE_CONFIGS, ./configs, your config folder]",
)
@click.option(
    "--on-miss",
    type=click.Choice(["default", "tune", "error"]),
    default="default",
    show_default=True,
    help="An autotuned launch without an entry takes the first config of its list, or is timed as ever, or ends the "
    "program.",
)
@click.option("--allow-predicted", is_flag=True, help="Use entries that nobody has measured, too.")
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write what was applied, missed or refused, as JSON.",
)
@click.option("--quiet", is_flag=True, help="Do not report it on stderr.")
@click.pass_context
def run(
    ctx: click.Context,
    *,
    program: tuple[str, ...],
    module: str | None,
    expression: str | None,
    configs: Path | None,
    on_miss: str,
    allow_predicted: bool,
    report: Path | None,
    quiet: bool,
) -> None:
    """Run a program as it is with the configs that `fusetune tune` kept, so that it starts without tuning.

    @triton.autotune takes the entry of a launch and times nothing; other launches get warps, stages, and constants
    where the grid follows. So do the processes that the program starts: workers, ranks. What was applied, missed or
    refused is reported at the end on stderr.

    PROGRAM is a script, a command such as torchrun or ./launch.sh, or `package.module:function` with --args; -m runs a
    module. Options stand before it; all behind it is its own.

    The exit code is the program's own, with two exceptions: 6 where an error of it reaches Python, and 2 where
    --on-miss error ends it.
    """
    from fusetune.capture.serving.process import read_served
    from fusetune.capture.serving.settings import Settings, variables_of
    from fusetune.cli.supervised import run_supervised

    command, named = _command(program, module, expression)
    _check(configs, report)
    with tempfile.TemporaryDirectory(prefix="fusetune-served-") as folder:
        place = None if configs is None else str(configs.absolute())
        named = named if len(named) < _LONGEST else Settings().program
        settings = Settings(place, on_miss, allow_predicted, folder, named, os.getpid())
        environment = {**os.environ, **variables_of(settings, os.environ), **_search_path(os.environ)}
        sys.stdout.flush()
        code = run_supervised(command, environment)
        served = read_served(Path(folder))
    if not (quiet or is_quiet()):
        from fusetune.report.served import lines_of

        for line in lines_of(served):
            echo(line, err=True)
    if report is not None:
        _write(report, served)
    ctx.exit(_code(code, served))


def _command(program: Sequence[str], module: str | None, expression: str | None) -> tuple[list[str], str]:
    """The command line of the program, and how other commands name it."""
    from fusetune.capture.programs import parse_program
    from fusetune.runtime.program_here import named

    first = program[0] if program else ""
    words = [*(["-m", module] if module else []), *program]
    if module is None and first and _is_python_s(Path(first)):
        if expression is not None:
            raise UsageError(f"--args belongs to package.module:function; {first} takes its arguments behind it")
        return [sys.executable, *words], named(words)
    if module is None and first and ":" not in first and expression is None:
        if Path(first).is_file():
            return [first if os.sep in first else f"{os.curdir}{os.sep}{first}", *program[1:]], "PROGRAM"
        if shutil.which(first):
            return list(program), "PROGRAM"
    parsed = parse_program(words, args=expression)
    if parsed.kind == "function":
        called = [sys.executable, "-m", "fusetune.capture.serving.called", parsed.what]
        return [*called, *([] if expression is None else [expression])], parsed.told()
    return [sys.executable, *words], named(words)


def _is_python_s(path: Path) -> bool:
    """Whether Python is to run what stands there: no other folder of a command's name, nor what runs by itself."""
    if path.is_dir():
        return (path / "__main__.py").is_file()
    if path.suffix in _PYTHON_S or not os.access(path, os.X_OK):
        return path.is_file()
    with path.open("rb") as file:
        first = file.readline(200)
    return b"python" in first if first.startswith(b"#!") else not first.startswith(b"\x7fELF")


def _check(configs: Path | None, report: Path | None) -> None:
    """Raise UsageError before the program runs where there are no such configs, or the report cannot be written."""
    if report is not None and not is_folder(report.parent):
        raise UsageError(
            f"cannot write {brief(report, 120)}: {brief(report.parent, 60)} is no folder; make it, or name another file"
        )
    if report is not None and (is_folder(report) or not os.access(report.absolute().parent, os.W_OK)):
        why = "it is a folder" if is_folder(report) else f"you may not write to {brief(report.parent, 60)}"
        raise UsageError(f"cannot write {brief(report, 120)}: {why}; name another file")
    if configs is not None:
        from fusetune.runtime.configs import load

        load(configs)


def _search_path(environment: Mapping[str, str]) -> dict[str, str]:
    """`./configs` is the one of here, wherever the program goes."""
    from fusetune.store.paths import CONFIGS_VARIABLE

    before = environment.get(CONFIGS_VARIABLE)
    return {CONFIGS_VARIABLE: os.pathsep.join([*([before] if before else []), str(Path("configs").absolute())])}


def _write(report: Path, served: Served) -> None:
    import msgspec

    from fusetune.report.files import write_whole

    write_whole(report, f"{msgspec.json.format(msgspec.json.encode(served), indent=1).decode()}\n")


def _code(code: int, served: Served) -> int:
    """What the command ends with."""
    if code == _UNCAUGHT and served.stopped:
        return EXIT_USAGE
    return EXIT_PROGRAM if code == _UNCAUGHT and served.failed else code
