"""What lets the workflow run without a compiler or a GPU: resources at once, short spaces, planted failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from fusetune.compiler.pool import TIME_LIMIT_S, Compiled, Job
from fusetune.compiler.processes import CompileProcesses
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.measure.fake import FakeMeasurer, TrueTime
from fusetune.measure.protocol import BlockTimes, Failure
from fusetune.ops.spec import KernelSpec
from tests.support.sample import BASELINE, Config, Problem, SampleSpec, Space, pipelined_shared_bytes, tile_elements

PTXAS = "12.9.86"


class FakeCompiler:
    """Stands in for `compile_jobs`; `planted` maps configs to what comes out for them, `compiled` lists the jobs.

    `processes` lists those that each call was given, one for each.
    """

    def __init__(self, planted: Mapping[Config, Resources | Rejection | Trouble] | None = None) -> None:
        self.planted = dict(planted or {})
        self.compiled: list[Job] = []
        self.processes: list[CompileProcesses | None] = []
        self.last_first = True

    def __call__(
        self,
        spec: KernelSpec,
        jobs: Sequence[Job],
        target: Target,
        *,
        workers: int | None = None,
        time_limit_s: float = TIME_LIMIT_S,
        processes: CompileProcesses | None = None,
    ) -> Iterator[Compiled]:
        self.processes.append(processes)
        # The real pool ends jobs in any order, and nothing may depend on it.
        for job in reversed(jobs) if self.last_first else jobs:
            self.compiled.append(job)
            yield Compiled(job, self.planted.get(job.config) or plausible_resources(job.config, job.problem, target))


def plausible_resources(config: Config, problem: Problem, target: Target) -> Resources:
    """More registers for a larger share of the tile a thread, the pipeline's shared memory, no spill."""
    accumulators = tile_elements(config) // (32 * config.num_warps)
    return Resources(
        registers=min(255, 40 + accumulators),
        stack_bytes=0,
        shared_bytes=pipelined_shared_bytes(config, problem, target),
    )


def install(
    monkeypatch: pytest.MonkeyPatch, planted: Mapping[Config, Resources | Rejection | Trouble] | None = None
) -> FakeCompiler:
    """Put a FakeCompiler in the place of the real one wherever the workflow and the gate call it."""
    fake = FakeCompiler(planted)
    for place in ("fusetune.tune.plan", "fusetune.gate.static"):
        monkeypatch.setattr(f"{place}.compile_jobs", fake)
    for place in ("fusetune.tune.sweep", "fusetune.tune.predict"):
        monkeypatch.setattr(f"{place}.ptxas_version", lambda target: PTXAS)
    return fake


class ListedSpace(Space, frozen=True):
    """A space of exactly these configs, and BASELINE."""

    listed: tuple[Config, ...] = ()

    def configs(self) -> tuple[Config, ...]:
        return (BASELINE, *self.listed)


class ListedSpec(SampleSpec):
    """The sample, whose full space and whose references are what a test lists."""

    def __init__(self, *configs: Config, references: tuple[Config, ...] = ()) -> None:
        self.space = ListedSpace(values={}, listed=configs)
        self._references = references

    def references(self, problem: Problem) -> tuple[Config, ...]:
        return self._references


FailSample = Callable[[Config, int], Failure | None]
FailBlock = Callable[[Config, Config, int], Failure | None]


class BreakingMeasurer(FakeMeasurer):
    """A FakeMeasurer whose samples and blocks fail where a test says so.

    `fail_sample` is asked with a config and how often it was sampled before, `fail_block` with both configs of a pair
    and how many processes were prepared.
    """

    def __init__(
        self,
        target: Target,
        true_us: TrueTime,
        *,
        fail_sample: FailSample | None = None,
        fail_block: FailBlock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(target, true_us, **options)
        self._fail_sample, self._fail_block = fail_sample, fail_block
        self.asked: Counter[Config] = Counter()

    def sample(self, config: Config) -> float | Failure:
        number = self.asked[config]
        self.asked[config] += 1
        failure = self._fail_sample(config, number) if self._fail_sample else None
        return failure or super().sample(config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        failure = self._fail_block(baseline, config, len(self.prepared)) if self._fail_block else None
        return failure or super().block(baseline, config, config_first=config_first)
