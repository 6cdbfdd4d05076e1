"""`fusetune report`: what was decided, and what each run tried."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fusetune.cli.shown import echo, echo_console, echo_laid_out
from fusetune.core.brief import brief
from fusetune.core.text import no_command, printable
from fusetune.errors import EXIT_USAGE, UsageError
from fusetune.ops import loading  # noqa: F401 - a user's own ops may have types of their own
from fusetune.ops.built_in import example_command
from fusetune.store.paths import runs_dir, search_path
from fusetune.store.regular import is_folder, is_regular

if TYPE_CHECKING:
    from fusetune.report.model import Report

FORMATS: Final = ("table", "json", "csv", "md", "t4", "cachefile", "vllm")
OF_ONE_RUN: Final = ("t4", "cachefile")

_RESTRICTION: Final = "tune_kernel(..., simulation_mode=True) needs a restriction to the configs that it holds"
_FILE_COLUMNS: Final = 140
"""Width of a table that goes to a file, where no terminal tells one."""


@click.command("report")
@click.option(
    "--configs",
    "config_roots",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of tuned configs; may be given again.  [default: those that a look-up reads]",
)
@click.option(
    "--runs",
    "run_dirs",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of the runs' journals; may be given again.  [default: $FUSETUNE_RUNS or .fusetune/runs]",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to show it."
)
@click.option("--run", metavar="ID", help="One run alone, with what it decided.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one page with figures to FILE, which needs no network.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write to a file, whole or not at all, instead of stdout; for vllm, to files in a folder.",
)
def report(
    *,
    config_roots: tuple[Path, ...],
    run_dirs: tuple[Path, ...],
    form: str,
    run: str | None,
    html: Path | None,
    output: Path | None,
) -> None:
    """Show the tuned problems with their evidence, and what each run tried.

    t4 and cachefile are Kernel Tuner's forms of one run; kernel_tuner.tune_cache(PATH) simulates searches on a
    cachefile. vllm writes tables in the form of vLLM's, of a size -> config, for your own kernels: vLLM itself opens
    none.

    Every figure comes from the config files and the runs' journals; nothing is measured. Exit code 2 when there is
    nothing to show or a file is damaged; what could be read is shown all the same.
    """
    from fusetune.report.files import write_whole
    from fusetune.report.model import load_run

    for option, folders in (("--configs", config_roots), ("--runs", run_dirs)):
        _refuse_missing(option, folders)
    folders = run_dirs or (runs_dir(),)
    roots = config_roots or tuple(search_path())
    found = _tuned(roots, folders) if run is None else load_run(run, folders)
    if html is not None:
        from fusetune.report.html.render import render_html

        if write_whole(html, render_html(found, folders)):
            echo(printable(f"Wrote {html}"))
    elif form in OF_ONE_RUN:
        _give(_of_one_run(found, form, folders), output)
        if form == "cachefile" and output is not None:
            echo(printable(f"kernel_tuner.tune_cache({str(output)!r}) simulates searches on it; {_RESTRICTION}"))
    elif form == "vllm":
        _write_vllm(found, output)
    elif output is None and form == "table":
        _show(found)
    else:
        _give(_text(found, form), output)
    for problem in found.problems:
        echo(f"error: {printable(problem.message)}", err=True)
    if found.problems:
        sys.exit(EXIT_USAGE)


def _tuned(roots: Sequence[Path], folders: Sequence[Path]) -> Report:
    """What the config files hold. Raises UsageError where they hold nothing."""
    from fusetune.report.model import load_report

    found = load_report(roots, folders)
    if not found.rows and not found.problems:
        looked = ", ".join(brief(root) if is_folder(root) else f"{brief(root)} (no such folder)" for root in roots)
        raise UsageError(f"no tuned configs found in {looked}; `{example_command()}` makes one")
    return found


def _give(text: str, output: Path | None) -> None:
    from fusetune.report.files import write_whole

    if output is None:
        echo_laid_out(text)
    elif is_folder(output):
        raise UsageError(f"-o {output} is a folder; name a file")
    else:
        write_whole(output, text)


def _of_one_run(found: Report, form: str, folders: Sequence[Path]) -> str:
    from fusetune.report.other_tuners import to_cachefile, to_t4
    from fusetune.store.journal import read_journal
    from fusetune.store.paths import find_run

    if len(found.runs) != 1:
        raise UsageError(f"--format {form} reports one run, and there are {len(found.runs)}; choose it with --run ID")
    journal = find_run(found.runs[0].run, folders)
    assert journal is not None, "it was read a moment ago"
    return {"t4": to_t4, "cachefile": to_cachefile}[form](read_journal(journal))


def _write_vllm(found: Report, output: Path | None) -> None:
    from fusetune.report.files import write_whole
    from fusetune.report.other_tuners import to_vllm

    if output is None or is_regular(output):
        raise UsageError("--format vllm writes a table for each op, GPU and weight; name a folder for them with -o")
    for name, text in to_vllm(found.rows).items():
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make {output}: {error.strerror or error}; name another folder") from error
        write_whole(output / name, text)
        echo(printable(f"Wrote {output / name}"))
    echo("Tables in vLLM's form, for kernels of your own: vLLM itself opens none of them.")


def _refuse_missing(option: str, folders: Sequence[Path]) -> None:
    for folder in folders:
        if not is_folder(folder):
            raise UsageError(f"{option} {brief(folder)}: there is no such folder; `{example_command()}` makes a config")


def _show(found: Report) -> None:
    from rich.console import Console

    from fusetune.report.terminal import render

    echo_console(Console(), lambda console: render(found, console))


def _text(found: Report, form: str) -> str:
    from fusetune.report import formats

    if form == "table":
        from rich.console import Console

        from fusetune.report.terminal import render

        text = io.StringIO()
        render(found, Console(file=text, width=_FILE_COLUMNS, color_system=None))
        return no_command(text.getvalue())
    return {"json": formats.to_json, "csv": formats.to_csv, "md": formats.to_markdown}[form](found)
