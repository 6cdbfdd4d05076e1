"""How long a sample is, when a clock is too coarse for it, and what is queued; a stand-in takes torch's place."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fusetune.errors import MeasurementError
from fusetune.measure.timers import (
    _KEPT_GRAPHS,
    ENOUGH_ARM_US,
    EXPECTED_SPEEDUP,
    GRAPH_BELOW_US,
    MIN_ARM_US,
    TICKS_PER_SAMPLE,
    UNLIKE,
    EventTimer,
    GraphTimer,
    check_tick,
    event_tick_us,
    is_short,
    launches_for,
    pair_launches,
)

TIMES_US = (0.3, 1.7, 5.3, 13.2, 49.9, 50.0, 333.0, 1999.0, 2000.0, 2001.0, 1e6)
SETS = (1, 2, 3, 7, 64, 1000)


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("floor_us", [None, 0.2, 7.4, 49.0, 278.0])
@pytest.mark.parametrize("baseline_us", TIMES_US)
def test_a_sample_is_whole_rounds_of_the_input_sets_and_no_more_than_it_takes(
    baseline_us: float, floor_us: float | None, sets: int
) -> None:
    launches = launches_for(baseline_us, floor_us, sets)
    assert launches % sets == 0
    assert launches >= sets
    quickest_us = baseline_us / EXPECTED_SPEEDUP
    if floor_us is not None:
        quickest_us = max(floor_us, min(quickest_us, GRAPH_BELOW_US / EXPECTED_SPEEDUP))
    assert launches * quickest_us >= MIN_ARM_US * (1 - 1e-12)
    assert (launches - sets) * quickest_us < MIN_ARM_US


def test_a_candidate_eight_times_as_fast_still_lasts_half_a_millisecond() -> None:
    assert (MIN_ARM_US, EXPECTED_SPEEDUP) == (500.0, 8)
    assert launches_for(20.0, None, 1) == 200
    assert launches_for(20.0, None, 30) == 210
    assert launches_for(20.1, None, 1) == 200
    assert launches_for(19.9, None, 1) == 202
    assert launches_for(32.0, 0.6, 72) == 144


def test_beside_a_slow_baseline_a_sample_is_as_long_as_the_roofline_lets_a_config_need() -> None:
    """A skinny problem: BASELINE takes 268 us of it, the best config 13, and nothing less than 7.4."""
    assert is_short(268.0, 7.4)
    assert launches_for(268.0, 7.4, 6) == 72
    assert is_short(49.0, None)
    assert not is_short(268.0, None)
    assert not is_short(959.0, 278.0)
    assert launches_for(959.0, 278.0, 1) == 2


@pytest.mark.parametrize("step", [1, 2, 7, 64])
@pytest.mark.parametrize("most", [64, 448, 6400])
@pytest.mark.parametrize("first_us", TIMES_US)
@pytest.mark.parametrize("second_us", TIMES_US)
def test_arms_of_a_pair_are_long_enough_and_the_slower_ones_is_the_longer(
    first_us: float, second_us: float, most: int, step: int
) -> None:
    most = most // step * step
    counts = pair_launches(first_us, second_us, most, step)
    assert counts == pair_launches(second_us, first_us, most, step)[::-1]
    (quick_us, many), (slow_us, few) = sorted(zip((first_us, second_us), counts, strict=True))
    for count, time_us in zip(counts, (first_us, second_us), strict=True):
        assert count % step == 0
        assert step <= count <= most
        assert count == most or count * time_us >= ENOUGH_ARM_US * (1 - 1e-12)
    assert few * slow_us >= many * quick_us * (1 - 1e-12)
    if slow_us < UNLIKE * quick_us:
        assert few == many
    # Nor longer than needed: by one step less, the one would be too short, or the slower one's the shorter arm.
    assert many == step or (many - step) * quick_us < ENOUGH_ARM_US
    assert few in {step, many} or (few - step) * slow_us < max(ENOUGH_ARM_US, many * quick_us)


def test_a_time_that_is_nothing_has_arms_of_a_whole_sample() -> None:
    assert pair_launches(0.0, 300.0, 60, 5) == pair_launches(300.0, 0.0, 60, 5) == (60, 60)


@pytest.mark.parametrize(("tick_us", "sample_us"), [(1.0, 500.0), (0.5, 500.0), (0.0, 500.0), (2.0, 1000.0)])
def test_a_clock_that_ticks_often_enough_in_a_sample_is_accepted(tick_us: float, sample_us: float) -> None:
    raised = None
    try:
        check_tick(tick_us, sample_us)
    except MeasurementError as error:
        raised = error
    assert raised is None


@pytest.mark.parametrize(("tick_us", "sample_us"), [(1.001, 500.0), (1.0, 499.0), (16.0, 500.0)])
def test_a_clock_that_is_too_coarse_for_a_sample_is_an_error_with_both_figures(
    tick_us: float, sample_us: float
) -> None:
    with pytest.raises(MeasurementError) as caught:
        check_tick(tick_us, sample_us)
    message = str(caught.value)
    assert f"steps by {tick_us:.3f} us" in message
    assert f"lasts only {sample_us:.0f} us" in message
    assert f"{TICKS_PER_SAMPLE} steps" in message
    assert caught.value.exit_code == 4


def test_choosing_the_length_of_a_sample_loads_no_torch() -> None:
    script = (
        "import sys; from fusetune.measure.timers import launches_for, check_tick\n"
        "launches_for(20.0, None, 3), check_tick(0.5, 500.0)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what is queued


class FakeTorch(ModuleType):
    """Runs queued work at once on a clock in microseconds; `log` tells what ran."""

    int8 = "int8"

    def __init__(self, tick_us: float = 0.5) -> None:
        super().__init__("torch")
        self.now_us, self._tick_us = 0.0, tick_us
        self.log: list[Any] = []
        self.capturing: FakeGraph | None = None
        torch = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at_us: float | None = None

            def record(self) -> None:
                torch.now_us += 0.2
                self.at_us = torch.now_us

            def elapsed_time(self, end: Any) -> float:
                return round((end.at_us - self.at_us) / torch._tick_us) * torch._tick_us / 1e3

        class Stream:
            pass

        class Inside:
            def __init__(self, stream: Stream) -> None:
                assert isinstance(stream, Stream)

            def __enter__(self) -> None:
                torch.log.append("stream")

            def __exit__(self, *_: object) -> None:
                torch.log.append("end of stream")

        self.cuda = SimpleNamespace(
            Event=Event,
            Stream=Stream,
            stream=Inside,
            CUDAGraph=lambda: FakeGraph(torch),
            synchronize=lambda: torch.log.append("synchronize"),
        )

    def empty(self, size: int, *, dtype: str, device: str) -> Any:
        assert (dtype, device) == ("int8", "cuda")
        return SimpleNamespace(zero_=lambda: self.log.append(("flush", size)))

    def run(self, arm: Any, index: int) -> None:
        """A launch: an arm's name is its microseconds."""
        if self.capturing is not None:
            self.capturing.launches.append((arm, index))
            return
        self.log.append((arm, index))
        self.now_us += arm


class FakeGraph:
    def __init__(self, torch: FakeTorch) -> None:
        self._torch = torch
        self.launches: list[tuple[Any, int]] = []

    def capture_begin(self) -> None:
        self._torch.capturing = self

    def capture_end(self) -> None:
        self._torch.capturing = None

    def replay(self) -> None:
        assert self._torch.capturing is None
        self._torch.log.append(("replay", self))
        for arm, index in self.launches:
            self._torch.run(arm, index)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    fake = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def launched(torch: FakeTorch) -> list[Any]:
    return [item for item in torch.log if isinstance(item, tuple) and isinstance(item[0], float)]


def test_a_graph_sample_walks_through_the_input_sets_and_gives_the_time_of_one_launch(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=3, launches=6)
    assert (timer.name, timer.launches) == ("graph", 6)
    assert timer.times_us([10.0, 20.0, 10.0]) == pytest.approx([10, 20, 10], rel=0.02)
    torch.log.clear()
    timer.times_us([10.0, 20.0, 10.0])
    lead, replayed = launched(torch)[:3], launched(torch)[3:]
    assert lead == [(10.0, index) for index in (0, 1, 2)]
    assert replayed == [(arm, index) for arm in (20.0, 10.0) for index in (0, 1, 2, 0, 1, 2)]


@pytest.mark.parametrize(
    ("sets", "launches", "lead"), [(1, 1, 1), (1, 4, 2), (1, 5, 3), (3, 3, 3), (3, 9, 6), (4, 8, 4)]
)
def test_the_leading_arm_is_half_a_sample_in_whole_rounds_of_the_input_sets(
    torch: FakeTorch, sets: int, launches: int, lead: int
) -> None:
    timer = GraphTimer(torch.run, sets=sets, launches=launches)
    timer.times_us([10.0, 20.0])
    torch.log.clear()
    assert timer.times_us([10.0, 20.0]) == pytest.approx([10, 20], rel=0.1)
    assert [arm for arm, _ in launched(torch)] == [10.0] * lead + [20.0] * launches


def test_arms_may_have_fewer_launches_each_its_own_number(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=2, launches=8)
    fewer = {10.0: 2, 20.0: 6}
    timer.times_us([20.0, 20.0, 10.0, 30.0], fewer)
    torch.log.clear()
    assert timer.times_us([20.0, 20.0, 10.0, 30.0], fewer) == pytest.approx([20, 20, 10, 30], rel=0.1)
    walk = [(arm, index % 2) for arm, count in ((20.0, 4), (20.0, 6), (10.0, 2), (30.0, 8)) for index in range(count)]
    assert launched(torch) == walk
    events = EventTimer(torch.run, sets=2, launches=3, flush_bytes=0)
    torch.log.clear()
    assert events.times_us([200.0, 300.0], {300.0: 1}) == pytest.approx([200, 300], rel=0.01)
    assert launched(torch) == [(200.0, 0), (200.0, 1), (200.0, 0), (300.0, 0)]


def test_all_sets_are_put_back_before_an_arm_that_meets_few_of_them(torch: FakeTorch) -> None:
    """What is put back last is in L2, and so would be all that an arm meets, were only that put back."""
    timer = GraphTimer(torch.run, sets=8, launches=8, put_back=lambda index: torch.run(0.5, index))
    timer.times_us([20.0, 20.0, 10.0], {20.0: 2})
    torch.log.clear()
    timer.times_us([20.0, 20.0, 10.0], {20.0: 2})
    back = [(0.5, index) for index in range(8)]
    assert launched(torch) == [
        *(*back, (20.0, 0)),
        *(*back, (20.0, 0), (20.0, 1)),
        *(*back, *((10.0, index) for index in range(8))),
    ]


def test_nothing_is_captured_between_two_arms(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=8, launches=8, put_back=lambda index: torch.run(0.5, index))
    for fewer in ({}, {10.0: 2, 20.0: 6}):
        torch.log.clear()
        timer.times_us([20.0, 20.0, 10.0], fewer)
        first = next(place for place, what in enumerate(torch.log) if what[0] == "replay")
        assert "stream" in torch.log[:first]
        assert "stream" not in torch.log[first:]


def test_where_l2_is_flushed_before_each_arm_the_leading_one_is_half_of_one_walk(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=6, launches=6, flush_bytes=1000)
    timer.times_us([10.0, 20.0])
    torch.log.clear()
    timer.times_us([10.0, 20.0])
    assert launched(torch) == [*((10.0, index) for index in range(3)), *((20.0, index) for index in range(6))]


def test_a_leading_arm_as_long_as_the_others_is_captured_once(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=3, launches=3)
    timer.times_us([10.0, 10.0])
    assert torch.log.count("stream") == 1


def test_the_arms_of_a_graph_sample_are_queued_without_a_wait_in_between(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=1, launches=4)
    timer.times_us([10.0, 10.0, 20.0])
    torch.log.clear()
    timer.times_us([10.0, 20.0, 20.0, 10.0])
    kinds = [item if isinstance(item, str) else item[0] for item in torch.log if not isinstance(item[0], float)]
    assert kinds == ["replay", "replay", "replay", "replay", "synchronize"]


def test_an_arm_is_captured_once_and_the_last_few_are_kept(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=1, launches=2)
    arms = [float(number) for number in range(1, _KEPT_GRAPHS + 2)]

    def captures(arm: float) -> bool:
        torch.log.clear()
        timer.times_us([arm])
        return "stream" in torch.log

    assert all(captures(arm) for arm in arms[:_KEPT_GRAPHS])
    assert not captures(arms[0])  # It is now the one used last,
    assert captures(arms[_KEPT_GRAPHS])
    assert captures(arms[1])  # and this one had to go.
    assert not captures(arms[0])


def test_arms_are_captured_anew_the_last_one_first_while_the_old_captures_are_still_there(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=1, launches=4)
    timer.times_us([5.0, 10.0, 20.0])

    def replayed() -> list[Any]:
        torch.log.clear()
        timer.times_us([10.0, 20.0])
        return [item[1] for item in torch.log if isinstance(item, tuple) and item[0] == "replay"]

    old = replayed()
    held, torch.log[:] = [weakref.ref(graph) for graph in old], []
    del old
    alive: list[int] = []
    run = timer._run
    timer._run = lambda arm, index: (alive.append(sum(one() is not None for one in held)), run(arm, index))[1]
    torch.log.clear()
    timer.renew([10.0, 20.0])
    launched_outside = [arm for arm, _ in launched(torch)]
    assert launched_outside == [20.0, 20.0, 10.0, 10.0], "a launch before each capture: two lengths of each"
    assert set(alive) == {2}
    torch.log.clear()
    assert all(one() is None for one in held)
    assert len(replayed()) == 2


def test_arms_are_captured_anew_with_other_numbers_of_launches(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=2, launches=8)
    timer.times_us([5.0, 10.0, 20.0], {10.0: 6, 20.0: 2})
    timer.renew([10.0, 20.0], {20.0: 4})
    torch.log.clear()
    timer.times_us([20.0, 10.0, 20.0], {20.0: 4})
    timer.times_us([10.0, 20.0], {20.0: 4})
    assert "stream" not in torch.log, "all were there"
    timer.times_us([5.0, 10.0], {10.0: 6})
    assert torch.log.count("stream") == 1, "what was before is gone, and the other arm's is not"


def test_what_a_kept_graph_writes_to_lives_as_long_as_it_does(torch: FakeTorch) -> None:
    class Workspace:
        pass

    made: dict[float, weakref.ref[Workspace]] = {}

    def run(arm: float, index: int) -> Workspace:
        torch.run(arm, index)
        workspace = Workspace()
        made.setdefault(arm, weakref.ref(workspace))
        return workspace

    timer = GraphTimer(run, sets=1, launches=2)
    arms = [float(number) for number in range(1, _KEPT_GRAPHS + 2)]
    for arm in arms:
        timer.times_us([arm])
    assert [made[arm]() is not None for arm in arms] == [False] + [True] * _KEPT_GRAPHS


def test_a_capture_that_fails_is_ended_and_not_kept(torch: FakeTorch) -> None:
    fails = True

    def run(arm: float, index: int) -> None:
        if fails and torch.capturing is not None:
            raise RuntimeError("planted")
        torch.run(arm, index)

    timer = GraphTimer(run, sets=1, launches=2)
    with pytest.raises(RuntimeError, match="planted"):
        timer.times_us([10.0])
    assert torch.capturing is None
    fails = False
    assert timer.times_us([10.0]) == pytest.approx([10.0], rel=0.05)


def test_no_garbage_is_collected_while_launches_are_captured(torch: FakeTorch) -> None:
    """A kernel of Triton 3.8 that is collected is unloaded, which ends a capture."""
    collected_in_a_capture: list[bool] = []

    class Kernel:
        def __del__(self) -> None:
            collected_in_a_capture.append(torch.capturing is not None)

    def run(arm: float, index: int) -> None:
        torch.run(arm, index)
        garbage = Kernel()
        garbage.itself = garbage  # type: ignore[attr-defined]

    def put_back(index: int) -> None:
        run(1.0, index)

    often = gc.get_threshold()
    gc.set_threshold(1)
    try:
        GraphTimer(run, sets=2, launches=4, put_back=put_back).times_us([10.0, 20.0])
        gc.collect()
    finally:
        gc.set_threshold(*often)
    assert len(collected_in_a_capture) > 8
    assert not any(collected_in_a_capture)
    assert gc.isenabled()


def test_a_graph_sample_flushes_before_each_arm_and_times_none_of_it(torch: FakeTorch) -> None:
    timer = GraphTimer(torch.run, sets=1, launches=2, flush_bytes=1000)
    timer.times_us([10.0, 20.0])
    torch.log.clear()
    assert timer.times_us([10.0, 20.0]) == pytest.approx([10, 20], rel=0.1)
    queued = [item for item in torch.log if not isinstance(item, tuple) or item[0] != "replay"]
    assert queued == [("flush", 1000), (10.0, 0), ("flush", 1000), (20.0, 0), (20.0, 0), "synchronize"]


@pytest.mark.parametrize("flush_bytes", [0, 1000])
def test_an_event_sample_flushes_before_each_launch_and_times_none_of_it(torch: FakeTorch, flush_bytes: int) -> None:
    timer = EventTimer(torch.run, sets=2, launches=3, flush_bytes=flush_bytes)
    assert (timer.name, timer.launches) == ("events", 3)
    assert timer.times_us([100.0, 300.0]) == pytest.approx([100, 300], rel=0.01)
    flush = [("flush", 1000)] if flush_bytes else []
    expected = [
        item for arm in (100.0, 300.0) for launch in ((arm, 0), (arm, 1), (arm, 0)) for item in (*flush, launch)
    ]
    assert torch.log == [*expected, "synchronize"]


@pytest.mark.parametrize("tick_us", [0.5, 1.0])
def test_the_tick_is_the_smallest_difference_between_two_readings(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch, tick_us: float
) -> None:
    readings = iter([6, 8, 8, 9, 12] * 40)

    class Event:
        def __init__(self, enable_timing: bool) -> None: ...

        def record(self) -> None: ...

        def elapsed_time(self, end: Any) -> float:
            return next(readings) * tick_us / 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert event_tick_us() == pytest.approx(tick_us)


def test_readings_that_are_all_alike_bound_the_tick_by_themselves(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None: ...

        def record(self) -> None: ...

        def elapsed_time(self, end: Any) -> float:
            return 4e-3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert event_tick_us() == pytest.approx(4.0)
