"""What a session does around its timers; there is no GPU, and what would need one is a stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from fusetune.measure import session as module
from fusetune.measure.nvml import GpuState
from fusetune.measure.protocol import Checked, Failure, SamplingFacts
from fusetune.measure.session import STILL_TRUE_S, WARM_UP_S, GpuSession
from tests.support.sample import BASELINE, Config

OTHER, THIRD = Config(num_warps=8), Config(num_warps=2)
SOUND, SLOWED = GpuState(sm_mhz=1980), GpuState(sm_mhz=1200, discard="thermal throttling")


class Clock:
    """Stands still but for what is timed."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


CLOCK = Clock()


class CountingMonitor:
    """Gives the planned states one after the other, the last one for ever."""

    def __init__(self, *states: GpuState) -> None:
        self.states, self.read = list(states), 0

    def state(self) -> GpuState:
        self.read += 1
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


class Timer:
    """Each arm takes a millisecond; what it says of a launch is in `US`, and 1 us for what is not there."""

    US: Mapping[Config, float] = {}

    def __init__(self, *how: Any) -> None:
        self.launches = how[2] if len(how) > 2 else 1
        self.step = how[1] if len(how) > 1 and self.name == "graph" else 1
        self.arms: list[Any] = []
        self.launched: list[Any] = []
        self.renewed: list[tuple[int, Any]] = []
        self.renewed_with: list[dict[Config, int]] = []
        self.how = how

    def renew(self, arms: Sequence[Any], fewer: Mapping[Any, int]) -> None:
        self.renewed.append((len(self.arms) // 5, arms))
        self.renewed_with.append({arm[0]: count for arm, count in fewer.items()})

    name = ""

    def times_us(self, arms: Sequence[Any], fewer: Mapping[Any, int] | None = None) -> list[float]:
        self.arms += arms
        self.launched.append({arm[0]: (fewer or {}).get(arm, self.launches) for arm in arms})
        CLOCK.now_s += 1e-3 * len(arms)
        return [self.US.get(arm[0], 1.0) for arm in arms]


class Graphs(Timer):
    name = "graph"


class Events(Timer):
    name = "events"


class Session(GpuSession):
    """Everything but the tensors: 4 input sets of 100 bytes, an L2 of 100."""

    def __init__(self, monitor: CountingMonitor, *, baseline_us: float = 20.0, floor_us: float | None = None) -> None:
        self._baseline = BASELINE
        self._monitor = monitor  # type: ignore[assignment]
        self._sets, self._launchers, self._wanted_sets = [{}, {}, {}, {}], {}, 4
        self._set_bytes, self._l2_bytes, self._cold = 100, 100, True
        self._timer = self._screening = Graphs(None, 4, 4)  # type: ignore[assignment]
        self._busy_until = -1e9
        self._loaded, self._last_seen, self._blocks_of = False, None, (None, 0)
        self._fewer, self._sampled_us = {}, {}
        self.baseline_us, self.floor_us = baseline_us, floor_us
        self.happened: list[str] = []
        self.outcome: Checked | Failure = Checked(1e-4, 30.0)

    def check(self, config: Config) -> Checked | Failure:
        self.happened.append(f"check {config.label()}")
        return self.outcome

    def _floor_us(self) -> float | None:
        return self.floor_us

    def sample(self, config: Config) -> float:
        self.happened.append(f"sample {config.label()}")
        return self.baseline_us


def timing(monkeypatch: pytest.MonkeyPatch, timer: str, sets: int, launches: int, **us: float) -> Session:
    """A session that times so, BASELINE and the other config taking so many microseconds a launch."""
    named = {"baseline": BASELINE, "other": OTHER, "third": THIRD}
    monkeypatch.setattr(Timer, "US", {named[name]: time_us for name, time_us in us.items()})
    session = Session(CountingMonitor(SOUND))
    session._sets, session._l2_bytes = [{} for _ in range(sets)], 33 * sets
    session._use(timer, launches, sets)
    return session


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GraphTimer", Graphs)
    monkeypatch.setattr(module, "EventTimer", Events)
    monkeypatch.setattr(module, "event_tick_us", lambda: 0.5)
    monkeypatch.setattr(module, "time", CLOCK)


# --- the state of the GPU


def test_the_state_after_a_block_is_that_before_the_next_which_follows_at_once() -> None:
    monitor = CountingMonitor(SOUND)
    session = Session(monitor)
    for count in (2, 3, 4):
        session.block(BASELINE, OTHER, config_first=False)
        assert monitor.read == count


def test_a_state_that_is_no_longer_fresh_is_read_again() -> None:
    monitor = CountingMonitor(SOUND)
    session = Session(monitor)
    session.block(BASELINE, OTHER, config_first=False)
    CLOCK.now_s += 1.01 * STILL_TRUE_S
    session.block(BASELINE, OTHER, config_first=False)
    assert monitor.read == 4


def test_a_block_after_one_that_ended_throttled_looks_again_and_counts_if_that_is_over() -> None:
    session = Session(CountingMonitor(SOUND, SLOWED, SOUND, SOUND))
    discarded = [session.block(BASELINE, OTHER, config_first=False).discarded for _ in range(3)]
    assert discarded == ["thermal throttling", None, None]


def test_a_block_is_discarded_where_throttling_began_in_it_or_still_lasts() -> None:
    session = Session(CountingMonitor(SOUND, SOUND, SLOWED, SLOWED, SOUND, SOUND))
    discarded = [session.block(BASELINE, OTHER, config_first=False).discarded is not None for _ in range(4)]
    assert discarded == [False, True, True, False]


def test_flags_of_both_ends_of_a_block_are_told_once() -> None:
    capped = GpuState(flags=("software power cap",))
    session = Session(CountingMonitor(SOUND, capped, SOUND))
    flags = [session.block(BASELINE, OTHER, config_first=False).flags for _ in range(3)]
    assert flags == [("software power cap",), ("software power cap",), ()]


# --- warming up


@pytest.mark.parametrize(
    ("clocks", "takes_s"),
    [([1980], WARM_UP_S), ([1000, 1200, 1400, 1600, 1800, 1980, 1990], 7 * WARM_UP_S / 4), ([None], WARM_UP_S)],
)
def test_warming_up_lasts_until_its_time_is_over_and_the_clock_has_settled(
    clocks: list[int | None], takes_s: float
) -> None:
    session = Session(CountingMonitor(*(GpuState(sm_mhz=mhz) for mhz in clocks)))
    began = CLOCK.now_s
    session.warm_up()
    assert takes_s <= CLOCK.now_s - began < takes_s + WARM_UP_S / 8


def test_a_clock_that_never_settles_is_given_up() -> None:
    session = Session(CountingMonitor(*(GpuState(sm_mhz=1000 + 900 * (n % 2)) for n in range(100))))
    began = CLOCK.now_s
    session.warm_up()
    assert CLOCK.now_s - began == pytest.approx(10 * WARM_UP_S, abs=WARM_UP_S / 3)


def test_a_gpu_that_has_just_been_timing_is_not_warmed_up_again() -> None:
    session = Session(CountingMonitor(SOUND))
    session.block(BASELINE, OTHER, config_first=False)
    before = CLOCK.now_s
    session.warm_up()
    assert CLOCK.now_s == before


def test_a_pair_of_many_blocks_is_captured_anew_each_time_that_it_may_have_been_looked_at() -> None:
    session = Session(CountingMonitor(SOUND))
    timer = Graphs()
    session._timer = timer  # type: ignore[assignment]
    for _ in range(60):
        session.block(BASELINE, BASELINE, config_first=False)
    own = ((BASELINE, 0), (BASELINE, 1))
    assert timer.renewed == [(25, own), (50, own)]
    other = msgspec.structs.replace(BASELINE, num_warps=8)
    for _ in range(26):
        session.block(BASELINE, other, config_first=True)
    assert timer.renewed[2:] == [(85, ((BASELINE, 0), (other, 0)))]


# --- how many launches an arm has


@pytest.mark.parametrize(
    ("timer", "sets", "launches", "baseline_us", "other_us", "of_each"),
    [
        ("graph", 11, 88, 836.0, 11.8, (11, 88)),  # a walk through the inputs is the least
        ("graph", 14, 84, 211.0, 15.5, (14, 84)),
        ("graph", 5, 60, 281.0, 70.0, (10, 30)),
        ("graph", 2, 60, 99.0, 50.0, (40, 40)),  # not twice as long: equally many
        ("graph", 2, 40, 110.0, 55.0, (20, 38)),
        ("graph", 9, 63, 25.0, 19.0, None),  # not even a sample's launches last long enough
        ("graph", 8, 8, 900.0, 10.0, None),
        ("events", 1, 6, 4217.0, 826.0, (1, 3)),
        ("events", 1, 6, 920.0, 725.0, (3, 3)),
        ("events", 1, 6, 300.0, 290.0, None),
    ],
)
def test_an_arm_of_what_is_slow_has_as_many_launches_as_it_needs(
    monkeypatch: pytest.MonkeyPatch,
    timer: str,
    sets: int,
    launches: int,
    baseline_us: float,
    other_us: float,
    of_each: tuple[int, int] | None,
) -> None:
    session = timing(monkeypatch, timer, sets, launches, baseline=baseline_us, other=other_us)
    blocks = [session.block(BASELINE, OTHER, config_first=first) for first in (True, False)]
    assert [block.launches for block in blocks] == [of_each] * 2
    assert [(block.baseline_us, block.us) for block in blocks] == [(baseline_us, other_us)] * 2
    each: Any = of_each or (launches, launches)
    ran: Any = session._timer
    assert ran.launched[-2:] == [{BASELINE: each[0], OTHER: each[1]}] * 2
    assert len(ran.launched) == 2 + (launches > sets), "what a launch takes is found out once a pair"
    if launches > sets:
        short = sets if timer == "events" else sets * -(-8 // sets)
        assert ran.launched[0] == {BASELINE: short, OTHER: short}


def test_baseline_against_itself_has_arms_that_are_no_longer_than_those_of_other_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = timing(monkeypatch, "graph", 11, 88, baseline=836.0)
    assert session.block(BASELINE, BASELINE, config_first=True).launches == (11, 11)
    assert session.block(BASELINE, OTHER, config_first=True).launches == (11, 88)
    assert session.block(BASELINE, BASELINE, config_first=True).launches == (11, 11)


def test_a_pair_that_is_not_decided_soon_has_longer_arms_up_to_whole_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    session = timing(monkeypatch, "graph", 11, 88, baseline=836.0, other=40.0)
    seen = [session.block(BASELINE, OTHER, config_first=number % 2 == 1).launches for number in range(120)]
    assert [seen[at : at + 25] for at in range(0, 100, 25)] == [
        [(11, 55)] * 25,
        [(22, 88)] * 25,
        [(44, 88)] * 25,
        [None] * 25,
    ]
    timer: Any = session._timer
    assert timer.renewed_with == [{BASELINE: 22, OTHER: 88}, {BASELINE: 44, OTHER: 88}, {}, {}]
    assert timer.launched[-1] == {BASELINE: 88, OTHER: 88}
    assert session.block(OTHER, BASELINE, config_first=True).launches == (55, 11), "another pair begins anew"


def test_a_config_that_is_disturbed_as_a_pair_begins_has_no_shorter_arms_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = timing(monkeypatch, "graph", 4, 80, baseline=100.0, other=30.0)
    timer: Any = session._timer
    undisturbed = timer.times_us
    timer.times_us = lambda arms, fewer: [
        time_us * (20 if place == 2 else 1) for place, time_us in enumerate(undisturbed(arms, fewer))
    ]
    assert session.block(BASELINE, OTHER, config_first=False).launches == (24, 68)


def test_screening_has_as_many_launches_of_all_that_may_be_among_the_quickest(monkeypatch: pytest.MonkeyPatch) -> None:
    session = timing(monkeypatch, "graph", 11, 88, baseline=836.0, other=13.0, third=25.0)
    screening, asked = session._screening, (BASELINE, BASELINE, OTHER, THIRD, OTHER, BASELINE)
    times = [GpuSession.sample(session, config) for config in asked]
    assert times == [836.0, 836.0, 13.0, 25.0, 13.0, 836.0]
    ran: Any = screening
    assert screening.launches == 44
    first = [{BASELINE: 44}, {BASELINE: 11}, {OTHER: 11}, {OTHER: 44}]  # nothing was known; then it is as quick
    assert ran.launched == [*first, {THIRD: 44}, {OTHER: 44}, {BASELINE: 11}]


# --- choosing the timer


@pytest.mark.parametrize(
    ("baseline_us", "floor_us", "timer", "launches"),
    [
        (49.9, None, "graph", 84),
        (50.1, None, "events", 80),
        (268.0, 7.4, "graph", 68),
        (959.0, 278.0, "events", 2),
    ],
)
def test_the_first_session_chooses_by_the_times_of_baseline_and_of_the_roofline(
    baseline_us: float, floor_us: float | None, timer: str, launches: int
) -> None:
    session = Session(CountingMonitor(SOUND), baseline_us=baseline_us, floor_us=floor_us)
    facts = session.begin()
    assert isinstance(facts, SamplingFacts)
    assert (facts.timer, facts.launches, facts.tick_us) == (timer, launches, 0.5)
    assert session.happened == [f"check {BASELINE.label()}", *[f"sample {BASELINE.label()}"] * 3]


@pytest.mark.parametrize(("set_bytes", "cold", "flush_bytes"), [(100, True, 0), (74, True, 300), (74, False, 0)])
def test_inputs_of_which_l2_holds_a_part_are_flushed_before_each_sample(
    monkeypatch: pytest.MonkeyPatch, set_bytes: int, cold: bool, flush_bytes: int
) -> None:
    monkeypatch.setattr(module, "_MOST_SETS", 4)
    session = Session(CountingMonitor(SOUND), baseline_us=20.0)
    session._set_bytes, session._cold = set_bytes, cold
    facts = session.begin()
    assert isinstance(facts, SamplingFacts)
    assert facts.timer == "graph"
    assert facts.touched_bytes == facts.launches * set_bytes + flush_bytes
    timers: list[Any] = [session._timer, session._screening, session._first_timer()]
    assert [timer.how[4] for timer in timers] == [flush_bytes] * 3


def test_samples_that_are_disturbed_as_the_timer_is_chosen_do_not_shorten_the_others() -> None:
    class Beside(Session):
        def sample(self, config: Config) -> float:
            return super().sample(config) * (3 if len(self.happened) <= 3 else 1)

    facts = Beside(CountingMonitor(SOUND), baseline_us=49.0).begin()
    assert isinstance(facts, SamplingFacts)
    assert (facts.timer, facts.launches) == ("graph", 84)


def test_screening_takes_half_a_sample_of_graphs_and_one_launch_of_events() -> None:
    for floor_us, timer, launches in ((7.4, "graph", 36), (278.0, "events", 1)):
        session = Session(CountingMonitor(SOUND), baseline_us=959.0, floor_us=floor_us)
        session.begin()
        screening: Any = session._screening
        assert (screening.name, screening.how[2]) == (timer, launches)


@pytest.mark.parametrize("timer", ["graph", "events"])
def test_a_later_session_samples_like_the_first_whatever_baseline_takes_in_it(
    monkeypatch: pytest.MonkeyPatch, timer: str
) -> None:
    first = Session(CountingMonitor(SOUND), baseline_us=20.0 if timer == "graph" else 200.0).begin()
    assert isinstance(first, SamplingFacts)
    later = Session(CountingMonitor(SOUND), baseline_us=50.0)
    monkeypatch.setattr(module, "event_tick_us", lambda: pytest.fail("the clock's step is known"))
    assert later.begin(first) == first
    assert not any(what.startswith("sample") for what in later.happened)
    assert later._timer.name == timer
    assert len(later._timer.arms) >= 1e3 * WARM_UP_S * 0.99  # type: ignore[attr-defined]


def test_a_session_that_was_loaded_ahead_checks_baseline_no_second_time_and_still_warms_up() -> None:
    first = Session(CountingMonitor(SOUND)).begin()
    assert isinstance(first, SamplingFacts)
    ahead = Session(CountingMonitor(SOUND))
    assert ahead.load() is None
    assert ahead.happened == [f"check {BASELINE.label()}"]
    assert not ahead._timer.arms  # type: ignore[attr-defined]
    assert ahead.begin(first) == first
    assert len(ahead._timer.arms) >= 1e3 * WARM_UP_S * 0.99  # type: ignore[attr-defined]
    assert ahead.happened == [f"check {BASELINE.label()}"]


def test_a_baseline_that_is_wrong_opens_no_session() -> None:
    session = Session(CountingMonitor(SOUND))
    session.outcome = Failure("nan", "planted")
    assert session.load() == session.begin() == Failure("nan", "planted")
    assert session.happened == [f"check {BASELINE.label()}"] * 2


# --- data of an op's own that launches change


class Own:
    set_bytes, changes_inputs = 100, True

    def make(self) -> dict[str, Any]:
        return {}

    def put_back(self, tensors: Any) -> None:
        """Nothing to put."""


class Memory:
    def __init__(self, free: int) -> None:
        self.cuda = self
        self.free = free

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, self.free


class Read(Own):
    changes_inputs = False


@pytest.mark.parametrize(("wanted", "sets", "launches"), [(40, 40, 520), (1024, 500, 500), (300, 300, 600)])
def test_a_config_that_is_quicker_than_was_expected_has_arms_as_long_as_any(
    wanted: int, sets: int, launches: int
) -> None:
    """One that takes 1 us, as the timer here says of each, where the reference takes 20."""
    session = Session(CountingMonitor(SOUND), baseline_us=20.0)
    session._own, session._wanted_sets, session._l2_bytes = Read(), wanted, 10_000 if wanted == 1024 else 1100
    session.begin()
    assert session._timer.launches < 100
    session.block(BASELINE, msgspec.structs.replace(BASELINE, num_warps=8), config_first=False)
    longer = session._timer
    assert (longer.launches, len(session._sets)) == (launches, sets)
    session.block(BASELINE, msgspec.structs.replace(BASELINE, num_warps=8), config_first=False)
    assert session._timer is longer, "once"


@pytest.mark.parametrize(
    ("baseline_us", "wanted", "sets", "launches", "flushed"),
    [
        (20.0, 33, 33, 99, False),
        (20.0, 40, 40, 80, False),  # of all sets L2 keeps nothing, and each is met equally often
        (20.0, 1024, 75, 75, False),  # no more sets than a sample has launches
        (49.0, 1024, 31, 31, True),  # fewer than were made at first
    ],
)
def test_own_data_has_as_many_sets_as_a_sample_has_launches_and_l2_is_flushed_where_they_are_few(
    baseline_us: float, wanted: int, sets: int, launches: int, flushed: bool
) -> None:
    session = Session(CountingMonitor(SOUND), baseline_us=baseline_us)
    session._own, session._wanted_sets, session._l2_bytes = Read(), wanted, 1100
    session._sets = [{} for _ in range(min(wanted, 32))]
    session._launchers = {BASELINE: []}  # of the sets that were
    facts = session.begin()
    assert isinstance(facts, SamplingFacts)
    assert (facts.timer, facts.input_sets, facts.launches) == ("graph", sets, launches)
    assert len(session._sets) == sets
    assert session._timer.how[4] == (3300 if flushed else 0)  # type: ignore[attr-defined]
    # In whole walks through the sets, but where L2 is flushed of all that was met.
    half = -(-launches // 2) if flushed else -(-launches // (2 * sets)) * sets
    assert session._screening.how[2] == half  # type: ignore[attr-defined]
    assert (BASELINE in session._launchers) == (sets == min(wanted, 32))
    later = Session(CountingMonitor(SOUND))
    later._own, later._wanted_sets, later._l2_bytes = Read(), wanted, 1100
    assert later.begin(facts) == facts
    assert len(later._sets) == sets


def test_of_tiny_inputs_none_is_met_twice_between_two_flushes_of_l2() -> None:
    session = Session(CountingMonitor(SOUND), baseline_us=1.0)
    session._own, session._wanted_sets, session._l2_bytes = Read(), 1024, 10**6
    facts = session.begin()
    assert isinstance(facts, SamplingFacts)
    assert (facts.input_sets, facts.launches) == (1024, 1024)
    assert session._timer.how[4] == 3 * 10**6  # type: ignore[attr-defined]
    warm = Session(CountingMonitor(SOUND))
    warm._own, warm._l2_bytes = Read(), 10**6
    with pytest.raises(AssertionError, match="only 51200 bytes pass between two uses"):
        warm.begin(msgspec.structs.replace(facts, input_sets=512))


@pytest.mark.parametrize(("free", "timer", "sets"), [(10**6, "graph", 25), (1000, "events", 4)])
def test_each_launch_of_a_graph_has_inputs_of_its_own_where_there_is_room(free: int, timer: str, sets: int) -> None:
    session = Session(CountingMonitor(SOUND), baseline_us=20.0)
    session._own, session._torch = Own(), Memory(free)  # type: ignore[assignment]
    facts = session.begin()
    assert isinstance(facts, SamplingFacts)
    assert (facts.timer, facts.input_sets) == (timer, sets)
    assert session._timer.how[-1] is not None, "it puts back"  # type: ignore[attr-defined]
    if timer == "graph":
        assert facts.launches == facts.input_sets
