"""A compiler that answers at once: resources guessed from the tile, and whatever a test plants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from fusetune.compiler.pool import TIME_LIMIT_S, Compiled, Job
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection, pipelined_shared_bytes
from fusetune.core.target import Target
from fusetune.kernels.spec import KernelSpec

PTXAS = "12.9.86"


class FakeCompiler:
    """Stands in for `compile_jobs`; `planted` maps configs to what comes out for them, `compiled` lists the jobs."""

    def __init__(self, planted: Mapping[Config, Resources | Rejection] | None = None) -> None:
        self.planted = dict(planted or {})
        self.compiled: list[Job] = []

    def __call__(
        self,
        spec: KernelSpec,
        jobs: Sequence[Job],
        target: Target,
        *,
        workers: int | None = None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> Iterator[Compiled]:
        # The last first: the real pool ends jobs in any order, and nothing may depend on it.
        for job in reversed(jobs):
            self.compiled.append(job)
            yield Compiled(job, self.planted.get(job.config) or plausible_resources(job.config, job.problem, target))


def plausible_resources(config: Config, problem: Problem, target: Target) -> Resources:
    """More registers for a larger share of the tile a thread, the pipeline's shared memory, no spill."""
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    return Resources(
        registers=min(255, 40 + accumulators),
        stack_bytes=0,
        shared_bytes=pipelined_shared_bytes(config, problem, target),
    )


def install(
    monkeypatch: pytest.MonkeyPatch, planted: Mapping[Config, Resources | Rejection] | None = None
) -> FakeCompiler:
    """Put a FakeCompiler in the place of the real one wherever the workflow and the gate call it."""
    fake = FakeCompiler(planted)
    for place in ("fusetune.tune.plan", "fusetune.gate.static"):
        monkeypatch.setattr(f"{place}.compile_jobs", fake)
    for place in ("fusetune.tune.sweep", "fusetune.tune.predict"):
        monkeypatch.setattr(f"{place}.ptxas_version", lambda target: PTXAS)
    return fake
