"""`fusetune gate`: fail a build when a kept config no longer keeps its promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fusetune.cli.completing import RUNS
from fusetune.cli.helped import Helped
from fusetune.cli.needed import needs
from fusetune.cli.options import named_op
from fusetune.cli.shared_options import workers_option
from fusetune.cli.shown import echo, echo_json, is_json, json_option
from fusetune.core.brief import brief
from fusetune.core.text import printable
from fusetune.errors import EXIT_REGRESSION, NoUsableGpuError, UsageError
from fusetune.ops.built_in import example_command
from fusetune.store.paths import config_files, find_run, runs_dir, search_path
from fusetune.store.regular import is_folder, is_regular, is_there, reason
from fusetune.store.schema import ConfigFile

if TYPE_CHECKING:
    from fusetune.gate.against import Against
    from fusetune.gate.findings import Finding
    from fusetune.gate.sources import Sources

F = TypeVar("F", bound=Callable[..., Any])
Files = list[tuple[Path, ConfigFile]]
_FILE = click.Path(dir_okay=False, path_type=Path)


def _modes(command: F) -> F:
    for option in (
        click.option("--pin", "pins", is_flag=True, help="Record what the compiler makes of every config now."),
        click.option(
            "--from",
            "run",
            metavar="RUN",
            shell_complete=RUNS,
            help="Decide again from a run's recorded blocks: id or journal.",
        ),
        click.option("--live", "live", is_flag=True, help="Measure on the GPU.  [default]"),
        click.option("--static", "static", is_flag=True, help="Compile only: needs no GPU, times nothing."),
    ):
        command = option(command)
    return command


def _outputs(command: F) -> F:
    for name, what in (("junit", "JUnit XML"), ("markdown", "Markdown")):
        command = click.option(
            f"--{name}", name, metavar="FILE", type=_FILE, help=f"Write the findings to FILE as {what}."
        )(command)
    return json_option(command)


@click.command("gate", cls=Helped)
@click.argument("paths", metavar="[FILE|DIR]...", nargs=-1, type=click.Path(path_type=Path))
@_modes
@click.option("--against", metavar="REV", help="Live: also time this tree's kernels against those of a git revision.")
@click.option(
    "--on-mismatch",
    type=click.Choice(("fail", "static", "skip")),
    default="fail",
    show_default=True,
    help="Live: what to do with a file for another GPU, or with none here.",
)
@click.option("--budget", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="Live: begin nothing later.")
@workers_option
@click.option(
    "--op",
    "ops",
    metavar="SPEC",
    multiple=True,
    help="A KernelSpec of your own that files are for, as module:attribute or FILE.py:attribute; may be given again.",
)
@click.option(
    "--kernels",
    "kernels",
    metavar="PATH",
    multiple=True,
    help="Import the kernels of programs that files are for from this file, folder or installed package, as from .; "
    "may be given again.",
)
@click.option(
    "--program",
    "programs",
    metavar="WORDS",
    multiple=True,
    help="Live: run this program again, as `bench.py 8` or `-m pytest test_norm.py`, and measure its launches; may be "
    "given again.  [default: captures that are kept]",
)
@click.option(
    "--vouch",
    "vouched",
    metavar="GLOB",
    multiple=True,
    help="Live: of a program's kernels of this name, do not compare what differs from run to run, as in tune.",
)
@_outputs
@needs("tune")
@click.pass_context
def gate(
    ctx: click.Context,
    paths: Sequence[Path],
    *,
    static: bool,
    live: bool,
    run: str | None,
    pins: bool,
    against: str | None,
    on_mismatch: str,
    budget: float | None,
    workers: int | None,
    ops: tuple[str, ...],
    kernels: tuple[str, ...],
    programs: tuple[str, ...],
    vouched: tuple[str, ...],
    as_json: bool,
    markdown: Path | None,
    junit: Path | None,
) -> None:
    """Check that tuned configs still hold: config files, or folders of <gpu>/<op>.yaml (default: ./configs).

    On a GPU, every kept config is measured against BASELINE, or what ran before, again, and a regression once more
    before it is called one. With --static every config is compiled for its GPU and held against its pin, which --pin
    writes, and `fusetune tune` for the kernels of a program: those are taken from the source as it is now, where
    --kernels names it. Exit codes: 1 a regression; 3 noise, or nothing to compare with; 4 another GPU than the file's,
    or none; 5 a wrong result; 6 a program that failed by itself. In a GitHub workflow it also annotates and appends to
    the step's summary.
    """
    only_live = {"--against": against, "--budget": budget, "--program": programs or None, "--vouch": vouched or None}
    _refuse_mixed(static=static, live=live, run=run, pins=pins, only_live=only_live, paths=paths)
    for op in ops:
        named_op(op)
    _refuse_a_file_for_json(paths, as_json=as_json)
    with _sources(kernels) as sources:
        if pins:
            ctx.exit(_pin(_read(paths), workers, sources))
        if run is not None:
            findings = [_replayed(run)]
        elif static:
            findings = _static(_read(paths), workers, sources)
        else:
            findings = _live(_read(paths), against, on_mismatch, budget, workers, sources, programs, vouched)
    ctx.exit(_tell(findings, {"markdown": markdown, "junit": junit}))


@contextmanager
def _sources(kernels: Sequence[str]) -> Iterator[Sources | None]:
    """What files, folders and packages were named to import kernels from; None where none was."""
    if not kernels:
        yield None
        return
    from fusetune.cli.scratch import scratch_folder
    from fusetune.gate.sources import Sources

    with scratch_folder("kernels") as folder:
        yield Sources(kernels, folder)


def _refuse_mixed(
    *,
    static: bool,
    live: bool,
    run: str | None,
    pins: bool,
    only_live: Mapping[str, object],
    paths: Sequence[Path],
) -> None:
    modes = {"--static": static, "--live": live, "--from": run is not None, "--pin": pins}
    given = [name for name, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are different gates; give one of them")
    if given and given != ["--live"]:
        for name, value in only_live.items():
            if value is not None:
                raise UsageError(f"{name} is for a live gate; leave it out beside {given[0]}")
    if run is not None and paths:
        raise UsageError(f"--from decides from the run alone; leave out {', '.join(map(str, paths))}")


def _refuse_a_file_for_json(paths: Sequence[Path], *, as_json: bool) -> None:
    """It took a file once: without this sentence it would be missed among the configs."""
    named = next((path for path in paths if path.suffix == ".json"), None)
    if as_json and named is not None:
        raise UsageError(f"--json writes to stdout and takes no file: write `--json > {brief(named)}`")


def _tell(findings: list[Finding], paths: dict[str, Path | None]) -> int:
    from fusetune.gate.findings import SIGNS, exit_code, summary
    from fusetune.gate.outputs import to_json, write_outputs

    for finding in findings:
        # One line, whatever stands in the file: a workflow looks for commands at the begin of each.
        echo(
            f"{SIGNS[finding.status]:<12} "
            + printable(
                f"{finding.file}  {finding.entry.problem.describe()}  {finding.entry.config.label()}: {finding.detail}"
            )
        )
    compiled = findings and all(finding.check == "static" for finding in findings)
    echo(f"gate: {summary(findings)}{' (compiled, nothing was timed)' if compiled else ''}")
    for line in write_outputs(findings, paths):
        click.echo(line, err=is_json())  # The commands that we mean; `to_annotations` minds what is in them.
    if is_json():
        echo_json(to_json(findings))
    return exit_code(findings)


def _pin(files: Files, workers: int | None, sources: Sources | None) -> int:
    from fusetune.cli.progress import make_progress
    from fusetune.gate.static import pin

    code = 0
    told = []
    for pinned in pin(files, make_progress(), workers=workers, sources=sources):
        told.append({"path": str(pinned.path), "pinned": pinned.count, "refused": [*pinned.refused]})
        echo(printable(f"Pinned {pinned.count} config{'' if pinned.count == 1 else 's'} in {pinned.path}"))
        for refused in pinned.refused:
            echo(printable(f"NOT PINNED   {refused}"))
            code = EXIT_REGRESSION
    if is_json():
        echo_json(json.dumps({"exit_code": code, "pins": told}, indent=2))
    return code


def _static(files: Files, workers: int | None, sources: Sources | None) -> list[Finding]:
    from fusetune.cli.progress import make_progress
    from fusetune.gate.static import static_gate

    return static_gate(files, make_progress(), workers=workers, sources=sources)


def _replayed(run: str) -> Finding:
    from fusetune.gate.recording import GATES_FOLDER
    from fusetune.gate.replayed import gate_from

    named = Path(run)
    journal = named if is_regular(named) else find_run(run, [runs_dir(), runs_dir() / GATES_FOLDER])
    if journal is None:
        raise UsageError(f"--from {brief(run)}: there is no such journal, and no such run in {brief(runs_dir())}")
    return gate_from(journal)


def _live(
    files: Files,
    against: str | None,
    on_mismatch: str,
    budget: float | None,
    workers: int | None,
    sources: Sources | None,
    programs: Sequence[str],
    vouched: Sequence[str],
) -> list[Finding]:
    from fusetune.cli.progress import make_progress
    from fusetune.measure.nvml import gpu_present

    progress = make_progress()
    if not gpu_present():
        none = "there is no NVIDIA GPU here to measure on"
        if on_mismatch == "static":
            progress.warn(f"{none}: the configs are only compiled")
            return _static(files, workers, sources)
        if on_mismatch == "skip":
            from fusetune.gate.live import not_gated

            return [not_gated(path, file, entry, f"skipped: {none}") for path, file in files for entry in file.entries]
        raise NoUsableGpuError(f"{none}; `fusetune gate --static` checks without one")

    from fusetune.cli.replaying import for_another_gpu, refuse_idle, replays_of
    from fusetune.cli.scratch import scratch_folder
    from fusetune.gate.live import LiveOptions, live_gate
    from fusetune.measure.cuda import CudaMeasurer

    refuse_idle(files, programs)
    elsewhere = for_another_gpu(files)
    here = [(path, file) for path, file in files if path not in elsewhere]
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("against"))
        replays, name = stack.enter_context(replays_of(here, sources, programs, vouched, against, folder))
        options = LiveOptions(
            on_mismatch=on_mismatch,  # type: ignore[arg-type]  # click.Choice
            budget_s=budget,
            against=stack.enter_context(_revision(here, against, name, folder)),
            journals=runs_dir(),
            workers=workers,
            sources=sources,
            replays=replays,
            elsewhere=elsewhere,
        )
        return live_gate(files, CudaMeasurer, progress, options)


@contextmanager
def _revision(files: Files, against: str | None, name: str | None, folder: Path) -> Iterator[Against | None]:
    """The other revision: of ops, of kernels of programs where it has a `name` for these, or of both."""
    if against is None:
        yield None
        return
    from fusetune.gate.against import Revision
    from fusetune.gate.source_revision import SourceRevision
    from fusetune.gate.sources import is_captured

    if all(is_captured(file) for _, file in files):
        yield SourceRevision(name or against)
        return
    with Revision(against, folder) as revision:
        yield revision if name is None else SourceRevision(name, revision)


def _read(paths: Sequence[Path]) -> Files:
    """The files named, and those in the folders named. Raises ConfigFileError, and UsageError where there is none."""
    from fusetune.runtime.believed import read_believed_file

    found: list[Path] = []
    for path in paths or _default_folders():
        if is_folder(path):
            found += config_files(path)
        elif _is_named(path):
            found.append(path)
        else:
            raise UsageError(f"{brief(path)}: no such file or folder")
    if not found:
        where = ", ".join(map(brief, paths)) or "./configs"
        raise UsageError(f"no tuned configs in {where}; `{example_command()}` writes one")
    return [(path, read_believed_file(path)) for path in found]


def _is_named(path: Path) -> bool:
    try:
        return is_there(path)
    except OSError as error:
        raise UsageError(f"cannot read {brief(path)}: {reason(error)}; name a file or folder") from error


def _default_folders() -> list[Path]:
    folder = search_path()[0]
    return [folder] if is_folder(folder) else []
