"""What the candidates of an op are held against: Before where the op names it, and BASELINE otherwise."""

from __future__ import annotations

from typing import Any

from fusetune.core.config import Config
from fusetune.ops.spec import KernelSpec


def before_of(spec: KernelSpec, problem: Any) -> Config | None:
    """The config that the program runs today; None where that is BASELINE itself."""
    before = spec.before(problem)
    return None if before == spec.baseline(problem) else before


def reference_of(spec: KernelSpec, problem: Any) -> Config:
    """What everything is compared with."""
    return spec.before(problem) or spec.baseline(problem)
