"""A sweep on a simulated GPU that may be killed at any moment, and what its journals hold.

`main` sweeps slowly, without a compiler and without a GPU; called again after a kill, it goes on. `python -m
tests.support.killable` forks such sweeps, since what they import takes longer than they do.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import BlockTimes, Checked, Failure
from fusetune.store.journal import Block, Candidate, Record, Sample
from fusetune.tune.request import SweepRequest
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import FakeCompiler, ListedSpec, install
from tests.support.sample import BASELINE, Config, make_problem, tile

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
FAST = tile(rows=64, columns=16, depth=128, num_stages=3)
SAFE = tile(rows=64, columns=16, depth=128)
WARPS8 = tile(rows=64, columns=64, depth=32, num_warps=8)
OTHER = tile(rows=32, columns=32, depth=64, num_stages=4)
BROKEN = tile(rows=32, columns=64, depth=64)
SPILLING = tile(rows=64, columns=128, depth=32)
TOO_LARGE = tuple(tile(rows=256, columns=block) for block in (16, 32, 64))
"""Rejected by their numbers alone: the problem has 128 rows."""

TRUE_US = {BASELINE: 20.0, FAST: 8.0, SAFE: 10.0, WARPS8: 12.0, OTHER: 15.0, BROKEN: 1.0, SPILLING: 1.0}
CONFIGS = tuple(config for config in TRUE_US if config != BASELINE) + TOO_LARGE
FAILURES = {BROKEN: Failure("nan", "planted")}
NOISE = 0.001

CHECK_S, SAMPLE_S, BLOCK_S = 0.01, 0.0015, 0.002
BEGUN = "begun"
"""The file in the folder that gets a line as each measurement begins."""


def request_of(folder: Path, *configs: Config, **changes: Any) -> SweepRequest:
    """The sweep of one problem over `configs` (CONFIGS, where there are none) into this folder."""
    request = SweepRequest(
        spec=ListedSpec(*(configs or CONFIGS)),
        problem=PROBLEM,
        output=folder / "configs",
        runs=folder / "runs",
        space="full",
    )
    return msgspec.structs.replace(request, **changes)


def install_compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    """A compiler for which SPILLING spills."""
    return install(monkeypatch, {SPILLING: Resources(255, 120, 4096)})


class Taken:
    """What was measured for some runs and not taken over from others: how often each thing was."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.checks: Counter[Config] = Counter()
        self.samples: Counter[tuple[int, Config]] = Counter()
        self.blocks: Counter[tuple[str, Config, Config]] = Counter()
        self.discarded = 0
        configs: dict[int, Config] = {}
        for record in records:
            if isinstance(record, Candidate):
                assert configs.setdefault(record.id, record.config) == record.config, "one number, two configs"
                if record.status in {"checked", "failed"} and not record.reused:
                    self.checks[record.config] += 1
            elif isinstance(record, Sample) and not record.reused:
                self.samples[record.round, configs[record.id]] += 1
            elif isinstance(record, Block):
                # Discarded ones are taken again, so that only those that count are equally many in every run.
                if record.discarded:
                    self.discarded += 1
                else:
                    self.blocks[record.phase, configs[record.baseline_id], configs[record.id]] += 1

    @property
    def candidates_samples(self) -> dict[tuple[int, Config], int]:
        """The screening samples of all but BASELINE, whose samples close and open every sequence."""
        return {(number, config): count for (number, config), count in self.samples.items() if config != BASELINE}

    def __len__(self) -> int:
        return self.checks.total() + self.samples.total() + self.blocks.total() + self.discarded


class SlowMeasurer(FakeMeasurer):
    """A simulated GPU that takes its time, and writes down when a measurement begins."""

    def __init__(self, begun: Path) -> None:
        super().__init__(RTX4090, TRUE_US.__getitem__, noise=NOISE, failures=FAILURES, discard_every=11)
        self._begun = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._in_block = False

    def check(self, config: Config) -> Checked | Failure:
        self._take(CHECK_S)
        return super().check(config)

    def sample(self, config: Config) -> float | Failure:
        if not self._in_block:
            self._take(SAMPLE_S)
        return super().sample(config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        self._take(BLOCK_S)
        self._in_block = True
        try:
            return super().block(baseline, config, config_first=config_first)
        finally:
            self._in_block = False

    def _take(self, seconds: float) -> None:
        os.write(self._begun, b"\n")
        time.sleep(seconds)


def main(folder: Path) -> None:
    """Sweep, or go on sweeping."""
    install_compiler(pytest.MonkeyPatch())
    folder.mkdir(parents=True, exist_ok=True)
    sweep(request_of(folder), SlowMeasurer(folder / BEGUN), SilentProgress())


def serve() -> None:
    """For each folder that is named, tell the number of the process that sweeps there, and when asked, how it ended."""
    import_module("scipy.stats")
    for folder in sys.stdin:
        process = os.fork()
        if not process:
            main(Path(folder.rstrip("\n")))
            os._exit(0)
        print(process, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
