"""Whether an entry of somebody's kernel is for a launch: the same problem, or one with sizes in the same buckets.

An entry's problem has each argument of the launch that was tuned, but what goes with the config, and the grid that
Before had. Two launches that differ in a dtype, an alignment, a constant, or in what Triton's JIT makes of a number
(equal to 1, divisible by 16, its width) are two problems, whatever their sizes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from fusetune.core.problem import NamedProblem
from fusetune.core.values import Value
from fusetune.ops.arguments import specialized

AXES: Final = ("grid_0", "grid_1", "grid_2")
_NO_NUMBERS: Final = frozenset({"inf", "-inf", "nan"})
"""How a problem tells floats for which a file has no number."""


class Parameter(NamedTuple):
    """A parameter of a kernel: its own name, whether it is a constant, and Triton's KernelParam, if there is one."""

    name: str
    constant: bool
    triton: Any = None


class Distance(NamedTuple):
    """How far an entry's sizes are from a launch's; smaller is nearer, and equal ratios are ordered by the sizes."""

    ratio: float = 1.0
    sizes: tuple[int, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether it is the very problem."""
        return not self.sizes

    def beside(self, other: Distance) -> Distance:
        """Both together."""
        return Distance(self.ratio * other.ratio, self.sizes + other.sizes)


EXACT: Final = Distance()


def distance(
    problem: NamedProblem,
    given: Mapping[str, Value],
    parameters: Mapping[str, Parameter],
    supplied: Mapping[str, Value],
) -> Distance | str:
    """How far a problem's arguments are from those of a launch, or why they are those of another kind of launch.

    `given` are the launch's values and `supplied` those of the constants that its caller leaves to a tuner, both by
    their names in files; `parameters` are the kernel's. The grid is no part of it.
    """
    found = EXACT
    for name, value in problem.items():
        parameter = parameters.get(name)
        if parameter is None:
            if name in AXES:
                continue
            return f"it has {name}, which is no argument of the kernel"
        if name in given:
            one = _between(value, given[name], parameter)
        elif name in supplied:
            one = EXACT if _are_same(value, supplied[name]) else None
        else:
            return f"it is for a launch that gives {name}"
        if one is None:
            return f"it is for {name}={value}, which is {given.get(name, supplied.get(name))} here"
        if not one.is_exact:
            found = found.beside(one)
    return found


def grid_distance(
    problem: NamedProblem, grids: Iterable[tuple[int, ...]], parameters: Mapping[str, Parameter]
) -> Distance | None:
    """How far the grid that Before had is from the nearest of those that the launch may have had; None for too far."""
    wanted = [problem.get(name, 1) if name not in parameters else 1 for name in AXES]
    found: list[Distance] = []
    for grid in grids:
        axes = [_sizes_between(want, have) for want, have in zip(wanted, (*grid, 1, 1)[:3], strict=True)]
        if all(one is not None for one in axes):
            total = EXACT
            for one in axes:
                total = total.beside(one) if one is not None and not one.is_exact else total
            found.append(total)
    return min(found, default=None)


def _between(value: Value, given: Value, parameter: Parameter) -> Distance | None:
    if parameter.constant:
        return EXACT if _are_same(value, given) else None
    if _is_float(value) and _is_float(given):
        return EXACT  # nothing is specialized for it
    if type(value) is int and type(given) is int and value != given:
        alike = specialized(value, parameter.triton) == specialized(given, parameter.triton)
        return _sizes_between(value, given) if alike else None
    return EXACT if _are_same(value, given) else None


def _sizes_between(value: Any, given: Any) -> Distance | None:
    """None for sizes of two buckets: (2^(b-1), 2^b] has one bit length once its ends are lowered by one."""
    if type(value) is not int or type(given) is not int:
        return None
    if value == given:
        return EXACT
    if min(value, given) <= 1 or (value - 1).bit_length() != (given - 1).bit_length():
        return None
    return Distance(max(value, given) / min(value, given), (-value,))


def _is_float(value: Value) -> bool:
    return type(value) is float or value in _NO_NUMBERS


def _are_same(value: Value, given: Value) -> bool:
    return type(value) is type(given) and value == given
