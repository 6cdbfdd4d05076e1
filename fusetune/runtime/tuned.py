"""The tuned config of a problem, for a program that launches by itself."""

from __future__ import annotations

from typing import Any

from fusetune.runtime import facts
from fusetune.runtime.configs import explain_problem
from fusetune.store.lookup import Lookup


def config(op: str, /, *, target: str | None = None, **problem: Any) -> Lookup:
    """The config to launch an op with for a problem, given by its values: `config("vector_add", n=1 << 24).config`.

    The answer has `config`, the `rung` that it stands on (exact, nearest, baseline) and the `reason`; `explain()` says
    all of it. Constants of a Config are its attributes. Nothing is tuned, and neither torch nor triton is loaded,
    unless BASELINE of an op of your own is the answer, or its files have changed since you named it to a command.

    `target` names a known GPU instead of the one here. Raises UsageError for an op that is not known,
    UnsupportedProblemError for a problem that it does not compute, NoUsableGpuError where there is no GPU and none is
    named; MissingConfigError and ConfigFileError as `fusetune.load(strict=True)` has them.
    """
    return explain_problem(op, facts.problem_of(op, problem), target)
