"""What a run of a program gives, beside its runs as it is: whether it is right, whether that can be said, its time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from fusetune.capture.again import Ran
from fusetune.capture.oracle import MAXIMUM, OF_SPREAD, SPREAD_LIMIT
from fusetune.capture.results import Difference

OF_REFERENCE: Final = 1.5
"""With a reference, a result may be so many times as far off as Before's."""


def wrong_of(ran: Ran, befores: Sequence[Ran], tolerance: float) -> str | None:
    """What is wrong with a run; None where nothing is, or nothing can be said.

    `befores` are runs of the program as it is. `tolerance` is a relative error that is allowed beside what results' own
    dtypes and those runs allow.
    """
    if ran.failed is not None:
        steady = all(one.failed is None for one in befores)
        return f"the program fails: {ran.failed}" if steady else None
    if why_not_comparable(befores) is not None:
        return None
    base = befores[0].reference
    if base is not None and _is_usable(base) and ran.reference is not None:
        right = _is_within(ran.reference, OF_REFERENCE * base.error, OF_REFERENCE * base.largest)
        if not right:
            return f"beside its reference: {ran.reference.told()}, {base.told()} before"
        # The reference says nothing of what is left in the inputs.
        unlike = _unlike(ran.inputs, [one.inputs for one in befores[1:]], tolerance)
        return None if unlike is None else f"in its inputs: {unlike}"
    return _unlike(ran.difference, [one.difference for one in befores[1:]], tolerance)


def _unlike(found: Difference | None, befores: Sequence[Difference | None], tolerance: float) -> str | None:
    """What is wrong with a difference, beside those of runs of the program as it is; None where nothing is.

    Where these differ altogether nothing can be said.
    """
    spread = _worst(befores) or Difference()
    if found is None or spread.wrong is not None or spread.error > SPREAD_LIMIT:
        return None
    is_near = _is_within(found, max(tolerance, OF_SPREAD * spread.error), OF_SPREAD * spread.largest)
    return None if is_near else found.told()


def unlike_reference(befores: Sequence[Ran]) -> str | None:
    """How far the program as it is lies off its own reference, where that is too far to judge by; else None."""
    found = befores[0].reference
    return found.told() if found is not None and not _is_usable(found) else None


def why_not_comparable(befores: Sequence[Ran]) -> str | None:
    """Why nothing can be said of another run's result; None where it can."""
    first = befores[0]
    failed = next((one.failed for one in befores if one.failed is not None), None)
    if failed is not None:
        return f"it does not always end well as it is: {failed}"
    if not first.gives:
        return "it gives nothing to compare, and ends as before"
    spread = _spread(befores)
    if _is_usable(first.reference) or spread is None:
        return None
    unlike = spread.wrong is not None or spread.error > SPREAD_LIMIT
    return f"two runs of it as it is differ: {spread.told()}" if unlike else None


def times_of(runs: Sequence[Ran]) -> list[float]:
    """Milliseconds of the runs that have a time."""
    return [ms for ran in runs if (ms := ran.ms()) is not None]


def median_of(runs: Sequence[Ran]) -> float | None:
    """The median of these; None where no run has a time."""
    found = times_of(runs)
    return statistics.median(found) if found else None


def _spread(befores: Sequence[Ran]) -> Difference | None:
    """The most by which runs of the program as it is differ."""
    return _worst([ran.difference for ran in befores[1:]])


def _worst(differences: Sequence[Difference | None]) -> Difference | None:
    found = [one for one in differences if one is not None]
    unlike = next((one for one in found if one.wrong is not None), None)
    return unlike or max(found, key=lambda one: one.error, default=None)


def _is_usable(reference: Difference | None) -> bool:
    """Whether Before itself is near enough to the program's reference for that to judge others."""
    return reference is not None and reference.wrong is None and reference.error <= SPREAD_LIMIT


def _is_within(found: Difference, error: float, largest: float) -> bool:
    """Whether a difference is at most so much, or what rounding to its dtype comes to."""
    most = max(error, found.allowed)
    return found.wrong is None and found.error <= most and found.largest <= max(largest, MAXIMUM * most)
