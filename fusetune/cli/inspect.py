"""`fusetune inspect`: what the compiler made of a config for a GPU that need not be here, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusetune.cli.completing import TARGETS
from fusetune.cli.helped import Helped
from fusetune.cli.options import config_of, problem_of, problem_options
from fusetune.cli.shared_options import workers_option
from fusetune.cli.shown import echo, echo_json, echo_laid_out, json_option
from fusetune.core.extras import need
from fusetune.core.space import SPACE_NAMES, SpaceName
from fusetune.core.target import DEFAULT_TARGET, Target, find_target
from fusetune.core.text import printable
from fusetune.errors import UsageError

if TYPE_CHECKING:
    from fusetune.core.config import Config
    from fusetune.core.problem import Problem
    from fusetune.ops.spec import KernelSpec


@click.command("inspect", cls=Helped)
@problem_options
@click.option(
    "--config",
    "config_text",
    metavar="CONFIG",
    help="A label as reports show it, such as 'BLOCK=1024 w4 s2', or what else the op reads: ours figures, as "
    "64,64,32,4,3 (the tile, warps, stages).  [default: BASELINE]",
)
@click.option(
    "--target",
    "target_name",
    metavar="NAME",
    shell_complete=TARGETS,
    default=DEFAULT_TARGET,
    show_default=True,
    help="The GPU.",
)
@click.option("--all", "whole_space", is_flag=True, help="A table over the space, with every rejection's reason.")
@click.option(
    "--space", type=click.Choice(SPACE_NAMES), default="standard", show_default=True, help="Which, for --all."
)
@click.option(
    "--compile",
    "compiled",
    metavar="COUNT",
    default="64",
    show_default=True,
    help="With --all: how many of the best by the model are compiled; all for all of them.",
)
@click.option("--top", type=click.IntRange(1), default=40, show_default=True, help="Rows of the table of --all.")
@workers_option
@click.option(
    "--ncu",
    "metrics_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A profile of this config: JSON {kernel: {metric: value}}, `ncu --csv --page raw`, or .ncu-rep.",
)
@json_option
@click.option("--ptx", is_flag=True, help="Print the PTX of its kernels, and nothing else.")
@click.option("--sass", is_flag=True, help="Print the machine code of its kernels, and nothing else.")
def inspect(
    *,
    config_text: str | None,
    target_name: str,
    whole_space: bool,
    space: SpaceName,
    compiled: str,
    top: int,
    workers: int | None,
    metrics_file: Path | None,
    as_json: bool,
    ptx: bool,
    sass: bool,
    **given: Any,
) -> None:
    """Compile a config for a GPU and report what follows: resources, occupancy, traffic, rules, a predicted time.

    Needs no GPU; nothing is run, and every time is predicted. With --ncu a profile is joined with the compile facts,
    and a sentence says what limits the kernel.
    """
    if whole_space:
        need("tune", "`fusetune inspect --all`")
    target = find_target(target_name)
    _refuse_mixtures(whole_space, config_text, metrics_file, as_json=as_json, code=ptx or sass)
    spec, problem = problem_of(given)
    config = config_of(spec, problem, config_text, target)
    if whole_space:
        _show_space(spec, problem, target, space, _count(compiled), top, workers, as_json=as_json)
        return
    if ptx or sass:
        _show_code(spec, problem, config, target, ptx=ptx, sass=sass)
        return

    from fusetune.compiler.inspect import diagnoses, inspect_config
    from fusetune.report.inspection import diagnosis_text, to_builtins, to_text
    from fusetune.store.ncu_files import read_metrics

    metrics = read_metrics(metrics_file) if metrics_file else None
    found = inspect_config(spec, problem, config, target)
    answers = diagnoses(found, metrics) if metrics else ()
    if as_json:
        echo_json(json.dumps(to_builtins(found, answers), indent=1))
        return
    echo(to_text(found), nl=False)
    if answers:
        echo(f"\nby the profile {printable(str(metrics_file))}\n{diagnosis_text(answers)}", nl=False)


def _refuse_mixtures(
    whole_space: bool, config_text: str | None, metrics_file: Path | None, *, as_json: bool, code: bool
) -> None:
    if whole_space and (config_text or metrics_file or code):
        raise UsageError("--all is about the whole space: leave out --config, --ncu, --ptx and --sass")
    if code and (as_json or metrics_file):
        raise UsageError("--ptx and --sass print code alone: leave out --json and --ncu")


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise UsageError(f"--compile {text!r}: give a number of configs, or all")
    return int(text)


def _show_code(spec: KernelSpec, problem: Problem, config: Config, target: Target, *, ptx: bool, sass: bool) -> None:
    from fusetune.compiler.facts import kernel_facts

    for kernel in kernel_facts(spec, problem, config, target):
        for wanted, code in ((ptx, kernel.ptx), (sass, kernel.sass)):
            if wanted:
                echo_laid_out(code.rstrip("\n"), nl=True)


def _show_space(
    spec: KernelSpec,
    problem: Problem,
    target: Target,
    space: SpaceName,
    compiled: int | None,
    top: int,
    workers: int | None,
    *,
    as_json: bool,
) -> None:
    from fusetune.cli.progress import make_progress
    from fusetune.compiler.inspect import inspect_space
    from fusetune.core.progress import SilentProgress
    from fusetune.report.inspection import space_builtins, space_text

    progress = SilentProgress() if as_json else make_progress()
    rows = inspect_space(spec, problem, target, progress, space=space, compiled=compiled, workers=workers)
    if as_json:
        echo_json(json.dumps(space_builtins(rows), indent=1))
    else:
        echo(space_text(rows, target, top), nl=False)
