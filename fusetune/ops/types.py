"""The types that an op's problems and configs have, in files, journals and look-ups: known without its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from fusetune.core.config import Config, NamedConfig
from fusetune.core.problem import NamedProblem, Problem
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.built_in import built_in_types


def named_problem(values: Mapping[str, Any]) -> Problem:
    """A problem of any named values. Raises UnsupportedProblemError for what is none."""
    try:
        return NamedProblem(**values)
    except (TypeError, ValueError) as error:
        raise UnsupportedProblemError(str(error)) from error


def merged(row: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A row's own values, and what was given for all rows where it has none."""
    return {**defaults, **row}


class OpTypes(NamedTuple):
    """An op's Problem and Config, and what takes no more than these to say.

    `make` makes a problem of named values as people give them; it raises UnsupportedProblemError. `baseline` is the
    BASELINE of a problem, and `unfit` why an op of these types cannot launch a config for a problem, with None for what
    it can; both are None where only the spec can say.
    """

    problem: type[Problem] = NamedProblem
    config: type[Config] = NamedConfig
    make: Callable[[Mapping[str, Any]], Problem] = named_problem
    baseline: Callable[[Problem], Config] | None = None
    unfit: Callable[[str, Any, Any], str | None] | None = None
    source_hash: Callable[[str, Any], str] | None = None
    """The hash of the code that an op launches for a config; None where only the spec can say."""
    merge: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = merged
    """The values of a row of a list, with those that were given for the whole list where they can apply to it."""


NAMED: Final = OpTypes()
"""What an op has that brings no types of its own."""

_known: dict[str, OpTypes] = {}
_finders: list[Callable[[str], OpTypes | None]] = []


def types_of(op: str) -> OpTypes:
    """The types of an op by the name that it has in a file: a built-in one's, or those that `register` was told.

    Loads no kernels of a built-in op, and nothing that a file alone names: an op that is not known has NAMED.
    """
    place = built_in_types().get(op)
    if place is not None:
        module, _, attribute = place.partition(":")
        types: OpTypes = getattr(import_module(module), attribute)
        return types
    if op in _known:
        return _known[op]
    return next((found for find in _finders if (found := find(op)) is not None), NAMED)


def baseline_of(op: str, problem: Problem, recorded: Config | None = None) -> Config | None:
    """BASELINE of a problem, as it was recorded or as the op's types say; None where neither does."""
    of_types = types_of(op).baseline
    return recorded or (of_types(problem) if of_types else None)


def register(op: str, types: OpTypes) -> None:
    """Have `types_of` know the types of an op that has been loaded."""
    if op not in built_in_types():
        _known[op] = types


def find_by(finder: Callable[[str], OpTypes | None]) -> None:
    """Have `types_of` ask for the types of an op that has not been loaded; None is for one that has none of its own."""
    _finders.append(finder)
