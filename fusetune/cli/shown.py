"""What commands print: no line of it is more than text to a terminal or a workflow, whatever data says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fusetune.core.text import json_text, no_command, printable_lines

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print lines of text; data in them that may have line feeds has to have been made `printable` before."""
    _print(printable_lines(text), nl=nl, err=err)


def echo_laid_out(text: str, *, nl: bool = False) -> None:
    """Print what a renderer that minds its data has laid out already, tabs, indents and all."""
    _print(no_command(text), nl=nl)


def echo_json(text: str, *, nl: bool = True) -> None:
    """Print JSON, which means the same as before."""
    _print(json_text(text), nl=nl)


def echo_console(console: Console, render: Any) -> None:
    """Print what `render` prints on a console of rich's, after a look at where it broke its lines."""
    with console.capture() as captured:
        render(console)
    echo_laid_out(captured.get())


def _print(text: str, *, nl: bool = True, err: bool = False) -> None:
    # A terminal that cannot show a letter gets its number; Python would end in an error.
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=nl, err=err)
