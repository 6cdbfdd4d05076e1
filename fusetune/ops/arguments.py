"""The arguments of a launch by name, and what Triton's JIT makes of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

_INT32: Final = range(-(1 << 31), 1 << 31)
_SETTINGS: Final = frozenset({"debug", "instrumentation_mode", "sanitize_overflow"})
"""What Triton is given beside a kernel's arguments and is no option of a config."""
_INT64: Final = range(-(1 << 63), 1 << 63)


def bind(
    kernel: Any, args: Sequence[Any], named: Mapping[str, Any], *, partly: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a launch by name, defaults and all, and its options. Raises TypeError where they do not fit.

    With `partly` some may be missing. What is behind `*`, as kernels may have since Triton 3.8, has no name each: a
    TypeError, too.
    """
    signature = signature_of(kernel)
    parameters = signature.parameters
    # As Signature.bind, which takes longer than a launch.
    given = dict(zip(parameters, args, strict=False))
    options = {}
    count = len(given)
    for name, value in named.items():
        if name in parameters:
            given[name] = value
            count += 1
        elif name not in _SETTINGS:
            options[name] = value
    bound = {}
    for name, one in parameters.items():
        if one.kind is one.VAR_POSITIONAL:
            raise TypeError(f"what it takes as *{name} has no names; give each a parameter of its own")
        if name in given:
            bound[name] = given[name]
        elif one.default is not one.empty:
            bound[name] = one.default
        elif not partly:
            count = -1
    if count != len(given) or len(args) > len(parameters):  # twice, missing, or too many: Python says which
        signature.bind(*args, **{name: value for name, value in named.items() if name in parameters})
        raise TypeError("the arguments do not fit")
    return bound, options


def signature_of(kernel: Any) -> inspect.Signature:
    """The parameters of a kernel; those of the interpreter's functions are those of Python's."""
    found = getattr(kernel, "signature", None)
    return found if isinstance(found, inspect.Signature) else inspect.signature(kernel.fn)


def constexprs_of(kernel: Any) -> frozenset[str]:
    """The names of a kernel's constants; of the interpreter's functions by their annotations."""
    if hasattr(kernel, "params"):
        return frozenset(one.name for one in kernel.params if one.is_constexpr)
    parameters = signature_of(kernel).parameters.values()
    told_by = {one.name: getattr(one.annotation, "__name__", str(one.annotation)) for one in parameters}
    return frozenset(name for name, told_of in told_by.items() if told_of.endswith("constexpr"))


def told(value: Any) -> Any:
    """A value as JSON has it: numbers, flags, words and None as they are, lists of these, all else as a word."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [told(one) for one in value]
    name = getattr(value, "__name__", None)
    return str(name if name is not None and callable(value) else value)[:200]


def resolved_grid(grid: Any, bound: Mapping[str, Any]) -> tuple[int, ...]:
    """The grid of a launch, of one to three axes."""
    found = grid(dict(bound)) if callable(grid) else grid
    return tuple(int(axis) for axis in (found if isinstance(found, tuple | list) else (found,)))


def specialized(value: Any, parameter: Any = None) -> Any:
    """What Triton's JIT makes of a run-time value: of a number its type and what is special about it.

    Anything else stands for itself. `parameter` is Triton's KernelParam, which may ask for less.
    """
    if type(value) is float:
        return "float"
    if type(value) is not int:
        return repr(value)
    kind = "i32" if value in _INT32 else "i64" if value in _INT64 else "u64"
    if getattr(parameter, "do_not_specialize", False):
        return kind
    by_16 = value % 16 == 0 and not getattr(parameter, "do_not_specialize_on_alignment", False)
    return (kind, value == 1, by_16)
