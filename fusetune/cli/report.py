"""`fusetune report`: what was decided, and what each run tried."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fusetune.errors import EXIT_USAGE, UsageError
from fusetune.store.paths import runs_dir, search_path

if TYPE_CHECKING:
    from fusetune.report.model import Report

FORMATS: Final = ("table", "json", "csv", "md")

_HOW_TO_MAKE_ONE: Final = "fusetune sweep --M 128 --K 1024 --N 512"
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
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to FILE, whole or not at all, instead of stdout.",
)
def report(config_roots: tuple[Path, ...], run_dirs: tuple[Path, ...], form: str, output: Path | None) -> None:
    """Show the tuned problems with their evidence, and what each run tried.

    Every figure comes from the config files and the runs' journals; nothing is measured. Exit code 2 when there is
    nothing to show or a file is damaged; what could be read is shown all the same.
    """
    from fusetune.report.files import write_whole
    from fusetune.report.model import load_report

    for option, folders in (("--configs", config_roots), ("--runs", run_dirs)):
        _refuse_missing(option, folders)
    roots = config_roots or search_path()
    found = load_report(roots, run_dirs or [runs_dir()])
    if not found.rows and not found.problems:
        looked = ", ".join(str(root) if root.is_dir() else f"{root} (no such folder)" for root in roots)
        raise UsageError(f"no tuned configs found in {looked}; `{_HOW_TO_MAKE_ONE}` makes one")
    if output is not None:
        write_whole(output, _text(found, form))
    elif form == "table":
        _show(found)
    else:
        click.echo(_text(found, form), nl=False)
    for problem in found.problems:
        click.echo(f"error: {problem.message}", err=True)
    if found.problems:
        sys.exit(EXIT_USAGE)


def _refuse_missing(option: str, folders: Sequence[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{option} {folder}: there is no such folder; `{_HOW_TO_MAKE_ONE}` makes a config")


def _show(found: Report) -> None:
    from rich.console import Console

    from fusetune.report.terminal import render

    render(found, Console())


def _text(found: Report, form: str) -> str:
    from fusetune.report import formats

    if form == "table":
        from rich.console import Console

        from fusetune.report.terminal import render

        text = io.StringIO()
        render(found, Console(file=text, width=_FILE_COLUMNS, color_system=None))
        return text.getvalue()
    return {"json": formats.to_json, "csv": formats.to_csv, "md": formats.to_markdown}[form](found)
