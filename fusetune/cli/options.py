"""Options that several commands share: a problem of an op, and what of it is given where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fusetune.cli.completing import OPS, value_of_op
from fusetune.cli.shown import echo
from fusetune.core.dtypes import dtype_name
from fusetune.errors import UnsupportedProblemError, UsageError
from fusetune.ops.built_in import OpValue, about_ops, default_op, named_values

if TYPE_CHECKING:
    from fusetune.core.config import Config
    from fusetune.core.problem import Problem
    from fusetune.core.target import Target
    from fusetune.ops.spec import KernelSpec

F = TypeVar("F", bound=Callable[..., Any])

_GIVEN: Final = "given_"
"""Begins the names of parameters that hold values of a problem."""


def _option(value: OpValue, *, repeated: bool = False) -> Callable[[F], F]:
    again = repeated and value.is_size
    return click.option(
        f"--{value.name}",
        f"{_GIVEN}{value.name}",
        type=click.IntRange(1) if value.is_size else None,
        multiple=again,
        shell_complete=value_of_op(value),
        help=value.help.rstrip(".") + "; may be given again." if again else value.help,
    )


def problem_options(command: F, *, repeated: bool = False) -> F:
    """Give a command --op, --size, and the options of the values that built-in ops name.

    `repeated`: of a size that has an option several may be given.
    """
    sizes = click.option(
        "--size",
        "sizes",
        metavar="NAME=VALUE",
        multiple=True,
        help="A size or another value of the problem of any op, as n=16777216; may be given again.",
    )
    op = click.option(
        "--op",
        default=default_op(),
        show_default=True,
        shell_complete=OPS,
        help=f"The op: {about_ops()}; or module:attribute or FILE.py:attribute of a KernelSpec of your own.",
    )
    values = [_option(value, repeated=repeated) for value in named_values()]
    is_size = [value.is_size for value in named_values()]
    ordered = [op, *(one for one, size in zip(values, is_size, strict=True) if size), sizes]
    ordered += [one for one, size in zip(values, is_size, strict=True) if not size]
    for option in reversed(ordered):
        command = option(command)
    return command


def values_of(given: dict[str, Any]) -> dict[str, Any]:
    """The values of a problem that those options give, by name; they are taken out of `given`.

    Raises UsageError for a --size that is no NAME=VALUE, or that is given twice.
    """
    from fusetune.core.config_text import parse_value

    sizes: Sequence[str] = given.pop("sizes")
    options = {value.name: given.pop(f"{_GIVEN}{value.name}") for value in named_values()}
    values = {name: value for name, value in options.items() if value not in (None, ())}
    if "dtype" in values:
        values["dtype"] = dtype_name(values["dtype"])
    for text in sizes:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise UsageError(f"--size {text!r}: write NAME=VALUE, as in --size n=16777216")
        if name in values:
            raise UsageError(f"--size {text!r}: {name} is given twice; give it once")
        values[name] = parse_value(value)
    return values


def problem_of(given: dict[str, Any]) -> tuple[KernelSpec, Problem]:
    """The op and the problem that those options ask for; they are taken out of `given`.

    Raises UsageError where there is no such op or it is not fit to be tuned, UnsupportedProblemError where it does not
    compute this.
    """
    from fusetune.ops.checking import check_spec

    spec, problem = spec_and_problem(given)
    with naming_options():
        check_spec(spec, problem)
    return spec, problem


def spec_and_problem(given: dict[str, Any]) -> tuple[KernelSpec, Problem]:
    """The same, not checked: for a command that takes other problems than the op does."""
    spec = named_op(given.pop("op"))
    values = values_of(given)
    with naming_options():
        return spec, spec.problem(values)


def problems_of(given: dict[str, Any]) -> tuple[str, list[Problem]]:
    """The name of the op, and every problem that the options ask for; none without a size.

    For options that were made with `repeated`: each size of several stands with each other. Raises as `problem_of`.
    """
    spec = named_op(given.pop("op"))
    values = values_of(given)
    several = {name: value if isinstance(value, tuple) else (value,) for name, value in values.items()}
    if not {*several} - {value.name for value in named_values() if not value.is_size}:
        return spec.name, []
    with naming_options():
        rows = itertools.product(*several.values())
        return spec.name, [problem_with(spec, dict(zip(several, row, strict=True))) for row in rows]


def named_op(op: str) -> KernelSpec:
    """The op that a command was given; one of a file or a module is found again by later commands of this user.

    Raises UsageError where there is no such op.
    """
    from fusetune.ops.loading import load_spec, remember

    spec = load_spec(op)
    if ":" in op:
        why = remember(spec)
        if why is not None:
            echo(f"Note: where op {spec.name} is could not be written down ({why}): name it again, with --op", err=True)
    return spec


@contextmanager
def naming_options() -> Iterator[None]:
    """What an op refuses of a problem's values is told with the options that gave them."""
    try:
        yield
    except UnsupportedProblemError as error:
        own = {value.name for value in named_values()}
        options = [f"--{name}" if name in own else f"--size {name}" for name in error.names]
        if not options:
            raise
        raise UnsupportedProblemError(f"{', '.join(options)}: {error}", *error.names) from error


def config_of(spec: KernelSpec, problem: Problem, text: str | None, target: Target | None = None) -> Config:
    """The config that was typed; BASELINE where none was, or where that was its name.

    Raises UsageError where it cannot be read, UnsupportedProblemError where the op does not launch it.
    """
    if text is None or text.strip().lower() == "baseline":
        return spec.baseline(problem)
    config = spec.parse_config(text)
    spec.check_config(problem, config, target)
    return config


def problem_with(spec: KernelSpec, values: Mapping[str, Any]) -> Problem:
    """The checked problem of these values. Raises UnsupportedProblemError where the op does not compute it."""
    from fusetune.ops.checking import check_spec

    problem = spec.problem(values)
    check_spec(spec, problem)
    return problem
