"""A lane whose GPU is simulated: all of it is real but what measures and what compiles.

How each GPU behaves stands in a JSON file that SIMULATED names: {uuid: {"slow_s", "hangs", "noisy", "throws", "dies"}},
where the last four hold for that many problems from the first on. True times follow from the configs, so that every GPU
finds the same.
"""

from __future__ import annotations

import json
import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from fusetune.core.config import Config
from fusetune.core.target import find_target
from fusetune.errors import MeasurementError
from fusetune.fleet import lane
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts
from fusetune.ops.spec import KernelSpec
from fusetune.tune.request import SweepRequest
from tests.support.fake_compiler import install
from tests.support.sample import BASELINE

SIMULATED = "FUSETUNE_TEST_SIMULATED"
GPU = find_target("rtx4090")


def true_us(problem: Any, config: Config) -> float:
    """Of BASELINE 20 us, of others between 10 and 30 us, by their names and the problem's."""
    if config == BASELINE:
        return 20.0
    return 10.0 + zlib.crc32(f"{problem.describe()} {config.label()}".encode()) % 2000 / 100


class Simulated(FakeMeasurer):
    """One GPU with a UUID and a temper."""

    def __init__(self, problem: Any, uuid: str, temper: dict[str, Any], *, seed: int = 0) -> None:
        super().__init__(GPU, lambda config: true_us(problem, config), noise=0.0005, seed=seed)
        self._uuid, self._temper, self._blocks_taken = uuid, temper, 0

    def facts(self) -> GpuFacts:
        import msgspec

        return msgspec.structs.replace(super().facts(), uuid=self._uuid)

    def check(self, config: Config) -> Checked | Failure:
        temper = self._temper
        time.sleep(temper.get("slow_s", 0.0))
        if temper.get("hangs"):
            time.sleep(1e6)
        if temper.get("throws"):
            raise MeasurementError("the measuring process was lost (planted)")
        if temper.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().check(config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        time.sleep(self._temper.get("slow_s", 0.0) / 10)
        times = super().block(baseline, config, config_first=config_first)
        if self._temper.get("noisy") and baseline == config and isinstance(times, BlockTimes):
            return BlockTimes(times.baseline_us, times.us * 1.2)
        return times


class Tempers:
    """The file: what a GPU does with its next problem."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def next_of(self, uuid: str) -> dict[str, Any]:
        told = json.loads(self._path.read_text())
        own = told.get(uuid, {})
        now = dict(own)
        for name in ("hangs", "noisy", "throws", "dies"):
            if own.get(name):
                own[name] -= 1
        told[uuid] = own
        temporary = self._path.with_suffix(f".{uuid}")
        temporary.write_text(json.dumps(told))
        temporary.replace(self._path)
        return now


def measuring(spec: KernelSpec, request: SweepRequest, limit_s: float) -> Simulated:
    uuid = os.environ["CUDA_VISIBLE_DEVICES"]
    return Simulated(request.problem, uuid, Tempers(Path(os.environ[SIMULATED])).next_of(uuid))


def main(descriptor: int) -> None:
    install(pytest.MonkeyPatch())
    lane.main(descriptor, measuring)
