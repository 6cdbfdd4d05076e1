"""`fusetune tune`: somebody's program as it is, each kernel of it to a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusetune.cli.fleet_cases import tune_on_fleet
from fusetune.cli.fleet_options import FleetChoice, fleet_of_program, fleet_options, opened_fleet
from fusetune.cli.needed import needs
from fusetune.cli.program_options import CONTEXT, OfAProgram, program_options, quota_option
from fusetune.cli.shared_options import exclusive_option, fresh_option, min_gain_option, seed_option, workers_option
from fusetune.cli.shown import echo, echo_console, echo_json, json_option
from fusetune.cli.tuned_code import Code, check_program, code_of, code_options, hand_out, outputs_of
from fusetune.core.decision import KeepRule
from fusetune.core.space import SPACE_NAMES
from fusetune.core.target import DEFAULT_TARGET, Target, find_target
from fusetune.core.text import printable
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_PROGRAM, EXIT_USAGE, EXIT_WRONG_RESULT, UsageError
from fusetune.store.paths import runs_dir

if TYPE_CHECKING:
    from fusetune.capture.cases import Case, Looked
    from fusetune.capture.programs import Program
    from fusetune.capture.spec import CapturedSpec
    from fusetune.cli.explaining import Explainer
    from fusetune.cli.program_check import ProgramCheck
    from fusetune.compiler.processes import CompileProcesses
    from fusetune.fleet.run import Fleet
    from fusetune.measure.fork_server import ForkServer
    from fusetune.tune.program import Tuned
    from fusetune.tune.request import CacheMode, SpaceChoice, SweepRequest, SweepResult

CANDIDATE_LIMIT_S = 5.0
"""Of one check or sample: a foreign kernel may hang for good, and each that does costs so long."""

VOUCHED = "; --vouch: what differs from run to run is not compared"

CAPTURES_NEED = ("torch", "fusetune.capture.spec")
"""To compile a capture. Triton asks torch about the arguments of a launch, and loading it takes seconds."""


@click.command("tune", cls=OfAProgram, context_settings=CONTEXT)
@program_options
@fleet_options
@click.option(
    "--space",
    type=click.Choice([*SPACE_NAMES, "rules"]),
    help="standard: what lies around Before, and around what wins; full: every combination; rules: what the "
    "conditional rules leave to try, three at most.  [default: standard; without a GPU, rules]",
)
@click.option(
    "--ncu",
    "metrics_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A profile of the program's kernels, to say what limits them: JSON {kernel: {metric: value}}, `ncu --csv "
    "--page raw`, or .ncu-rep.",
)
@click.option("--num-ctas", "ctas", is_flag=True, help="Vary the CTAs of a cluster, too.")
@click.option("--maxnreg", is_flag=True, help="Vary the most registers of a thread, too.")
@click.option(
    "--budget",
    "budget_s",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Begin no further candidates of a kernel's heaviest case after so long; its others take a few seconds.",
)
@click.option("--bit-exact", is_flag=True, help="A result has to be Before's bit for bit.")
@click.option(
    "--vouch",
    "vouched",
    metavar="GLOB",
    multiple=True,
    help="Of kernels of this name, as *dropout*, keep what is faster though what they give differs from run to run and "
    "cannot be compared. You answer for it.",
)
@click.option("--rtol", type=click.FloatRange(0), help="A result may be so far off, as in torch.allclose.")
@click.option("--atol", type=click.FloatRange(0), help="Beside --rtol.  [default: by the dtype]")
@min_gain_option
@click.option(
    "--cache", type=click.Choice(["cold", "warm"]), default="cold", show_default=True, help="L2 before a launch."
)
@seed_option
@fresh_option
@exclusive_option
@workers_option
@click.option("--exact", is_flag=True, help="Keep large floating-point inputs bit for bit, not by their distribution.")
@quota_option("Keep at most this of what launches are given")
@click.option(
    "--no-program-check", is_flag=True, help="Do not run the program again with what was kept, for its result and time."
)
@click.option("--keep", is_flag=True, help="Leave the captures on disk; see `fusetune capture --list`.")
@code_options
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the journals.  [default: $FUSETUNE_RUNS or .fusetune/runs]",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one page on the program to FILE, which needs no network, and one a run into a folder beside it.",
)
@json_option
@needs("tune")
@click.pass_context
def tune(
    ctx: click.Context,
    /,
    *,
    program: tuple[str, ...],
    module: str | None,
    expression: str | None,
    reference: Path | None,
    kernel: str | None,
    top: int | None,
    share: float,
    target_name: str | None,
    limit_s: float | None,
    gpus: str | None,
    scheduler: str | None,
    dask_config: Path | None,
    space: SpaceChoice | None,
    metrics_file: Path | None,
    ctas: bool,
    maxnreg: bool,
    budget_s: float,
    bit_exact: bool,
    vouched: tuple[str, ...],
    rtol: float | None,
    atol: float | None,
    min_gain: float,
    cache: CacheMode,
    seed: int,
    fresh: bool,
    exclusive: bool,
    workers: int | None,
    exact: bool,
    quota_bytes: int | None,
    no_program_check: bool,
    keep: bool,
    output: Path | None,
    configs: Path | None,
    diff: bool,
    apply: bool,
    autotune: bool,
    lookup: bool,
    source_budget_s: float,
    per_kernel: bool,
    runs: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Tune the Triton kernels that a program launches, without an edit or a spec.

    The program runs once, and its launches are kept with their arguments. Each is launched again with other warps,
    stages and tiles: a config stays only if its result is Before's, and it is surely at least 2 % faster than what runs
    today and than 4 warps / 2 stages. Then the program runs again, as it is and with what was kept: it has the last
    word. The outcome goes to YAML, with pins for `fusetune gate`; nothing of the program is written to without --apply.

    PROGRAM is a script with its arguments, `package.module:function` with --args, or a file with ModelNew beside a
    reference; -m runs a module. Without a GPU its kernels are compiled for --target, and the answer is a prediction.

    Exit code 6 where the program fails by itself; 3 where there is no verdict, or no last word; 5 where what it runs is
    wrong, or the module of -o is.
    """
    from fusetune.capture.look import look
    from fusetune.capture.programs import parse_program
    from fusetune.cli.explaining import Explainer
    from fusetune.compiler.processes import CompileProcesses
    from fusetune.measure import libraries

    began = time.monotonic()
    _check_tolerances(bit_exact, rtol, atol)
    parsed = parse_program([*(["-m", module] if module else []), *program], args=expression, reference=reference)
    outputs = outputs_of(
        output, configs, diff=diff, apply=apply, autotune=autotune, per_kernel=per_kernel, lookup=lookup
    )
    check_program(outputs, parsed, html)
    choice = fleet_of_program(gpus, scheduler, dask_config, target=target_name)
    target = _target(target_name)
    explainer = Explainer(metrics_file, target)
    with ExitStack() as stack:
        # They load torch while the program runs, and serve all its cases.
        fleet = _lent(stack, choice, runs or runs_dir(), workers)
        server = None if target or fleet else stack.enter_context(closing(libraries.start_server()))
        processes = stack.enter_context(CompileProcesses(workers, loads=CAPTURES_NEED))
        processes.begin_to_load()
        from fusetune.capture.captures import kept_run
        from fusetune.capture.child import QUOTA_BYTES

        folder = stack.enter_context(kept_run(remove=not keep))
        looked = look(
            parsed,
            target=target.name if target else None,
            limit_s=limit_s,
            keep=folder,
            exact=exact,
            quota_bytes=QUOTA_BYTES if quota_bytes is None else quota_bytes,
        )
        from fusetune.capture.oracle import Strictness
        from fusetune.report.captured import selected
        from fusetune.tune.program import budget_of, winners_of, worth_tuning
        from fusetune.tune.request import SweepRequest

        more = frozenset({*(["num_ctas"] if ctas else []), *(["maxnreg"] if maxnreg else [])})
        tuned: list[Tuned] = []

        def request(spec: CapturedSpec) -> SweepRequest:
            seen = spec.kept.case.kernel
            spec.strictness, spec.more = Strictness(bit_exact, rtol, atol, _is_of(seen.name, vouched)), more
            spec.also = winners_of(tuned, seen)
            return SweepRequest(
                spec=spec,
                problem=spec.captured_problem(),
                output=outputs.configs,
                runs=runs or runs_dir(),
                space=space or ("rules" if target else "standard"),
                rule=KeepRule(min_gain=min_gain),
                cache=cache,
                seed=seed,
                workers=workers,
                processes=None if fleet else processes,
                fresh=fresh,
                exclusive=exclusive,
                budget_s=budget_of(tuned, seen, budget_s),
            )

        cases = worth_tuning(selected(looked, kernel=kernel, top=top, share=share), share)
        explainer.match(cases, looked)
        run = None if fleet else _running(server, target)
        _tune_all(cases, tuned, request, explainer, run, vouched, on=(fleet, looked.gpu))
        from fusetune.cli.program_check import run_again, why_not_asked
        from fusetune.cli.source_check import question_of
        from fusetune.tune.again import all_asked

        before = stack.enter_context(all_asked())
        tuned, checked = run_again(
            parsed,
            tuned,
            why_not=why_not_asked(on_gpu=target is None, wanted=not no_program_check, failed=looked.failed),
            limit_s=limit_s,
            before=before,
        )
        _pin(tuned, processes)
        code = Code(None, None)
        if outputs.any and not looked.failed:  # Whoever changes a program has to have seen it run.
            question = question_of(
                tuned,
                on_gpu=target is None,
                wanted=not no_program_check,
                least_gain=None if per_kernel else min_gain,
                limit_s=limit_s,
                budget_s=source_budget_s,
                min_gain=min_gain,
            )
            code = code_of(
                outputs,
                parsed,
                tuned,
                looked,
                question,
                compared=target is not None or checked.says_right(parsed),
                before=before,
            )
        _show(
            looked,
            cases,
            tuned,
            checked,
            code,
            _words(module, program),
            time.monotonic() - began,
            outputs.configs,
            as_json=as_json,
            page=(html, parsed) if html is not None else None,
        )
    hand_out(outputs, parsed, tuned, looked, code, quiet=as_json)
    ctx.exit(exit_code(looked, tuned, checked, code))


def _lent(stack: ExitStack, choice: FleetChoice | None, runs: Path, workers: int | None) -> Fleet | None:
    """The fleet, where one is asked for; it loads while the program runs, and goes with the stack."""
    if choice is None:
        return None
    opened = opened_fleet(choice, runs, workers=workers, limit_s=CANDIDATE_LIMIT_S, captures=True)
    return stack.enter_context(opened)


def _tune_all(
    cases: Sequence[Case],
    tuned: list[Tuned],
    request: Callable[[CapturedSpec], SweepRequest],
    explainer: Explainer,
    run: Callable[[SweepRequest], SweepResult] | None,
    vouched: Sequence[str],
    *,
    on: tuple[Fleet | None, str | None],
) -> None:
    """Tune the cases into `tuned`, in which a later one finds what was kept for earlier ones.

    One after another by `run`; without one, on a fleet's GPUs of the model that is named.
    """
    from fusetune.tune.program import tune_case

    fleet, gpu = on
    if run is None:
        assert fleet is not None, "where there is no way to run one, there is a fleet"
        tune_on_fleet(fleet, cases, tuned, request, explainer, gpu)
        return
    for number, case in enumerate(cases, start=1):
        echo(printable(f"[{number}/{len(cases)}] {_begun(case, vouched)}"), err=True)
        tuned.append(explainer.told(number, tune_case(case, request, explainer.running(number, run))))


def _begun(case: Case, vouched: Sequence[str]) -> str:
    """The case that is tuned now, and that its user answers for it."""
    return f"{case.kernel.name}  {case.config_text()}{VOUCHED if _is_of(case.kernel.name, vouched) else ''}"


def _check_tolerances(bit_exact: bool, rtol: float | None, atol: float | None) -> None:
    if bit_exact and not (rtol is None and atol is None):
        other = "--rtol" if rtol is not None else "--atol"
        raise UsageError(
            f"--bit-exact lets no bit differ, and {other} says how far a result may be off; give one of them"
        )


def _is_of(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _pin(tuned: Sequence[Tuned], processes: CompileProcesses) -> None:
    from fusetune.cli.tuned_pins import pin_all

    pin_all(tuned, processes)
    processes.end()  # While the outcome is shown.


def _target(name: str | None) -> Target | None:
    """What is predicted for: the GPU of this name, or where there is none here the default one; else None."""
    from fusetune.measure import nvml

    if name is None and not nvml.gpu_present():
        name = DEFAULT_TARGET
    return find_target(name) if name else None


def _running(server: ForkServer | None, target: Target | None) -> Callable[[SweepRequest], SweepResult]:
    return _measured(server) if server else _predicted(target or find_target(DEFAULT_TARGET))


def _measured(server: ForkServer) -> Callable[[SweepRequest], SweepResult]:
    from fusetune.cli.progress import make_progress
    from fusetune.measure.cuda import CudaMeasurer
    from fusetune.tune.sweep import sweep

    def run(request: SweepRequest) -> SweepResult:
        measurer = CudaMeasurer(
            request.spec,
            request.problem,
            cold=request.cache == "cold",
            time_limit_s=CANDIDATE_LIMIT_S,
            server=server,
        )
        with closing(measurer):
            return sweep(request, measurer, make_progress())

    return run


def _predicted(target: Target) -> Callable[[SweepRequest], SweepResult]:
    from fusetune.cli.progress import make_progress
    from fusetune.tune.predict import predict

    return lambda request: predict(request, target, make_progress())


def _words(module: str | None, program: Sequence[str]) -> str:
    return " ".join([*(["-m", module] if module else []), *program])


def _show(
    looked: Looked,
    cases: Sequence[Case],
    tuned: Sequence[Tuned],
    checked: ProgramCheck,
    code: Code,
    program: str,
    seconds: float,
    output: Path,
    *,
    as_json: bool,
    page: tuple[Path, Program] | None = None,
) -> None:
    from fusetune.cli.tuned import explanations_of, notes_of, sentences_on, table_of_tuned, to_builtins
    from fusetune.report.captured import besides, notes_on

    if as_json:
        import json

        gpu = looked.gpu or looked.compiled_for
        made: dict[str, Any] = to_builtins(program, gpu, seconds, tuned)
        told = {
            **made,
            "program_check": checked.to_builtins(),
            "source_check": code.to_builtins(),
            "source_trials": code.trials.to_builtins() if code.trials is not None else None,
            "not_written_back": [{"file": one.file, "line": one.line, "why": one.text} for one in code.findings()],
            "diff": code.diff(),
            "notes": besides(looked, cases),
            "failed": looked.failed,
        }
        echo_json(json.dumps(told, indent=1))
    else:
        from rich.console import Console

        if tuned:
            echo_console(Console(), lambda console: console.print(table_of_tuned(tuned)))
        for line in explanations_of(tuned):
            echo(line)
        beside = [*besides(looked, cases), *notes_on(cases), *notes_of(tuned)]
        for line in [*sentences_on(tuned), *checked.lines(), *code.lines(), *beside]:
            echo(printable(line))
        files = sorted({str(one.result.file) for one in tuned if one.result is not None and one.result.file})
        if files:
            echo(f"Wrote {', '.join(files)}, with pins; `fusetune report --configs {output}` shows them")
    if page is not None:
        from fusetune.cli.tuned_page import Outcome, write_program_page

        if write_program_page(*page, seconds, Outcome(looked, cases, tuned, checked, code, output)):
            echo(printable(f"Wrote {page[0]}"), err=as_json)
    if looked.failed:
        echo(printable(f"The program failed by itself: {looked.failed}"), err=True)


def exit_code(looked: Looked, tuned: Sequence[Tuned], checked: ProgramCheck, code: Code) -> int:
    """What the command ends with, by what became of the program, of its cases and of what is given out."""
    if looked.failed:
        return EXIT_PROGRAM
    failed = {one.ended_by for one in tuned if one.end == "failed"}
    if failed & {"wrong_result", "not_compiled"} or code.is_unlike:
        return EXIT_WRONG_RESULT
    if "usage" in failed:
        return EXIT_USAGE
    # Trouble of the machine says nothing of a case, and lets the program have no last word.
    no_verdict = failed or any(one.end == "inconclusive" for one in tuned) or checked.troubled or code.is_refused
    return EXIT_INCONCLUSIVE if no_verdict else EXIT_OK
