"""Autotuners and heuristics, of which each holds the next one, down to a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_MOST_HELD: Final = 20
"""Some objects have any attribute."""


def chain_of(tuner: Any) -> list[Any]:
    """An autotuner and what it holds, down to the kernel."""
    found = [tuner]
    while len(found) < _MOST_HELD and hasattr(getattr(found[-1], "fn", None), "fn"):
        found.append(found[-1].fn)
    return found


def heuristics_of(tuners: Sequence[Any]) -> dict[str, Any]:
    """The functions of all heuristics above a launch by what they compute, in the order in which they do."""
    found: dict[str, Any] = {}
    for tuner in tuners:
        values = getattr(tuner, "values", None)
        if isinstance(values, Mapping):
            found.update(values)
    return found
