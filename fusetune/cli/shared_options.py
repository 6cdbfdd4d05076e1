"""Options that several commands have with the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of inputs and order.")
fresh_option = click.option("--fresh", is_flag=True, help="Measure everything again, whatever earlier runs found out.")
exclusive_option = click.option(
    "--exclusive", is_flag=True, help="Fail where another process uses the GPU, instead of warning."
)
workers_option = click.option("--workers", type=click.IntRange(1), help="Compilations at once.  [default: one a core]")
config_roots_option = click.option(
    "--configs",
    "config_roots",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of tuned configs; may be given again.  [default: those that a look-up reads]",
)
arguments_option = click.option(
    "--args", "expression", metavar="EXPRESSION", help="Arguments of a function: \"torch.randn(8, device='cuda')\""
)
run_dirs_option = click.option(
    "--runs",
    "run_dirs",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of the runs' journals; may be given again.  [default: $FUSETUNE_RUNS or .fusetune/runs]",
)


def min_gain_option(command: F) -> F:
    """Add what a config has to gain, by default what the keep rule asks for."""
    from fusetune.core.decision import KeepRule

    return click.option(
        "--min-gain",
        type=click.FloatRange(0, 1, max_open=True),
        default=KeepRule().min_gain,
        show_default=True,
        help="Keep a config only if it is surely this share faster.",
    )(command)
