"""`fusetune sweep`: tune one problem on the GPU here, or predict for one that is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fusetune.cli.fleet import sweep_on_fleet
from fusetune.cli.fleet_options import fleet_choice, fleet_options, opened_fleet
from fusetune.cli.helped import Helped
from fusetune.cli.options import named_op, naming_options, problem_options, problem_with, values_of
from fusetune.cli.shown import echo
from fusetune.core.decision import KeepRule, reason_text
from fusetune.core.space import SPACE_NAMES
from fusetune.core.target import DEFAULT_TARGET, Target, find_target
from fusetune.core.text import slugify
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, FusetuneError, UsageError
from fusetune.ops.built_in import named_values
from fusetune.ops.types import types_of
from fusetune.store.paths import runs_dir
from fusetune.store.shapes import Shape, optional_names, read_shapes
from fusetune.units import format_gain, format_interval, format_speedup, format_us

if TYPE_CHECKING:
    from fusetune.core.problem import Problem
    from fusetune.measure.fork_server import ForkServer
    from fusetune.ops.spec import KernelSpec
    from fusetune.tune.request import CacheMode, SpaceChoice, SweepRequest, SweepResult


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
    help=f"Predict for this GPU, without timing.  [default: the GPU here; without one, {DEFAULT_TARGET}]",
)
@click.option(
    "--min-gain",
    type=click.FloatRange(0, 1, max_open=True),
    default=KeepRule().min_gain,
    show_default=True,
    help="Keep a config only if it is surely this share faster.",
)
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
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of inputs and order.")
@click.option("--fresh", is_flag=True, help="Measure everything again, whatever earlier runs found out.")
@click.option(
    "--prior",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="Whether to leave out what the cost model predicts to be far slower than its best.",
)
@click.option("--allow-library", is_flag=True, help="Let a library win, which is timed in any case if there is one.")
@click.option("--exclusive", is_flag=True, help="Fail where another process uses the GPU, instead of warning.")
@click.option(
    "--lock-clocks",
    "lock_mhz",
    metavar="MHZ",
    type=click.IntRange(1),
    help="Hold the SM clock here while measuring, if the driver permits; it is reset on every exit.",
)
@click.option("--workers", type=click.IntRange(1), help="Compilations at once.  [default: one a core]")
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
    **given: Any,
) -> None:
    """Find the best launch configuration of an op for one problem, or for each of a list.

    On a GPU, candidates are compiled, checked, timed and confirmed in paired blocks; one is kept only if it is surely
    at least 2 % faster than the 4-warp / 2-stage baseline. Without a GPU, they are compiled for --target and ranked
    by a cost model; the entry then says `predicted`, and nothing is timed. Either way the outcome goes to YAML.

    A sweep that was killed goes on where it stopped when the same command is given again. After a larger --space, only
    the new candidates are measured; decisions always rest on fresh blocks.

    --shapes sweeps a list of problems, one after another, or with --gpus as many at once as there are GPUs; its
    mistakes are told before the first one begins.

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
    from fusetune.ops.importing import make_importable

    make_importable(op)
    with ExitStack() as stack:
        # First of all, before triton is loaded: it is these processes that everything waits for.
        opened = opened_fleet(choice, runs or runs_dir(), workers=workers) if choice is not None else None
        fleet = stack.enter_context(opened) if opened is not None else None
        measured = fleet is None and target is None and nvml.gpu_present()
        server = stack.enter_context(closing(libraries.start_server())) if measured else None
        processes = stack.enter_context(CompileProcesses(workers))
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
            one: Callable[[SweepRequest], int] = _Measured(server)
        else:
            why = f"--target {target_name} was given" if target else "there is no NVIDIA GPU here"
            one = _Predicted(target or find_target(DEFAULT_TARGET), why)
        ctx.exit(one(requests[0]) if shapes is None else _sweep_list(requests, asked, one, shapes))


def _sweep_list(
    requests: Sequence[SweepRequest], asked: Sequence[Shape], one: Callable[[SweepRequest], int], shapes: Path
) -> int:
    """Sweep one after another; one that fails is told and does not end the others. The first failure's exit code."""
    failed: list[tuple[str, int]] = []
    for number, (request, shape) in enumerate(zip(requests, asked, strict=True), start=1):
        echo(f"\n[{number}/{len(requests)}] {request.spec.name}  {request.problem.describe()}")
        try:
            code = one(request)
        except FusetuneError as error:
            echo(f"Error: {shapes}, {shape.place}: {error}", err=True)
            code = error.exit_code
        if code != EXIT_OK:
            failed.append((shape.place, code))
    echo(f"\n{len(requests) - len(failed)} of {len(requests)} problems of {shapes} done.")
    for place, code in failed:
        echo(f"  {place}: exit code {code}")
    return failed[0][1] if failed else EXIT_OK


class _Measured:
    """Sweeps on the GPU here, in processes of one server."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server

    def __call__(self, request: SweepRequest) -> int:
        return _measure(request, self._server)


class _Predicted:
    """Sweeps that time nothing, for one target."""

    def __init__(self, target: Target, why: str) -> None:
        self._target, self._why = target, why

    def __call__(self, request: SweepRequest) -> int:
        return _predict(request, self._target, self._why)


def _measure(request: SweepRequest, server: ForkServer) -> int:
    from fusetune.cli.progress import make_progress
    from fusetune.measure.cuda import CudaMeasurer
    from fusetune.tune.sweep import sweep as run_sweep

    echo(f"{request.spec.name}  {request.problem.describe()}")
    measurer = CudaMeasurer(request.spec, request.problem, cold=request.cache == "cold", server=server)
    with closing(measurer):
        result = run_sweep(request, measurer, make_progress())
    _print_verdict(result)
    return EXIT_INCONCLUSIVE if result.entry.verdict == "inconclusive" else EXIT_OK


def _print_verdict(result: SweepResult) -> None:
    entry = result.entry
    assert entry.time_us is not None, "a measured entry has times"
    assert entry.gain is not None, "a measured entry has a gain"
    gain = entry.gain
    interval = format_interval(gain.low, gain.high)
    echo(f"\n{entry.verdict.upper()}: {entry.config.label()}  ({reason_text(entry.reason, entry.before)})")
    if entry.before is not None:
        echo(f"  Before          {format_us(entry.time_us.before)}, {entry.before.label()}")
    echo(f"  BASELINE        {format_us(entry.time_us.baseline)}")
    if entry.verdict == "keep":
        echo(f"  {entry.config.label():<15} {format_us(entry.time_us.config)}")
        echo(
            f"  gain            {format_gain(gain.median)} in {interval} at {gain.confidence * 100:g} %, "
            f"{format_speedup(gain.median)}, {gain.blocks} blocks"
        )
    else:
        needed = f"{gain.min_gain * 100:g} %"
        echo(f"  best candidate  {format_gain(gain.median)} in {interval}, where {needed} is needed")
    beside = entry.gain_over_baseline
    if beside is not None:
        echo(f"  over BASELINE: {format_gain(beside.median)} in {format_interval(beside.low, beside.high)}")
    over = entry.gain_over_conservative
    if over is not None:
        echo(
            f"  over {over.config.label()}, the fastest with 4 warps / 2 stages: {format_gain(over.median)} in "
            f"{format_interval(over.low, over.high)}"
        )
    library = entry.library_text()
    if library is not None:
        echo(f"  {library}")
    echo(f"Wrote {result.file} (run {result.run}, journal {result.journal})")


def _predict(request: SweepRequest, target: Target, why: str) -> int:
    from fusetune.cli.progress import make_progress
    from fusetune.tune.predict import predict

    echo(f"Predicting for {target.name}, because {why}: nothing will be timed.")
    echo(f"{request.spec.name}  {request.problem.describe()}")
    result = predict(request, target, make_progress())
    predicted = result.entry.predicted_us
    assert predicted is not None, "a predicted entry has predicted times"
    if result.has_model:
        echo("\nBest three by the cost model, from the resources of the compiled kernels:")
        of = "predicted"
    else:
        echo(f"\nFirst three by the resources of the compiled kernels; {request.spec.name} has no cost model:")
        of = "by the roofline"
    for place, ranked in enumerate(result.best, start=1):
        echo(f"  {place}. {ranked.config.label():<22} {of} {format_us(ranked.time_us)}")
    if result.entry.before is not None:
        echo(f"     Before {'':<15} {of} {format_us(predicted.before)}")
    echo(f"     BASELINE {'':<13} {of} {format_us(predicted.baseline)}")
    why = "By the keep rule on these predictions" if result.has_model else "Until a GPU has timed them"
    echo(f"{why}: {result.entry.config.label()}")
    if result.file is not None:
        echo(f"Wrote {result.file} (evidence: predicted, verdict: unverified; journal {result.journal})")
    elif result.kept_instead is not None:
        where = request.output / slugify(target.name)
        echo(
            f"{where} already holds a measured entry for this problem, {result.kept_instead.config.label()}; "
            "it stays, and the prediction was not written."
        )
    echo(f"Nothing was timed: run the same command on an {target.name} to measure and verify.")
    return EXIT_OK
