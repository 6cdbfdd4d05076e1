"""Options that several commands share: a problem of an op, and a GPU of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fusetune.core.config import BASELINE
from fusetune.core.problem import DTYPES, MODES, PRECISIONS

if TYPE_CHECKING:
    from fusetune.core.config import Config
    from fusetune.core.problem import Problem
    from fusetune.core.target import Target
    from fusetune.ops.spec import KernelSpec

F = TypeVar("F", bound=Callable[..., Any])

_PROBLEM = (
    click.option("--M", "rows", type=click.IntRange(1), required=True, help="Rows of x [M, K]."),
    click.option("--K", "depth", type=click.IntRange(1), required=True, help="Columns of x and of W [N, K]."),
    click.option("--N", "columns", type=click.IntRange(1), required=True, help="Rows of W, columns of y [M, N]."),
    click.option("--op", default="gemm_scale", show_default=True, help="The op, or module:attribute of a KernelSpec."),
    click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of x, W and y."),
    click.option("--mode", type=click.Choice(MODES), help="Training or evaluation, for an op that tells them apart."),
    click.option("--precision", type=click.Choice(PRECISIONS), help="How float32 is multiplied.  [default: tf32]"),
)


def problem_options(command: F) -> F:
    """Give a command --M, --K, --N, --op, --dtype, --mode and --precision."""
    for option in reversed(_PROBLEM):
        command = option(command)
    return command


def problem_of(given: dict[str, Any]) -> tuple[KernelSpec, Problem]:
    """The op and the problem that those options ask for; they are taken out of `given`.

    Raises UsageError where there is no such op, UnsupportedProblemError where it does not compute this.
    """
    from fusetune.core.problem import make_problem
    from fusetune.ops.spec import load_spec
    from fusetune.tune.plan import check_problem

    rows, depth, columns, op = (given.pop(name) for name in ("rows", "depth", "columns", "op"))
    dtype, mode, precision = (given.pop(name) for name in ("dtype", "mode", "precision"))
    problem = make_problem(rows, columns, depth, dtype, precision, mode)
    spec = load_spec(op)
    check_problem(spec, problem)
    return spec, problem


def config_of(text: str | None, spec: KernelSpec, problem: Problem, target: Target | None = None) -> Config:
    """The config that --config asks for, BASELINE where it is left out.

    Raises UsageError where it cannot be read, UnsupportedProblemError where the op does not launch it.
    """
    from fusetune.core.config_text import parse_config
    from fusetune.ops.typed import check_config

    if text is None:
        return BASELINE
    config = parse_config(text)
    check_config(spec, problem, config, target)
    return config
