"""The cases of what a function launches, as a capture describes them: each distinct launch once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from fusetune.capture.cases import Case
from fusetune.capture.launches import described, kernel_seen
from fusetune.capture.patching import Patches
from fusetune.ops.arguments import bind, resolved_grid, told

Launch = tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]
"""A kernel's name, its grid, all arguments but tensors by name, and the options of a launch."""


def launches_of(run: Callable[[], object]) -> tuple[list[Case], list[Launch]]:
    """What `run` launches as cases, and what reaches Triton itself."""
    kind: Any = InterpretedFunction if triton.knobs.runtime.interpret else JITFunction
    cases: list[Case] = []
    launches: list[Launch] = []
    inner = kind.run

    def noted(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        if not warmup:
            bound, options = bind(kernel, args, named)
            tensors, values, constants = described(kernel, bound)
            found = {name: told(value) for name, value in options.items()}
            resolved = resolved_grid(grid, bound)
            cases.append(Case(kernel_seen(kernel), resolved, "", tensors, values, constants, found, found))
            launches.append((kernel_seen(kernel).name, resolved, {**values, **constants}, found))
        return inner(kernel, *args, grid=grid, warmup=warmup, **named)

    with Patches() as patches:
        patches.put(kind, "run", noted)
        run()
    return cases, launches
