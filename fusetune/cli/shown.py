"""What commands print: no line of it is more than text to a terminal or a workflow, whatever data says.

Results go to stdout. Of a command that was given --json one document does, and whatever else it says goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fusetune.cli.volume import is_quiet
from fusetune.core.text import json_text, no_command, printable_lines

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])

JSON: Final = "fusetune.json"


def json_option(command: F) -> F:
    """Give a command --json, as `as_json`: what is shown but `echo_json` then goes to stderr."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=_mark,
        help="One JSON document on stdout; all else goes to stderr.",
    )(command)


def is_json() -> bool:
    """Whether the command that is being run was given --json."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(JSON))


def _mark(ctx: click.Context, _: click.Parameter, given: bool) -> bool:
    ctx.meta[JSON] = given or bool(ctx.meta.get(JSON))
    return given


def echo(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print lines of text; data in them that may have line feeds has to have been made `printable` before."""
    _print(printable_lines(text), nl=nl, err=err)


def echo_laid_out(text: str, *, nl: bool = False) -> None:
    """Print what a renderer that minds its data has laid out already, tabs, indents and all."""
    _print(no_command(text), nl=nl)


def echo_json(text: str) -> None:
    """Print the one document of --json on stdout; what terminals would act upon is spelled out, and means the same."""
    _print(json_text(text.rstrip("\n")), json=True)


def echo_console(console: Console, render: Any) -> None:
    """Print what `render` prints on a console of rich's, after a look at where it broke its lines."""
    with console.capture() as captured:
        render(console)
    echo_laid_out(captured.get())


def _print(text: str, *, nl: bool = True, err: bool = False, json: bool = False) -> None:
    if is_json() and not json and not err:
        if is_quiet():  # It is beside the document, and so no result.
            return
        err = True
    # A terminal that cannot show a letter gets its number; Python would end in an error.
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=nl, err=err)
