"""What the workflow needs of whatever measures: a GPU, a simulated one, or a recording."""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import msgspec

from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import Target


class GpuFacts(msgspec.Struct, frozen=True):
    """The GPU that a measurer times on and the software around it.

    `uuid` names the very card (None: there is none to share).
    """

    identity: TargetIdentity
    target: Target
    environment: Environment
    uuid: str | None = None

    @property
    def card(self) -> str | None:
        """What tells the card from others of its model in a journal: a hash, since a UUID is its owner's."""
        return None if self.uuid is None else hashlib.sha256(self.uuid.encode()).hexdigest()[:12]


class SamplingFacts(msgspec.Struct, frozen=True):
    """How samples are taken: one of `launches` launches over `input_sets` sets of inputs touches `touched_bytes`.

    `timer` is graph (one replay) or events (around each launch, L2 flushed before); `tick_us` the event clock's step.
    """

    input_sets: int
    launches: int
    touched_bytes: int
    l2_bytes: int
    timer: str = "graph"
    tick_us: float = 0.0


class Failure(msgspec.Struct, frozen=True, tag=True):
    """A candidate that did not come through: a code to count by, and what was seen.

    Codes: wrong_result, nan, out_of_memory, out_of_resources, launch_error, crash, hang, unsupported, killed.
    """

    reason: str
    detail: str
    fatal: bool = False


BY_MACHINE: Final = frozenset({"killed", "out_of_memory"})
"""Codes of what somebody else did: another process ended the worker, or has the GPU's memory."""


class Checked(msgspec.Struct, frozen=True, tag=True):
    """A candidate whose results are right: its relative Frobenius error, and the rough time of one launch."""

    error: float
    rough_us: float


class BlockTimes(msgspec.Struct, frozen=True):
    """One paired sample in the order ABBA (or BAAB): microseconds a launch of each, and the state of the GPU.

    `discarded` says why the block must not count; `flags` what a reader should know. `launches`: how many an arm of
    each had, where those are fewer than SamplingFacts says.
    """

    baseline_us: float
    us: float
    discarded: str | None = None
    flags: tuple[str, ...] = ()
    sm_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    launches: tuple[int, int] | None = None


class Measurer(Protocol):
    """Checks and times configs of one problem on one GPU. Times are microseconds a launch."""

    def likely_target(self) -> Target | None:
        """What `facts` will most likely say, at once; None where there is no guess. Lets compiling begin early."""

    def facts(self) -> GpuFacts:
        """The GPU and the software; raises NoUsableGpuError where there is none."""

    def prepare(self, seed: int) -> SamplingFacts:
        """Begin anew, in a fresh process, with inputs drawn from `seed`.

        What all are held against, Before or BASELINE, is checked first.
        The first chooses how samples are taken, and those after it take them alike.
        Raises WrongResultError where that is wrong: then nothing here can be trusted.
        """

    def company(self) -> tuple[str, ...]:
        """The processes, other than our own, that compute on the GPU now; asked when it is held for us."""

    def standby(self, seed: int) -> None:
        """Get the process of the `prepare(seed)` that comes after the next ready in the background.

        Until `settle`, it may disturb timings.
        """

    def open_ahead(self) -> None:
        """Have the process that stands by open the session that was announced. This disturbs timings until `settle`."""

    def settle(self) -> None:
        """Return when the process that stands by rests: from here on nothing of ours but what is timed runs."""

    def check(self, config: Config) -> Checked | Failure:
        """Run once on NaN-poisoned outputs and compare with the float64 reference."""

    def warm_up(self) -> None:
        """Run Before, or BASELINE, until the clocks have settled."""

    def sample(self, config: Config) -> float | Failure:
        """One timing, for screening only."""

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """Both timed back to back, the order mirrored: ABBA, or BAAB when `config_first`."""

    def end(self) -> None:
        """Nothing more is asked: begin to give the GPU back, which `close` waits for."""

    def close(self) -> None:
        """Give the GPU back."""
