"""The parameters of a Triton function, and a launch that gives each of them a value."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusetune.ops.spec import Launch


def is_kernel(kernel: Any) -> bool:
    """Whether this is a `@triton.jit` function itself, compiled or interpreted, with nothing wrapped around it."""
    return hasattr(kernel, "arg_names") and inspect.isfunction(getattr(kernel, "fn", None))


def parameters_of(kernel: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a Triton function by name, in its order."""
    return inspect.signature(kernel.fn).parameters


def is_constexpr(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a `tl.constexpr`."""
    annotation = parameter.annotation
    return "constexpr" in (annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""))


def completed(launch: Launch) -> Launch:
    """The launch with the defaults of the parameters that it leaves out."""
    given = launch.arguments.keys() | launch.constants.keys()
    if given >= set(launch.kernel.arg_names):
        return launch
    left_out = {
        name: one
        for name, one in parameters_of(launch.kernel).items()
        if name not in given and one.default is not inspect.Parameter.empty
    }
    constants = {name: one.default for name, one in left_out.items() if is_constexpr(one)}
    arguments = {name: one.default for name, one in left_out.items() if name not in constants}
    return replace(launch, arguments={**launch.arguments, **arguments}, constants={**launch.constants, **constants})


def unfit(kernel: Any, given: Collection[str]) -> str | None:
    """Why a kernel cannot be launched with arguments of these names, in half a sentence; None where it can."""
    parameters = parameters_of(kernel)
    gone = [name for name in given if name not in parameters]
    if gone:
        return f"the kernel has no parameter {gone[0]} any more"
    bare = [name for name, one in parameters.items() if name not in given and one.default is inspect.Parameter.empty]
    return f"the kernel has a parameter {bare[0]} by now, which nothing gives" if bare else None
