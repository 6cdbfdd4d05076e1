"""`fusetune doctor`: whether this machine is fit to tune on, and how the installed ops do on its GPU."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fusetune.cli.helped import Helped
from fusetune.cli.needed import needs
from fusetune.cli.shared_options import seed_option, workers_option
from fusetune.cli.shown import echo, echo_console, echo_json, json_option
from fusetune.core.text import printable, slugify
from fusetune.errors import EXIT_NO_GPU, UsageError

if TYPE_CHECKING:
    from fusetune.compiler.processes import CompileProcesses
    from fusetune.doctor.findings import Found
    from fusetune.doctor.visit import Here, Visit
    from fusetune.measure.fork_server import ForkServer
    from fusetune.store.doctor_file import DoctorFile

LIMIT_S: Final = 600.0


@click.command("doctor", cls=Helped)
@click.option("--kernels", is_flag=True, help="Also launch the installed ops, and write a file that can be shared.")
@click.option("--op", "ops", metavar="NAME", multiple=True, help="Of --kernels: this op alone; may be given again.")
@click.option(
    "--limit",
    "limit_s",
    metavar="SECONDS",
    type=click.FloatRange(1),
    default=LIMIT_S,
    show_default=True,
    help="Of --kernels: begin nothing that would not end by then; the file says what was not reached.",
)
@seed_option
@workers_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of --kernels: the file.  [default: doctor-<gpu>.json]",
)
@json_option
@needs("tune")
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    kernels: bool,
    ops: tuple[str, ...],
    limit_s: float,
    seed: int,
    workers: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say whether this machine is fit to tune on, and what to do where it is not.

    Driver, torch, Triton and its compilers, folders, other processes, clocks, power, memory, the event clock, and how
    quiet a short and a long launch are against themselves. Nothing is changed. With --kernels, every variant of the
    installed ops is held against float64 on this GPU, the shipped entries for it are timed beside BASELINE and beside
    their predictions, and all goes to one file without anything personal, which `fusetune report --doctor FILE` shows.

    Exit code 0: fit. 3: noisy, or something keeps runs from their end. 4: no usable GPU. 5: a kernel gave wrong
    results.
    """
    if not kernels and (ops or output is not None):
        raise UsageError(f"{'--op' if ops else '-o'} belongs to --kernels; give that too")
    if output is not None:
        _refuse_unwritable(output)
    from fusetune.compiler.processes import CompileProcesses
    from fusetune.measure import libraries, nvml
    from fusetune.ops.built_in import spec_modules

    with ExitStack() as stack:
        has_gpu = nvml.gpu_present()
        server = stack.enter_context(closing(libraries.start_server())) if has_gpu else None
        processes = stack.enter_context(CompileProcesses(workers, loads=spec_modules()))
        processes.begin_to_load()
        from fusetune.cli.progress import make_progress
        from fusetune.doctor.visit import Visit, Wish

        here = _here(server, processes)
        wish = Wish(_wanted_ops(ops) if kernels else (), limit_s if kernels else None, seed)
        saving = _Saving(output if kernels else None)
        save = saving if kernels else _ignore
        visit = Visit(here, wish, make_progress(), save, _ignore if as_json else _tell)
        try:
            visit.make()
        except (KeyboardInterrupt, SystemExit):
            if saving.path is not None:
                echo(printable(f"What was measured until now is in {saving.path}."), err=True)
            raise
    _show(visit, as_json=as_json)
    if saving.path is not None:
        echo(printable(f"Wrote {saving.path}: `fusetune report --doctor {saving.path}` shows it"), err=as_json)
    elif kernels and visit.exit_code == EXIT_NO_GPU:
        echo("No file was written: there is nothing to measure on.", err=True)
    ctx.exit(visit.exit_code)


class _Saving:
    """Writes the file whole each time that there is more of it, once it is known of which GPU it is."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self.path: Path | None = None

    def __call__(self, file: DoctorFile) -> None:
        if file.gpu is None:
            return
        from fusetune.report.files import write_whole
        from fusetune.store.doctor_file import doctor_text

        path = self._output or Path(f"doctor-{slugify(file.gpu.name) or 'gpu'}.json")
        write_whole(path, doctor_text(file))
        self.path = path


def _here(server: ForkServer | None, processes: CompileProcesses) -> Here:
    """The machine itself."""
    from fusetune.doctor.software import host_here
    from fusetune.doctor.visit import Here
    from fusetune.measure.condition import condition_of
    from fusetune.measure.cuda import CudaMeasurer
    from fusetune.measure.nvml import Monitor
    from fusetune.report.machine import machine_here

    return Here(
        machine=machine_here(),
        host=host_here(),
        has_gpu=server is not None,
        measurer_for=lambda spec, problem: CudaMeasurer(spec, problem, server=server),
        condition=lambda facts: condition_of(Monitor(facts.uuid or "")),
        processes=processes,
    )


def _wanted_ops(ops: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the ops that were asked for, or of all that are installed. Raises UsageError where one is not."""
    from fusetune.cli.options import named_op
    from fusetune.ops.loading import installed_ops

    return tuple(dict.fromkeys(named_op(op).name for op in ops)) or installed_ops()


def _refuse_unwritable(output: Path) -> None:
    """Raise UsageError at once, not after minutes of work, where the file could not be written."""
    folder = output.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"-o {output}: {folder} is not a folder that you may write to; choose another")


def _tell(one: Found) -> None:
    """Print a finding, and what of it is for this user's screen alone."""
    from fusetune.report.doctor import finding_lines

    echo("\n".join(printable(line) for line in finding_lines(one.finding, one.private)))


def _ignore(_: object) -> None:
    """Nobody wants it."""


def _show(visit: Visit, *, as_json: bool) -> None:
    if as_json:
        from fusetune.store.doctor_file import doctor_text

        echo_json(doctor_text(visit.file))
        return
    from rich.console import Console

    from fusetune.report.doctor import render_kernels, verdict_line

    echo("")
    if visit.file.kernels or visit.file.not_reached:
        echo_console(Console(), lambda console: render_kernels(visit.file, console))
    echo(verdict_line([one.finding for one in visit.found]))
