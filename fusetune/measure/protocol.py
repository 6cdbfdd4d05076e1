"""What the workflow needs of whatever measures: a GPU, a simulated one, or a recording."""

from __future__ import annotations

from typing import Protocol

import msgspec

from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import Target


class GpuFacts(msgspec.Struct, frozen=True):
    """The GPU that a measurer times on, the software around it, and what a user should know before trusting it."""

    identity: TargetIdentity
    target: Target
    environment: Environment
    warnings: tuple[str, ...] = ()


class SamplingFacts(msgspec.Struct, frozen=True):
    """How samples are taken: one replay of `launches` launches over `input_sets` sets touches `touched_bytes`."""

    input_sets: int
    launches: int
    touched_bytes: int
    l2_bytes: int


class Failure(msgspec.Struct, frozen=True, tag=True):
    """A candidate that did not come through: a code to count by, and what was seen.

    Codes: wrong_result, nan, out_of_memory, out_of_resources, launch_error, crash, hang.
    """

    reason: str
    detail: str
    fatal: bool = False


class Checked(msgspec.Struct, frozen=True, tag=True):
    """A candidate whose results are right: its relative Frobenius error, and the rough time of one launch."""

    error: float
    rough_us: float


class BlockTimes(msgspec.Struct, frozen=True):
    """One paired sample in the order ABBA (or BAAB): microseconds a launch of each, and the state of the GPU.

    `discarded` says why the block must not count; `flags` what a reader should know.
    """

    baseline_us: float
    us: float
    discarded: str | None = None
    flags: tuple[str, ...] = ()
    sm_mhz: int | None = None
    power_w: float | None = None


class Measurer(Protocol):
    """Checks and times configs of one problem on one GPU. Times are microseconds a launch."""

    def facts(self) -> GpuFacts:
        """The GPU and the software; raises NoUsableGpuError where there is none."""

    def prepare(self, seed: int) -> SamplingFacts:
        """Begin anew, in a fresh process, with inputs drawn from `seed`; BASELINE is checked first.

        Raises WrongResultError where BASELINE itself is wrong: then nothing here can be trusted.
        """

    def check(self, config: Config) -> Checked | Failure:
        """Run once on NaN-poisoned outputs and compare with the float64 reference."""

    def warm_up(self) -> None:
        """Run BASELINE until the clocks have settled."""

    def sample(self, config: Config) -> float | Failure:
        """One timing, for screening only."""

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """Both timed back to back, the order mirrored: ABBA, or BAAB when `config_first`."""

    def close(self) -> None:
        """Give the GPU back."""
