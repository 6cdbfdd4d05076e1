"""Commands that want more than the base brings say so before they do anything."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from fusetune.core.extras import need

P = ParamSpec("P")
R = TypeVar("R")


def needs(extra: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a command make sure of an extra's packages when it is run; its help works without them."""

    def wrap(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def checked(*arguments: P.args, **given: P.kwargs) -> R:
            need(extra, f"`fusetune {click.get_current_context().info_name}`")
            return command(*arguments, **given)

        return checked

    return wrap
