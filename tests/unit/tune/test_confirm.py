"""The final on its own: which config counts as the fastest with 4 warps and 2 stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.core.config import BASELINE, Config
from fusetune.core.decision import KeepRule
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.store.journal import JournalWriter
from fusetune.tune.confirm import Bench, Final, confirm
from fusetune.tune.log import RunLog
from fusetune.tune.race import RaceResult

FAST = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3)
SCREENED = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128)
FASTER = Config(BLOCK_M=32, BLOCK_N=32, BLOCK_K=128)


def final_of(tmp_path: Path, times_us: dict[Config, float], *finalists: Config, screened: Config) -> Final:
    measurer = FakeMeasurer(find_target("rtx4090"), {BASELINE: 20.0, **times_us}.__getitem__)
    resources = {config: Resources(registers=64, stack_bytes=0, shared_bytes=16384) for config in times_us}
    raced = RaceResult(finalists=finalists, conservative=screened, standings=())
    with JournalWriter(tmp_path / "run.jsonl") as journal:
        log = RunLog(journal, "run", SilentProgress())
        return confirm(Bench(measurer, KeepRule(), 0, log), raced, resources)


def test_the_conservative_reference_is_the_fastest_of_the_final_not_of_the_screening(tmp_path: Path) -> None:
    """FAST gains 3.9 % on what screening took for the fastest 4-warp / 2-stage config, and 1.8 % on the real one."""
    times_us = {FAST: 9.8, SCREENED: 10.2, FASTER: 9.98}
    final = final_of(tmp_path, times_us, FAST, FASTER, screened=SCREENED)
    assert (final.best, final.conservative) == (FAST, FASTER)
    assert (final.chosen, final.decision.reason) == (FASTER, "conservative_gain_confirmed")
    assert final.over_conservative is not None
    assert final.over_conservative.gain.median == pytest.approx(1 - 9.8 / 9.98, abs=1e-3)


def test_a_conservative_config_slower_than_baseline_is_no_reference(tmp_path: Path) -> None:
    final = final_of(tmp_path, {FAST: 10.0, SCREENED: 21.0}, FAST, screened=SCREENED)
    assert (final.chosen, final.conservative) == (FAST, BASELINE)
    assert final.over_conservative == final.over_baseline[FAST]
