"""Two ways to time launches on the GPU, both with inputs out of L2 unless asked otherwise."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from fusetune.errors import MeasurementError

GRAPH_BELOW_US: Final = 50.0
"""Shorter launches are timed many at a time in a CUDA graph: one alone would be lost in the events' own cost."""
MIN_ARM_US: Final = 500.0
"""One sample lasts at least this long."""
ENOUGH_ARM_US: Final = 2000.0
"""Nor need an arm last longer, at first. A sample has as many launches as the quickest config may need: where BASELINE
takes 60 times as long, so many of it were a third of a second a block, and a third of a sweep went into A/A.
"""
UNLIKE: Final = 2.0
"""Of two configs, one of which takes so many times as long as the other, each has launches of its own number.

Nearer ones have equally many. Beside such a gain, what a replay costs beside its launches is nothing.
"""
EXPECTED_SPEEDUP: Final = 8
"""By how much a candidate may beat BASELINE and still last MIN_ARM_US, where no floor says that it cannot."""
EXPECTED_OF_OTHERS: Final = 3
"""The same of other people's kernels: what runs there was mostly chosen with some care.

Samples are made longer where a block shows one that beats it by more.
"""
TICKS_PER_SAMPLE: Final = 500
"""A sample lasts at least as many ticks of the event clock, so that reading it errs by 0.2 % at most."""
L2_TURNOVER: Final = 3
"""How many times its own size must pass through L2 before an input counts as out of it."""
LEAD_SHARE: Final = 0.5
"""How much of a sample's launches the leading arm of graphs has: 250 us, where the host queues four arms in a fifth.

It is an arm of the config that is timed first, and no shorter than one walk through the input sets, so that it leaves
L2 and the caches of code as a whole arm does; where L2 is flushed before each arm, it may be. The quicker of the two
configs would hide as much, but then BASELINE would follow the other config in three arms of four and the other one
itself in two: what an arm inherits from the one before it, such as clocks that sag under its power, would no longer
fall on both alike.
"""
_KEPT_GRAPHS = 24
"""As many as the later rounds of screening have candidates, so that each is captured once a round."""

PutBack = Callable[[int], object]
"""Queues what lets the n-th set of inputs be as it was before any launch."""
Run = Callable[[Any, int], object]
"""Launches a config once on the n-th set of inputs; returns what must not be freed while such a launch is repeated."""


class Timer(Protocol):
    """Times arms, each `launches` launches of one config, or fewer: any number of which `step` is a divisor."""

    name: str
    launches: int
    step: int

    def times_us(self, arms: Sequence[Hashable], fewer: Mapping[Any, int] | None = None) -> list[float]:
        """Microseconds a launch of each arm, queued one after the other without a gap.

        An arm is a key that `run` understands; `fewer` says how many launches it has, where not `launches`. The first
        arm hides the host's time to queue the rest: it may have fewer launches, and its time is no fair sample.
        """

    def renew(self, arms: Sequence[Hashable], fewer: Mapping[Any, int] | None = None) -> None:
        """Make what arms of so many launches are replayed from anew, in another place and the last arm first.

        Where it lies has a share in its time: two captures of one config, of 14 us a launch, were 0.52 % apart on an
        H200, the same in each fifty of 400 blocks. Over several captures that falls on both alike.
        """


class GraphTimer:
    """One replay of a CUDA graph of `launches` launches that walk through `sets` sets of inputs, in whole rounds.

    What a replay costs beside the launches is the same for every config where all have equally many, and of a smaller
    share in the longer arm where they have not (`pair_launches`): it makes a gain look smaller, never larger. With
    `put_back` each launch has a set of its own, and all of these are put back between two arms, outside of what is
    timed. So is the flush, a write of `flush_bytes` (0: none): for sets that L2 holds a part of, which part is up to
    the arm before.
    """

    name = "graph"

    def __init__(
        self, run: Run, sets: int, launches: int, put_back: PutBack | None = None, flush_bytes: int = 0
    ) -> None:
        import torch

        self._torch, self._run, self._sets, self.launches = torch, run, sets, launches
        self._put_back = put_back
        self._flush = torch.empty(flush_bytes, dtype=torch.int8, device="cuda") if flush_bytes else None
        self.step = 1 if put_back or flush_bytes else sets
        self._stream = torch.cuda.Stream()
        self._graphs: OrderedDict[tuple[Hashable, int], Any] = OrderedDict()

    def times_us(self, arms: Sequence[Hashable], fewer: Mapping[Any, int] | None = None) -> list[float]:
        """One replay an arm; the first is of LEAD_SHARE as many launches, in whole rounds of the input sets."""
        counts = [(fewer or {}).get(arm, self.launches) for arm in arms]
        counts[0] = self._lead_of(counts[0])
        graphs = [self._graph(arm, launches) for arm, launches in zip(arms, counts, strict=True)]
        back = self._putting_back  # Captured ahead of the first arm, too: the GPU would have nothing to do meanwhile.
        events = []
        for graph in graphs:
            if back is not None:
                back.replay()
            if self._flush is not None:
                self._flush.zero_()
            start, end = _event_pair(self._torch)
            start.record()
            graph.replay()
            end.record()
            events.append((start, end))
        self._torch.cuda.synchronize()
        return [
            float(start.elapsed_time(end)) * 1e3 / launches
            for (start, end), launches in zip(events, counts, strict=True)
        ]

    @functools.cached_property
    def _putting_back(self) -> Any:
        """What puts all sets back, captured: a thousand copies take the host longer than the GPU.

        All, however few an arm's launches meet: a set that is written just before it is met would be in L2.
        """
        return None if self._put_back is None else self._captured(self._put_back, range(self._sets))

    def renew(self, arms: Sequence[Hashable], fewer: Mapping[Any, int] | None = None) -> None:
        """See Timer. What there was goes when all are there, so that none takes its own place again."""
        made: dict[tuple[Hashable, int], Any] = {}
        for arm in reversed(list(dict.fromkeys(arms))):
            count = (fewer or {}).get(arm, self.launches)
            for launches in dict.fromkeys((count, self._lead_of(count))):  # Any of them may be timed first.
                made[arm, launches] = self._made(arm, launches)
        for key in [key for key in self._graphs if key[0] in arms]:
            del self._graphs[key]
        self._graphs.update(made)

    def _lead_of(self, launches: int) -> int:
        """How many launches the leading arm has, where the config's others have so many."""
        return whole_steps(LEAD_SHARE * launches, self.step)

    def _graph(self, arm: Hashable, launches: int) -> Any:
        """The captured launches of an arm; the last few are kept, each with what its launches write to."""
        key = (arm, launches)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key][0]
        self._graphs[key] = made = self._made(arm, launches)
        while len(self._graphs) > _KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        return made[0]

    def _made(self, arm: Hashable, launches: int) -> tuple[Any, object]:
        """So many launches of an arm, captured, and what must not be freed while they are replayed."""
        torch = self._torch
        if self._put_back is not None:
            self._put_back(0)
        used = self._run(arm, 0)  # Outside the capture: loading the machine code is not allowed within.
        torch.cuda.synchronize()
        sets = (index % self._sets for index in range(launches))
        return self._captured(functools.partial(self._run, arm), sets), used

    def _captured(self, queue: PutBack, sets: Iterable[int]) -> Any:
        """The graph of what `queue` queues for each of the sets.

        torch.cuda.graph() would collect garbage each time; a sweep captures thousands. In between none is collected at
        all: since Triton 3.8 a kernel that is garbage is unloaded, and no capture survives that.
        """
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.stream(self._stream), _without_collection():
            graph.capture_begin()
            try:
                for index in sets:
                    queue(index)
            finally:
                graph.capture_end()
        return graph


class EventTimer:
    """Events around each of `launches` launches, L2 flushed before each by writing `flush_bytes` (0: left warm).

    With `put_back` the set of inputs is put back before, and before the flush.
    """

    name = "events"

    def __init__(self, run: Run, sets: int, launches: int, flush_bytes: int, put_back: PutBack | None = None) -> None:
        import torch

        self._torch, self._run, self._sets, self.launches = torch, run, sets, launches
        self._put_back = put_back
        self._flush = torch.empty(flush_bytes, dtype=torch.int8, device="cuda") if flush_bytes else None
        self.step = 1

    def times_us(self, arms: Sequence[Hashable], fewer: Mapping[Any, int] | None = None) -> list[float]:
        """`launches` launches an arm, or as many as `fewer` says."""
        events = []
        for arm in arms:
            pairs = []
            for index in range((fewer or {}).get(arm, self.launches)):
                if self._put_back is not None:
                    self._put_back(index % self._sets)
                if self._flush is not None:
                    self._flush.zero_()
                start, end = _event_pair(self._torch)
                start.record()
                self._run(arm, index % self._sets)
                end.record()
                pairs.append((start, end))
            events.append(pairs)
        self._torch.cuda.synchronize()
        return [sum(float(s.elapsed_time(e)) for s, e in pairs) * 1e3 / len(pairs) for pairs in events]

    def renew(self, arms: Sequence[Hashable], fewer: Mapping[Any, int] | None = None) -> None:
        """See Timer: there is nothing to make anew."""


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Python looks for no garbage meanwhile."""
    looks = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looks:
            gc.enable()


def is_short(baseline_us: float, floor_us: float | None) -> bool:
    """Whether launches are to be timed in graphs, which the quickest configs need most.

    Those are what a sweep looks for, however slow BASELINE is: `floor_us`, the roofline's time, tells of them, and
    where it is not known (None) BASELINE's own time has to.
    """
    return (baseline_us if floor_us is None else min(baseline_us, floor_us)) < GRAPH_BELOW_US


def launches_for(baseline_us: float, floor_us: float | None, sets: int, speedup: float = EXPECTED_SPEEDUP) -> int:
    """How many launches make a sample: enough for the quickest config that there may be to last MIN_ARM_US.

    It is no quicker than the roofline's time `floor_us`, and not expected to be `speedup` times as quick as a BASELINE
    that is short itself. Always whole rounds of the input sets, so that every config meets the same inputs equally
    often.
    """
    quickest_us = baseline_us / speedup
    if floor_us is not None:
        quickest_us = max(floor_us, min(baseline_us, GRAPH_BELOW_US) / speedup)
    return math.ceil(math.ceil(MIN_ARM_US / quickest_us) / sets) * sets


def whole_steps(launches: float, step: int) -> int:
    """The least multiple of `step` that is so many launches, and one step at least."""
    return max(1, math.ceil(launches / step)) * step


def enough_launches(time_us: float, most: int, step: int, arm_us: float = ENOUGH_ARM_US) -> int:
    """How many launches of `time_us` microseconds (0: not known) last `arm_us`, in whole steps; `most` at most."""
    return min(most, whole_steps(arm_us / time_us, step)) if time_us > 0 else most


def pair_launches(first_us: float, second_us: float, most: int, step: int) -> tuple[int, int]:
    """How many launches the arms of two configs have, by what a launch of each takes.

    As many as last ENOUGH_ARM_US, `most` at most. Equally many for both, unless the one takes UNLIKE times as long as
    the other: that one's arm then has fewer, and yet is the longer one.
    """
    quick_us, slow_us = min(first_us, second_us), max(first_us, second_us)
    many = few = enough_launches(quick_us, most, step)
    if 0 < UNLIKE * quick_us <= slow_us:
        few = min(many, max(enough_launches(slow_us, most, step), whole_steps(many * quick_us / slow_us, step)))
    return (many, few) if first_us < second_us else (few, many)


def quickest_of(times: Sequence[float]) -> tuple[float, float]:
    """Of the times ABBA, the less of either two: what is disturbed would have fewer launches than it needs."""
    outer, inner, again, last = times
    return min(outer, last), min(inner, again)


def fewer_by(pair: tuple[Hashable, Hashable], times: Sequence[float], most: int, step: int) -> dict[Any, int]:
    """How many launches the arms of a pair have, by its times ABBA; empty where all have `most`."""
    return _less_than_all(dict(zip(pair, pair_launches(*quickest_of(times), most, step), strict=True)), most)


def with_more(fewer: Mapping[Any, int], most: int) -> dict[Any, int]:
    """Twice as many launches, up to `most`; empty where all have as many."""
    return _less_than_all({arm: min(most, 2 * launches) for arm, launches in fewer.items()}, most)


def _less_than_all(fewer: dict[Any, int], most: int) -> dict[Any, int]:
    return fewer if min(fewer.values(), default=most) < most else {}


def event_tick_us(samples: int = 200) -> float:
    """The step of the event clock in microseconds: the smallest difference between two readings that differ."""
    import torch

    pairs = [_event_pair(torch) for _ in range(samples)]
    for start, end in pairs:
        start.record()
        end.record()
    torch.cuda.synchronize()
    readings = sorted({float(start.elapsed_time(end)) * 1e3 for start, end in pairs})
    steps = [later - earlier for earlier, later in itertools.pairwise(readings)]
    # Readings that are all alike tell that a step is at most as long as what was read.
    return min(steps, default=readings[0])


def check_tick(tick_us: float, sample_us: float) -> None:
    """Raise MeasurementError where a sample of `sample_us` is too short for an event clock of this step."""
    if sample_us < TICKS_PER_SAMPLE * tick_us:
        raise MeasurementError(
            f"this GPU's event clock steps by {tick_us:.3f} us, and a sample lasts only {sample_us:.0f} us, where "
            f"{TICKS_PER_SAMPLE} steps are needed; nothing measured so could be trusted"
        )


def _event_pair(torch: Any) -> tuple[Any, Any]:
    event = torch.cuda.Event
    return event(enable_timing=True), event(enable_timing=True)
