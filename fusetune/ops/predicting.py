"""What an op's cost model says of a config, where it can say anything."""

from __future__ import annotations

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.target import Target
from fusetune.errors import OpError, UsageError
from fusetune.ops.spec import KernelSpec


def predicted_us(
    spec: KernelSpec, problem: Problem, config: Config, target: Target, resources: Resources | None = None
) -> float | None:
    """The cost model's microseconds; None without a model, and for a GPU whose peaks the table does not hold.

    `resources` are what the compiler made of it, where that is known.
    """
    try:
        found = spec.estimate(config, problem, target, resources)
    except OpError:
        raise
    except UsageError:
        return None
    return found.time_us if found else None
