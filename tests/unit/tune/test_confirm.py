"""The final on its own: which config counts as the fastest with 4 warps and 2 stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusetune.core.decision import Gain, KeepRule
from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import BlockTimes, Failure
from fusetune.store.journal import JournalWriter
from fusetune.tune.confirm import Bench, Final, confirm
from fusetune.tune.final import times_over_first
from fusetune.tune.log import RunLog
from fusetune.tune.race import RaceResult
from tests.support.sample import BASELINE, Config, tile

FAST = tile(rows=64, columns=16, depth=128, num_stages=3)
SCREENED = tile(rows=64, columns=16, depth=128)
FASTER = tile(rows=32, columns=32, depth=128)


class Breaking(FakeMeasurer):
    """A GPU on which one config breaks in every block that it is in; it notes the pairs that were asked for."""

    def __init__(self, true_us: Callable[[Config], float], breaks: Config | None) -> None:
        super().__init__(find_target("rtx4090"), true_us)
        self.breaks = breaks
        self.pairs: list[tuple[Config, Config]] = []

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        if (baseline, config) not in self.pairs:
            self.pairs.append((baseline, config))
        if self.breaks in {baseline, config}:
            return Failure("crash", "planted")
        return super().block(baseline, config, config_first=config_first)


def final_of(
    tmp_path: Path,
    times_us: dict[Config, float],
    *finalists: Config,
    screened: Config,
    breaks: Config | None = None,
    pairs: list[tuple[Config, Config]] | None = None,
) -> Final:
    measurer = Breaking({BASELINE: 20.0, **times_us}.__getitem__, breaks)
    if pairs is not None:
        measurer.pairs = pairs
    used = dict.fromkeys(times_us, (0.25,))
    raced = RaceResult(finalists=finalists, conservative=screened, standings=())
    with JournalWriter(tmp_path / "run.jsonl") as journal:
        log = RunLog(journal, "run", SilentProgress(), BASELINE)
        return confirm(Bench(measurer, KeepRule(), 0, log), raced, used)


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
    assert final.over_conservative == final.over_reference[FAST]


OTHER = tile(rows=32, columns=16, depth=128, num_warps=2, num_stages=3)


def test_finalists_are_compared_with_one_another_and_only_the_best_with_baseline(tmp_path: Path) -> None:
    pairs: list[tuple[Config, Config]] = []
    final = final_of(tmp_path, {FAST: 9.0, OTHER: 8.8, SCREENED: 11.0}, FAST, OTHER, screened=SCREENED, pairs=pairs)
    assert (final.chosen, final.decision.reason) == (OTHER, "gain_confirmed")
    assert pairs == [(FAST, OTHER), (BASELINE, OTHER), (SCREENED, OTHER)]


def test_the_conservative_config_is_compared_with_baseline_where_the_best_does_not_gain_enough_on_it(
    tmp_path: Path,
) -> None:
    pairs: list[tuple[Config, Config]] = []
    final = final_of(tmp_path, {FAST: 9.9, SCREENED: 10.0}, FAST, screened=SCREENED, pairs=pairs)
    assert (final.chosen, final.decision.reason) == (SCREENED, "conservative_gain_confirmed")
    assert pairs == [(BASELINE, FAST), (SCREENED, FAST), (BASELINE, SCREENED)]
    assert final.over_reference[SCREENED].gain.median == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("breaks", [FAST, OTHER])
def test_a_finalist_that_breaks_does_not_take_those_it_was_compared_with_along(tmp_path: Path, breaks: Config) -> None:
    final = final_of(tmp_path, {FAST: 8.0, OTHER: 8.5, SCREENED: 11.0}, FAST, OTHER, screened=SCREENED, breaks=breaks)
    assert final.decision.reason == "gain_confirmed"
    assert final.chosen == (OTHER if breaks == FAST else FAST)


def test_where_every_finalist_breaks_baseline_stays(tmp_path: Path) -> None:
    final = final_of(tmp_path, {FAST: 8.0, SCREENED: 11.0}, FAST, screened=SCREENED, breaks=FAST)
    assert (final.chosen, final.decision.reason) == (BASELINE, "no_candidate_left")


@pytest.mark.parametrize(
    ("low", "high", "enough"),
    [
        (-0.004, 0.005, True),  # it is known to a hundredth
        (-0.3, -0.02, True),  # no equal, however far behind
        (-0.3, -0.005, False),  # perhaps an equal
        (0.02, 0.3, False),  # a faster one, whose equals the others may be
    ],
)
def test_finalists_are_timed_until_it_is_known_which_are_equals(low: float, high: float, enough: bool) -> None:
    asked: list[Callable[[Gain], bool]] = []

    class Told:
        def compare(self, *_: object, decided: Callable[[Gain], bool], **__: object) -> Failure:
            asked.append(decided)
            return Failure("crash", "planted")

    assert times_over_first(Told(), [FAST, SCREENED], 2) == {FAST: 1.0}  # type: ignore[arg-type]
    (decided,) = asked
    assert decided(Gain((low + high) / 2, low, high, 0.95, 0.02, 25)) == enough
