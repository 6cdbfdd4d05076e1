"""How many launches the arms of a block have where what they were numbered by was no guide; there is no GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fusetune.measure.session import GpuSession
from tests.support.sample import Config
from tests.unit.measure.test_session import BASELINE, OTHER, THIRD, Timer, stand_ins, timing

__all__ = ["stand_ins"]  # A fixture that each test here has.


@pytest.mark.parametrize(("timer", "launches"), [("graph", 1000), ("events", 60)])
@pytest.mark.parametrize("slow", [BASELINE, OTHER])
def test_a_config_that_was_slow_as_its_launches_were_numbered_has_arms_of_half_a_millisecond_all_the_same(
    monkeypatch: pytest.MonkeyPatch, timer: str, launches: int, slow: Config
) -> None:
    session = timing(monkeypatch, timer, 1, launches, baseline=30.0, other=30.0)
    timed: Any = session._timer
    undisturbed = timed.times_us

    def waiting_for_the_host(arms: Sequence[Any], fewer: Mapping[Any, int]) -> list[float]:
        times: list[float] = undisturbed(arms, fewer)
        if len(timed.launched) > 1:
            return times
        return [time_us + 400.0 * (arm[0] == slow) for time_us, arm in zip(times, arms, strict=True)]

    timed.times_us = waiting_for_the_host
    block = session.block(BASELINE, OTHER, config_first=True)
    each = block.launches or (launches, launches)
    assert min(each) * 30.0 >= 500.0
    assert timed.launched[-1] == {BASELINE: each[0], OTHER: each[1]}
    assert (block.baseline_us, block.us) == (30.0, 30.0)
    assert session.block(BASELINE, OTHER, config_first=False).launches == block.launches


def test_a_pair_that_fell_as_it_began_begins_anew_when_it_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session = timing(monkeypatch, "graph", 11, 88, baseline=836.0, other=40.0, third=40.0)
    session.block(BASELINE, OTHER, config_first=True)
    timer: Any = session._timer
    sound = timer.times_us

    def falls(*_: object) -> list[float]:
        raise MemoryError

    timer.times_us = falls
    with pytest.raises(MemoryError):
        session.block(BASELINE, THIRD, config_first=True)
    timer.times_us = sound
    assert session.block(BASELINE, THIRD, config_first=True).launches == (11, 55)


def test_screening_again_has_as_many_launches_as_before_whatever_the_last_sample_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = timing(monkeypatch, "graph", 1, 400, baseline=9.0)
    screening: Any = session._screening
    for time_us in (7.0, 7.04, 7.1, 7.02):
        monkeypatch.setattr(Timer, "US", {BASELINE: 9.0, OTHER: time_us})
        assert [GpuSession.sample(session, config) for config in (OTHER, BASELINE)] == [time_us, 9.0]
    assert screening.launches == 200
    assert screening.launched[2:] == [{OTHER: 143}, {BASELINE: 143}] * 3
