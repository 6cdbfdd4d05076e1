"""`fusetune report`: what was decided, and what each run tried."""

from __future__ import annotations

import datetime
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click

from fusetune.cli.completing import DTYPES, GPUS, RUNS, TUNED_OPS
from fusetune.cli.helped import Helped
from fusetune.cli.shared_options import config_roots_option, run_dirs_option
from fusetune.cli.shown import echo, echo_console, echo_json, echo_laid_out, json_option
from fusetune.core.brief import brief
from fusetune.core.decision import VerdictName
from fusetune.core.text import json_text, no_command, printable
from fusetune.errors import EXIT_USAGE, UsageError
from fusetune.ops import loading  # noqa: F401 - a user's own ops may have types of their own
from fusetune.ops.built_in import example_command
from fusetune.store.paths import own_search_path, runs_dir, search_path
from fusetune.store.regular import is_folder, is_regular

if TYPE_CHECKING:
    from rich.console import Console

    from fusetune.report.html.data import RunsData
    from fusetune.report.model import Report, Summarize

FORMATS: Final = ("table", "json", "csv", "md", "t4", "cachefile", "vllm")
VERDICTS: Final = get_args(VerdictName)
OF_ONE_RUN: Final = ("t4", "cachefile")

_RESTRICTION: Final = "tune_kernel(..., simulation_mode=True) needs a restriction to the configs that it holds"
_FILE_COLUMNS: Final = 140
"""Width of a table that goes to a file, where no terminal tells one."""


@click.command("report", cls=Helped)
@config_roots_option
@run_dirs_option
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to show it."
)
@click.option(
    "--run",
    metavar="ID",
    shell_complete=RUNS,
    help="One run alone, with what it tried and decided: its id, the begin of one, or latest.",
)
@click.option("--shipped", is_flag=True, help="Also the problems that come with fusetune, after your own.")
@click.option(
    "--op",
    "ops",
    metavar="NAME",
    multiple=True,
    shell_complete=TUNED_OPS,
    help="Of this op or kernel, also norms*; may be given again.",
)
@click.option(
    "--gpu",
    "gpus",
    metavar="NAME",
    multiple=True,
    shell_complete=GPUS,
    help="On this GPU, as h200; may be given again.",
)
@click.option(
    "--dtype",
    "dtypes",
    metavar="DTYPE",
    multiple=True,
    shell_complete=DTYPES,
    help="With this dtype, as bf16; may be given again.",
)
@click.option(
    "--verdict", "verdicts", type=click.Choice(VERDICTS), multiple=True, help="That ended so; may be given again."
)
@click.option("--since", metavar="DAY", help="Decided on this day or later: 2026-11-23, or 7d for the last seven days.")
@click.option("--limit", metavar="COUNT", type=click.IntRange(1), help="The newest ones alone.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with figures to FILE, which needs no network; of many runs an index, with a page for each in a "
    "folder beside it.",
)
@click.option(
    "--doctor",
    "doctor_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Instead, what a file of `fusetune doctor` holds, yours or one that was sent to you.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write to a file, whole or not at all, instead of stdout; for vllm, to files in a folder.",
)
@json_option
def report(
    *,
    config_roots: tuple[Path, ...],
    run_dirs: tuple[Path, ...],
    form: str,
    run: str | None,
    shipped: bool,
    ops: tuple[str, ...],
    gpus: tuple[str, ...],
    dtypes: tuple[str, ...],
    verdicts: tuple[str, ...],
    since: str | None,
    limit: int | None,
    html: Path | None,
    doctor_file: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show the tuned problems, one line each, or with --run what one run tried.

    They are your own, unless --shipped adds those that come with fusetune, or --configs names folders.

    t4 and cachefile are Kernel Tuner's forms of one run; kernel_tuner.tune_cache(PATH) simulates searches on a
    cachefile. vllm writes tables in the form of vLLM's, of a size -> config, for your own kernels: vLLM itself opens
    none.

    Every figure comes from the config files and the runs' journals; nothing is measured. Exit code 2 when there is
    nothing to show or a file is damaged; what could be read is shown all the same.
    """
    from fusetune.report.filters import Filters, day_of, filtered
    from fusetune.report.html.data import RunsData
    from fusetune.report.model import load_run, summarize_run

    form = _form(form, html, as_json=as_json)
    if doctor_file is not None:
        others = (config_roots, run_dirs, run, shipped, ops, gpus, dtypes, verdicts, since, limit, html)
        if any(others):
            raise UsageError("--doctor shows one file, whole; give --format and -o alone beside it")
        _show_doctor(doctor_file, form, output)
        return
    for option, folders in (("--configs", config_roots), ("--runs", run_dirs)):
        _refuse_missing(option, folders)
    folders = run_dirs or (runs_dir(),)
    wanted = Filters(ops, gpus, dtypes, verdicts, day_of(since, datetime.date.today()) if since else None, limit)
    data = RunsData()
    summarize = summarize_run if html is None else data.summarize
    if run is None:
        found = filtered(_tuned(config_roots, folders, summarize, shipped=shipped), wanted)
    elif wanted != Filters() or shipped:
        raise UsageError("--run shows one run whatever it is of; leave --shipped and the filters out")
    else:
        found = load_run(run, folders, summarize=summarize)
    if html is not None:
        _write_pages(found, data, html)
    else:
        _hand_out(found, form, output, folders, whole=run is not None)
    for problem in found.problems:
        echo(f"error: {printable(problem.message)}", err=True)
    if found.problems:
        sys.exit(EXIT_USAGE)


def _form(form: str, html: Path | None, *, as_json: bool) -> str:
    """How to show it. Raises UsageError where --json and another form are wanted at once."""
    if as_json and (html is not None or form not in {"table", "json"}):
        other = "--html" if html is not None else f"--format {form}"
        raise UsageError(f"--json and {other} are different forms; give one of them")
    return "json" if as_json else form


def _show_doctor(path: Path, form: str, output: Path | None) -> None:
    """Print, or write, what a file of `fusetune doctor` holds."""
    from rich.console import Console

    from fusetune.report.doctor import render_doctor
    from fusetune.store.doctor_file import doctor_text, read_doctor_file

    if form not in {"table", "json"}:
        raise UsageError(f"--format {form} is for tuned problems; --doctor has table and json")
    file = read_doctor_file(path)
    if form == "json":
        _give(json_text(doctor_text(file)), output, is_document=True)
    elif output is None:
        echo_console(Console(), lambda console: render_doctor(file, console))
    else:
        text = io.StringIO()
        render_doctor(file, Console(file=text, width=_FILE_COLUMNS, color_system=None))
        _give(no_command(text.getvalue()), output)


def _write_pages(found: Report, data: RunsData, html: Path) -> None:
    from fusetune.report.files import write_whole
    from fusetune.report.html.render import write_pages

    pages = write_pages(found, data.by_run, html, write_whole)
    if pages:
        echo(printable(f"Wrote {html}" + (f" and the pages of {pages - 1} runs beside it" if pages > 1 else "")))


def _hand_out(found: Report, form: str, output: Path | None, folders: Sequence[Path], *, whole: bool) -> None:
    if form in OF_ONE_RUN:
        _give(_of_one_run(found, form, folders), output)
        if form == "cachefile" and output is not None:
            echo(printable(f"kernel_tuner.tune_cache({str(output)!r}) simulates searches on it; {_RESTRICTION}"))
    elif form == "vllm":
        _write_vllm(found, output)
    elif output is None and form == "table":
        _show(found, whole=whole)
    else:
        _give(_text(found, form, whole=whole), output, is_document=form == "json")


def _tuned(config_roots: Sequence[Path], folders: Sequence[Path], summarize: Summarize, *, shipped: bool) -> Report:
    """What the config files hold. Raises UsageError where they hold nothing."""
    from fusetune.report.filters import own_alone
    from fusetune.report.model import load_report

    roots = config_roots or (search_path() if shipped else own_search_path())
    found = load_report(roots, folders, summarize=summarize)
    if not shipped and not config_roots:
        found = own_alone(found)
    if not found.rows and not found.problems:
        looked = ", ".join(brief(root) if is_folder(root) else f"{brief(root)} (no such folder)" for root in roots)
        others = "" if shipped or config_roots else "; `fusetune report --shipped` shows those that come with fusetune"
        raise UsageError(f"no tuned configs found in {looked}; `{example_command()}` makes one{others}")
    return found


def _give(text: str, output: Path | None, *, is_document: bool = False) -> None:
    from fusetune.report.files import write_whole

    if output is None and is_document:
        echo_json(text)
    elif output is None:
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
        if is_regular(folder):
            raise UsageError(f"{option} {brief(folder)} is a file; name the folder that it is in")
        if not is_folder(folder):
            raise UsageError(f"{option} {brief(folder)}: there is no such folder; `{example_command()}` makes a config")


def _show(found: Report, *, whole: bool) -> None:
    from rich.console import Console

    echo_console(Console(), lambda console: _render(found, console, whole=whole))


def _text(found: Report, form: str, *, whole: bool) -> str:
    from fusetune.report import formats

    if form == "table":
        from rich.console import Console

        text = io.StringIO()
        _render(found, Console(file=text, width=_FILE_COLUMNS, color_system=None), whole=whole)
        return no_command(text.getvalue())
    return {"json": formats.to_json, "csv": formats.to_csv, "md": formats.to_markdown}[form](found)


def _render(found: Report, console: Console, *, whole: bool) -> None:
    """A line for each problem; `whole`: all that is known of one run."""
    from fusetune.report.terminal import render
    from fusetune.report.terminal_list import render_list

    if whole:
        render(found, console)
        return
    render_list(found, console)
    if found.runs:
        console.print("`fusetune report --run ID` shows what a run tried; the newest is called latest.", style="dim")
