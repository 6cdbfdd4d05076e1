"""A simulated GPU for tests: known true times, seeded noise and drift, planted failures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import Target
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts

TrueTime = Callable[[Config], float]


class FakeMeasurer:
    """Measures nothing: a sample is `true_us(config)` times drift times noise.

    `noise` is the relative standard deviation of one sample. `drift` is how much slower the GPU is at the end of a
    period of `drift_period` samples than at its start, in a saw-tooth. `failures` maps configs to what becomes of
    them when they are checked; `discard_every` throttles every n-th block. `later_us` replaces `true_us` from the
    second `prepare` on: a gain that a fresh process does not confirm.
    """

    def __init__(
        self,
        target: Target,
        true_us: TrueTime,
        *,
        noise: float = 0.0005,
        drift: float = 0.0,
        drift_period: int = 500,
        failures: Mapping[Config, Failure] | None = None,
        discard_every: int | None = None,
        later_us: TrueTime | None = None,
        kernel_hash: str = "0" * 16,
        seed: int = 0,
    ) -> None:
        self._target, self._true_us, self._later_us = target, true_us, later_us
        self._noise, self._drift, self._drift_period = noise, drift, drift_period
        self._failures = dict(failures or {})
        self._discard_every = discard_every
        self._kernel_hash = kernel_hash
        self._random = random.Random(seed)
        self._samples = 0
        self._blocks = 0
        self.prepared: list[int] = []
        self.closed = False

    def facts(self) -> GpuFacts:
        """The target, as if it were here."""
        target = self._target
        return GpuFacts(
            identity=TargetIdentity(name=target.name, capability=target.capability, sms=target.sms),
            target=target,
            environment=Environment(triton="0.0.0", kernel_hash=self._kernel_hash, clocks="simulated"),
        )

    def likely_target(self) -> Target | None:
        """The target, which is known."""
        return self._target

    def company(self) -> tuple[str, ...]:
        """A simulated GPU is nobody else's."""
        return ()

    def standby(self, seed: int) -> None:
        """A simulated process needs no time to start."""

    def open_ahead(self) -> None:
        """Nor has it inputs to draw."""

    def settle(self) -> None:
        """And disturbs nothing."""

    def prepare(self, seed: int) -> SamplingFacts:
        """Count the process; from the second on, `later_us` holds."""
        self.prepared.append(seed)
        if len(self.prepared) > 1 and self._later_us is not None:
            self._true_us = self._later_us
        return SamplingFacts(input_sets=1, launches=1, touched_bytes=0, l2_bytes=0)

    def check(self, config: Config) -> Checked | Failure:
        """The planted failure, or right."""
        return self._failures.get(config) or Checked(error=1e-4, rough_us=self._true_us(config) + 30.0)

    def warm_up(self) -> None:
        """A simulated GPU is warm."""

    def sample(self, config: Config) -> float | Failure:
        """One noisy time."""
        self._samples += 1
        phase = (self._samples % self._drift_period) / self._drift_period
        speed = 1 + self._drift * phase
        return self._true_us(config) * speed * math.exp(self._random.gauss(0, self._noise))

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """Four noisy times in the order ABBA or BAAB."""
        self._blocks += 1
        order = (config, baseline, baseline, config) if config_first else (baseline, config, config, baseline)
        times = [time for arm in order if not isinstance(time := self.sample(arm), Failure)]
        outer, inner = (times[0] + times[3]) / 2, (times[1] + times[2]) / 2
        baseline_us, config_us = (inner, outer) if config_first else (outer, inner)
        throttled = self._discard_every is not None and self._blocks % self._discard_every == 0
        return BlockTimes(baseline_us=baseline_us, us=config_us, discarded="thermal throttling" if throttled else None)

    def end(self) -> None:
        """Nothing to begin with."""

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
