"""What triton.testing repeats counts once a call: it repeats most what is fastest, and all would take equally long."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fusetune.capture.timing import LaunchTimer, Times  # noqa: E402


class Event:
    def record(self) -> None:
        pass

    def elapsed_time(self, _other: Event) -> float:
        return 0.002


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the GPU was kept busy for each launch that was timed."""
    found: list[bool] = []

    def events(*_: Any, busy: bool = True) -> tuple[Event, Event]:
        found.append(busy)
        return Event(), Event()

    monkeypatch.setattr(LaunchTimer, "events", events)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return found


def launch(times: Times, key: str, count: int, benchmark: set[Any] | None) -> None:
    for _ in range(count):
        with times.around(key, None, None, (), None, {}, benchmark=benchmark):
            pass


def test_a_call_that_repeats_a_launch_counts_it_once(busy: list[bool]) -> None:
    times = Times()
    launch(times, "plain", 3, None)
    assert times.total_us() == pytest.approx(6.0)
    launch(times, "timed", 40, set())
    assert times.total_us() == pytest.approx(8.0)
    launch(times, "timed", 7, set())
    assert times.total_us() == pytest.approx(10.0)
    assert busy[:3] == [True] * 3
    assert not any(busy[3:]), "the program times these itself"
