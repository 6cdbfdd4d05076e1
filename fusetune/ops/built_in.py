"""The ops that come with fusetune: each folder beside this file is one, or a family of them, and says what it holds.

A folder's `__init__` loads no kernels and has `SPECS` (module:attribute by the op's name), `TYPES` (where their OpTypes
are, as module:attribute), `ABOUT` (what each op computes, in half a line), `VALUES`, and
`EXAMPLE`, the options of a problem as a user may begin with.
"""

from __future__ import annotations

import functools
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class OpValue(NamedTuple):
    """A value of a problem that has an option of its own on the command line, as `--NAME`, beside `--size NAME=VALUE`.

    `is_size`: a whole number of at least 1; a word otherwise, and `choices` are the words that a shell completes.
    """

    name: str
    help: str
    is_size: bool = False
    choices: tuple[str, ...] = ()


@functools.cache
def families() -> tuple[ModuleType, ...]:
    """The folders of built-in ops, in order of their names."""
    folders = sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))
    return tuple(import_module(f"{__package__}.{name}") for name in folders)


@functools.cache
def built_in_ops() -> dict[str, str]:
    """Where the spec of each built-in op is, as module:attribute, by its name."""
    return {name: place for family in families() for name, place in family.SPECS.items()}


def spec_modules() -> tuple[str, ...]:
    """The modules of the specs of the built-in ops, for processes that are to have them loaded."""
    return tuple(dict.fromkeys(place.partition(":")[0] for place in built_in_ops().values()))


@functools.cache
def built_in_types() -> dict[str, str]:
    """Where the types of each built-in op are, as module:attribute, by its name."""
    return {name: family.TYPES for family in families() for name in family.SPECS}


@functools.cache
def named_values() -> tuple[OpValue, ...]:
    """The values that have options of their own."""
    return tuple(value for family in families() for value in family.VALUES)


@functools.cache
def default_op() -> str:
    """The op that is meant where none is named."""
    return next(iter(built_in_ops()))


def about_ops() -> str:
    """What the built-in ops compute, for people."""
    return "; ".join(f"{name}, {about}" for family in families() for name, about in family.ABOUT.items())


def example_options() -> str:
    """The options of a problem that a user may begin with."""
    return str(families()[0].EXAMPLE)


def example_command() -> str:
    """A sweep that a user may begin with."""
    return f"fusetune sweep {example_options()}"
