"""Which program is meant, and which of its kernels: options that `capture` and `tune` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fusetune.cli.completing import TARGETS, files
from fusetune.cli.helped import Helped
from fusetune.cli.shared_options import arguments_option
from fusetune.core.near import did_you_mean
from fusetune.core.target import DEFAULT_TARGET
from fusetune.units import parse_bytes

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT: Final = {"ignore_unknown_options": True}
"""Options stand before the program or behind it; what is none of ours, and all behind `--`, is the program's own."""


class OfAProgram(Helped):
    """A command that runs a program: what stands before it as an option and is none of ours was mistyped."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click. Raises NoSuchOption, which names the option that may be meant."""
        behind = args[args.index("--") + 1 :] if "--" in args else None
        left = super().parse_args(ctx, args)
        program = ctx.params.get("program") or ()
        first = next(iter(program), "")
        if ctx.params.get("module") and list(program) == behind:
            return left  # The module's own, as in `-m pytest -- -q`.
        if first.startswith("-") and not ctx.resilient_parsing and not Path(first).exists():
            module = ctx.params.get("module")
            raise click.NoSuchOption(first, f"No such option: {first}{self._meant(first, module)}", ctx=ctx)
        return left

    def _meant(self, word: str, module: str | None) -> str:
        if module and not word.startswith("--"):
            return f"; a module's own stand behind --: -m {module} -- {word}"
        if word in {"--quiet", "--verbose"} or not word.strip("-qv"):
            return f"; it stands before the command: fusetune {word} {self.name}"
        known = [name for parameter in self.params for name in parameter.opts if name.startswith("--")]
        return did_you_mean(word.partition("=")[0], known)


class _Size(click.ParamType[int]):
    """A number of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def quota_option(words: str) -> Callable[[F], F]:
    """Add how much may be kept of a program, in bytes; `words` are its help."""
    return click.option(
        "--quota", "quota_bytes", type=_Size(), metavar="SIZE", help=f"{words}, as 4GiB.  [default: 8GiB]"
    )


def program_options(command: F) -> F:
    """Add the program, its form, and which kernels of it are meant."""
    return form_options(_added(command, _OPTIONS))


def form_options(command: F) -> F:
    """Add the program and its form alone."""
    return _added(command, _FORM)


def _added(command: F, options: Sequence[Callable[[Any], Any]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


_FORM: Final[Sequence[Callable[[Any], Any]]] = (
    click.argument("program", nargs=-1, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED, shell_complete=files),
    click.option(
        "-m", "module", metavar="MODULE", help="Run a module, as `python -m`: -m pytest tests/test_norm.py::test_a"
    ),
    arguments_option,
    click.option(
        "--reference",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where Model, get_inputs and get_init_inputs are, beside a file with ModelNew.",
    ),
)
_OPTIONS: Final[Sequence[Callable[[Any], Any]]] = (
    click.option("--kernel", metavar="GLOB", help="Kernels of this name alone, as *norm*."),
    click.option("--top", type=click.IntRange(1), metavar="N", help="The first N kernels by their time."),
    click.option(
        "--share",
        type=click.FloatRange(0, 1),
        default=0.95,
        show_default=True,
        help="The kernels that make up this share of the time of all.",
    ),
    click.option(
        "--target",
        "target_name",
        metavar="NAME",
        shell_complete=TARGETS,
        help=f"Run nothing on a GPU, and compile for this one.  [default: the GPU here; without one, {DEFAULT_TARGET}]",
    ),
    click.option(
        "--limit",
        "limit_s",
        metavar="SECONDS",
        type=click.FloatRange(0, min_open=True),
        help="End the program after so long.",
    ),
)
