"""`fusetune sweep`: tune one problem on the GPU here, or predict for one that is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fusetune.cli.completing import TARGETS
from fusetune.cli.fleet import sweep_on_fleet
from fusetune.cli.fleet_options import fleet_choice, fleet_options, opened_fleet
from fusetune.cli.helped import Helped
from fusetune.cli.needed import needs
from fusetune.cli.options import named_op, naming_options, problem_options, problem_with, values_of
from fusetune.cli.shared_options import exclusive_option, fresh_option, min_gain_option, seed_option, workers_option
from fusetune.cli.shown import echo, json_option
from fusetune.cli.swept import Failed, Swept, print_prediction, print_verdict, tell_document
from fusetune.core.decision import KeepRule, reason_text
from fusetune.core.space import SPACE_NAMES
from fusetune.core.target import DEFAULT_TARGET, Target, find_target
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, FusetuneError, UsageError
from fusetune.ops.built_in import named_values
from fusetune.ops.types import types_of
from fusetune.store.paths import runs_dir
from fusetune.store.shapes import Shape, optional_names, read_shapes

if TYPE_CHECKING:
    from fusetune.core.problem import Problem
    from fusetune.measure.fork_server import ForkServer
    from fusetune.ops.spec import KernelSpec
    from fusetune.tune.request import CacheMode, SpaceChoice, SweepRequest

    _One = Callable[[SweepRequest], Swept]


@click.command("sweep", cls=Helped)
@problem_options
@click.option(
    "--shapes",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sweep a list of problems instead of one: rows of a YAML, JSON or CSV file, whose columns are named as the "
    "options are.",
)
@fleet_options
@click.option(
    "--space",
    type=click.Choice([*SPACE_NAMES, "rules"]),
    default="standard",
    show_default=True,
    help="Which candidates; rules: what the conditional rules propose for BASELINE as compiled, three at most.",
)
@click.option(
    "--target",
    "target_name",
    metavar="NAME",
    shell_complete=TARGETS,
    help=f"Predict for this GPU, without timing.  [default: the GPU here; without one, {DEFAULT_TARGET}]",
)
@min_gain_option
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=KeepRule().confidence,
    show_default=True,
    help="How sure, over all looks and finalists together.",
)
@click.option(
    "--cache",
    type=click.Choice(["cold", "warm"]),
    default="cold",
    show_default=True,
    help="Whether a launch finds its inputs in L2.",
)
@seed_option
@fresh_option
@click.option(
    "--prior",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="Whether to leave out what the cost model predicts to be far slower than its best.",
)
@click.option("--allow-library", is_flag=True, help="Let a library win, which is timed in any case if there is one.")
@exclusive_option
@click.option(
    "--lock-clocks",
    "lock_mhz",
    metavar="MHZ",
    type=click.IntRange(1),
    help="Hold the SM clock here while measuring, if the driver permits; it is reset on every exit.",
)
@workers_option
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("configs"),
    show_default=True,
    help="Folder for <gpu>/<op>.yaml.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the journal.  [default: $FUSETUNE_RUNS or .fusetune/runs]",
)
@json_option
@needs("tune")
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    *,
    op: str,
    shapes: Path | None,
    gpus: str | None,
    scheduler: str | None,
    dask_config: Path | None,
    space: SpaceChoice,
    target_name: str | None,
    min_gain: float,
    confidence: float,
    cache: CacheMode,
    seed: int,
    fresh: bool,
    prior: Literal["on", "off"],
    allow_library: bool,
    exclusive: bool,
    lock_mhz: int | None,
    workers: int | None,
    output: Path,
    runs: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the best launch configuration of an op for one problem, or for each of a list.

    On a GPU, candidates are compiled, checked, timed and confirmed in paired blocks; one is kept only if it is surely
    at least 2 % faster than the 4-warp / 2-stage baseline. Without a GPU, they are compiled for --target and ranked
    by a cost model; the entry then says `predicted`, and nothing is timed. Either way the outcome goes to YAML.

    A sweep that was killed goes on where it stopped when the same command is given again. After a larger --space, only
    the new candidates are measured; decisions always rest on fresh blocks.

    --shapes sweeps a list of problems, one after another, or with --gpus as many at once as there are GPUs; its
    mistakes are reported before the first one begins.

    Where the op names a library that computes the same, it is timed, too, and the result says which is faster; it is
    used only after --allow-library.
    """
    target = find_target(target_name) if target_name else None
    choice = fleet_choice(gpus, scheduler, dask_config, target=target_name)
    if choice is not None and shapes is None:
        raise UsageError("a fleet takes a list of problems: name one with --shapes, or leave its GPUs out")
    values = values_of(given)
    if shapes is None:
        if not values:
            sizes = ", ".join(f"--{value.name}" for value in named_values() if value.is_size)
            raise UsageError(f"{sizes} missing: give them, or --size, or a list of problems with --shapes")
        with naming_options():
            types_of(op).make(values)  # A mistake of a built-in op's is told before anything is started.
    else:
        sized = [name for name in values if name not in optional_names()]
        if sized:
            raise UsageError(f"--shapes lists the problems: leave out {', '.join(f'--{name}' for name in sized)}")
        read_shapes(shapes, op, values, lambda name, row: types_of(name).make(row))

    from fusetune.compiler.processes import CompileProcesses
    from fusetune.measure import libraries, nvml
    from fusetune.ops.built_in import spec_modules
    from fusetune.ops.importing import make_importable

    make_importable(op)
    with ExitStack() as stack:
        # First of all, before triton is loaded: it is these processes that everything waits for.
        opened = opened_fleet(choice, runs or runs_dir(), workers=workers) if choice is not None else None
        fleet = stack.enter_context(opened) if opened is not None else None
        measured = fleet is None and target is None and nvml.gpu_present()
        server = stack.enter_context(closing(libraries.start_server())) if measured else None
        processes = stack.enter_context(CompileProcesses(workers, loads=spec_modules()))
        if fleet is None:
            processes.begin_to_load()
        from fusetune.ops.loading import spec_named
        from fusetune.tune.request import SweepRequest

        # A list of problems names ops; a module to import comes from --op alone.
        specs: dict[str, KernelSpec] = {}

        def make(name: str, row: Mapping[str, Any]) -> Problem:
            if name not in specs:
                specs[name] = named_op(name) if name == op else spec_named(name)
            return problem_with(specs[name], row)

        if shapes is None:
            with naming_options():
                asked: tuple[Shape, ...] = (Shape(op, make(op, values), ""),)
        else:
            asked = read_shapes(shapes, op, values, make)
        requests = [
            SweepRequest(
                spec=specs[shape.op],
                problem=shape.problem,
                output=output,
                runs=runs or runs_dir(),
                space=space,
                rule=KeepRule(min_gain=min_gain, confidence=confidence),
                cache=cache,
                seed=seed,
                workers=workers,
                processes=processes if fleet is None else None,
                fresh=fresh,
                prior=prior == "on",
                allow_library=allow_library,
                exclusive=exclusive,
                lock_mhz=lock_mhz,
            )
            for shape in asked
        ]
        if fleet is not None and shapes is not None:
            ctx.exit(sweep_on_fleet(fleet, requests, asked, shapes))
        if server:
            one: _One = _Measured(server, alone=shapes is None)
        else:
            why = f"--target {target_name} was given" if target else "there is no NVIDIA GPU here"
            one = _Predicted(target or find_target(DEFAULT_TARGET), why)
        ctx.exit(_alone(requests[0], one) if shapes is None else _sweep_list(requests, asked, one, shapes))


def _alone(request: SweepRequest, one: _One) -> int:
    """Sweep one problem. The exit code; an error goes up."""
    swept = one(request)
    tell_document([swept], [], swept.exit_code)
    return swept.exit_code


def _sweep_list(requests: Sequence[SweepRequest], asked: Sequence[Shape], one: _One, shapes: Path) -> int:
    """Sweep one after another; one that fails is told and does not end the others. The first failure's exit code."""
    done: list[Swept] = []
    failed: list[Failed] = []
    for number, (request, shape) in enumerate(zip(requests, asked, strict=True), start=1):
        echo(f"\n[{number}/{len(requests)}] {request.spec.name}  {request.problem.describe()}")
        try:
            swept = one(request)
        except FusetuneError as error:
            echo(f"Error: {shapes}, {shape.place}: {error}", err=True)
            failed.append(Failed(shape.place, request, error.exit_code, str(error)))
        else:
            done.append(swept)
            if swept.exit_code != EXIT_OK:
                why = reason_text(swept.result.entry.reason, swept.result.entry.before)
                failed.append(Failed(shape.place, request, swept.exit_code, why))
    echo(f"\n{len(requests) - len(failed)} of {len(requests)} problems of {shapes} done.")
    for one_failed in failed:
        echo(f"  {one_failed.place}: exit code {one_failed.exit_code}")
    code = failed[0].exit_code if failed else EXIT_OK
    tell_document(done, failed, code)
    return code


class _Measured:
    """Sweeps on the GPU here, in processes of one server. `alone`: there is one, and none to compile for after it."""

    def __init__(self, server: ForkServer, *, alone: bool) -> None:
        self._server, self._alone = server, alone

    def __call__(self, request: SweepRequest) -> Swept:
        return _measure(request, self._server, alone=self._alone)


class _Predicted:
    """Sweeps that time nothing, for one target."""

    def __init__(self, target: Target, why: str) -> None:
        self._target, self._why = target, why

    def __call__(self, request: SweepRequest) -> Swept:
        return _predict(request, self._target, self._why)


def _measure(request: SweepRequest, server: ForkServer, *, alone: bool) -> Swept:
    from fusetune.cli.progress import make_progress
    from fusetune.measure.cuda import CudaMeasurer
    from fusetune.tune.sweep import sweep as run_sweep

    echo(f"{request.spec.name}  {request.problem.describe()}")
    measurer = CudaMeasurer(request.spec, request.problem, cold=request.cache == "cold", server=server)
    with closing(measurer):
        result = run_sweep(request, measurer, make_progress())
        if alone and request.processes is not None:
            request.processes.end()  # While the GPU is given back; others would have started anew.
    print_verdict(result)
    return Swept(request, result, EXIT_INCONCLUSIVE if result.entry.verdict == "inconclusive" else EXIT_OK)


def _predict(request: SweepRequest, target: Target, why: str) -> Swept:
    from fusetune.cli.progress import make_progress
    from fusetune.tune.predict import predict

    echo(f"Predicting for {target.name}, because {why}: nothing will be timed.")
    echo(f"{request.spec.name}  {request.problem.describe()}")
    result = predict(request, target, make_progress())
    print_prediction(result, request, target)
    return Swept(request, result, EXIT_OK)
