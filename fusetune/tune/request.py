"""What a sweep is asked for, and what it answers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import structs

from fusetune.compiler.processes import CompileProcesses
from fusetune.core.config import Config
from fusetune.core.decision import KeepRule
from fusetune.core.problem import Problem
from fusetune.core.space import SpaceName
from fusetune.ops.before import before_of, reference_of
from fusetune.ops.spec import KernelSpec
from fusetune.ops.types import register
from fusetune.store.schema import Entry

CacheMode = Literal["cold", "warm"]
SpaceChoice = SpaceName | Literal["rules"]
"""A space by name, or what the conditional rules propose once BASELINE is compiled."""


class SweepRequest(msgspec.Struct, frozen=True):
    """One problem to tune. `output` and `runs` are the folders for YAML and journals; `workers` compile at once.

    `fresh` takes nothing over from earlier runs. `prior` leaves out what the cost model predicts to be far too slow,
    and what by it and by others that were measured cannot win any more.
    `allow_library` lets a library win, which is timed in any case. `exclusive` makes another process on the GPU an
    error. `lock_mhz` is where the SM clock is held while measuring; None leaves the clocks alone.
    `budget_s` is how long candidates are compiled, checked and screened before no neighbours are asked for any more,
    and `grow_rounds` how often they are at most, as a replay of a run that its budget ended has to know (`rounds_of`).
    `processes` compile, where the caller keeps some for many requests; `workers` says nothing then. `since` is the name
    of a run: nothing is taken over from those before it.
    """

    spec: KernelSpec
    problem: Problem
    output: Path
    runs: Path
    space: SpaceChoice = "standard"
    rule: KeepRule = KeepRule()
    cache: CacheMode = "cold"
    seed: int = 0
    workers: int | None = None
    fresh: bool = False
    prior: bool = True
    allow_library: bool = False
    exclusive: bool = False
    lock_mhz: int | None = None
    budget_s: float | None = None
    grow_rounds: int | None = None
    processes: CompileProcesses | None = None
    since: str = ""

    def __post_init__(self) -> None:
        # A spec that was made in code, and not loaded by its name: what is written is read back in its types.
        register(self.spec.name, self.spec.types)

    @property
    def baseline(self) -> Config:
        """The op's BASELINE for this problem."""
        return self.spec.baseline(self.problem)

    @property
    def before(self) -> Config | None:
        """The config that the program runs today; None where that is BASELINE."""
        return before_of(self.spec, self.problem)

    @property
    def reference(self) -> Config:
        """What everything is compared with: Before, or BASELINE."""
        return reference_of(self.spec, self.problem)


@contextmanager
def with_processes(request: SweepRequest) -> Iterator[SweepRequest]:
    """The request with processes that compile all that it leads to: its own, or some that end with it."""
    if request.processes is not None:
        yield request
        return
    with CompileProcesses(request.workers) as processes:
        yield structs.replace(request, processes=processes)


class Ranked(msgspec.Struct, frozen=True):
    """A candidate among the best, with its screening or predicted time in microseconds."""

    config: Config
    time_us: float


class SweepResult(msgspec.Struct, frozen=True):
    """The entry decided on and where it went; `file` is None when an entry already there was left in place.

    `has_model`: whether predicted times are a cost model's; without one they are the roofline's, the same for all.
    `tried`: how many candidates beside the reference the run tried; `failures`: how many of them were rejected or
    failed, by reason. `screened` are all that were timed and did not fail later, as `best` has the first of.
    """

    run: str
    entry: Entry
    best: tuple[Ranked, ...]
    file: Path | None
    journal: Path
    target_name: str
    kept_instead: Entry | None = None
    has_model: bool = True
    tried: int = 0
    failures: Mapping[str, int] = {}
    screened: tuple[Ranked, ...] = ()


def new_run_id() -> str:
    """A run's name: UTC time and four random hex digits, such as 20261123T101500-3f9a."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def today() -> str:
    """The day in UTC, ISO 8601."""
    return now()[:10]
