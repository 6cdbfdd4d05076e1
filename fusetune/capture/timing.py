"""How long single launches of a program take on the GPU, without the host's time between them."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final

MOST_TIMED: Final = 20_000
"""Launches that are timed at most; what comes later is counted."""
TIMED_OF_ONE: Final = 100
_BUSY_CYCLES: Final = 400_000
"""Of the GPU's clock, some 200 us: longer than the host takes for a launch."""
_FIRST: Final = 20
"""So many times as long at a kernel's first launch."""


class LaunchTimer:
    """Gives events for launches, and counts those that were timed in `timings`."""

    def __init__(self) -> None:
        self.timings = 0
        self._launched: set[int] = set()

    def events(
        self,
        run: Any,
        kernel: Any,
        args: tuple[Any, ...],
        grid: Any,
        named: dict[str, Any],
        *,
        busy: bool = True,
    ) -> tuple[Any, Any] | None:
        """Events for a launch, with the GPU kept busy until both are queued: no time of the host's is between them.

        A kernel is compiled and loaded before. Its first launch takes the host longer than others. Without `busy` the
        GPU is not kept so, as where a program times the launch itself.
        """
        import torch

        from fusetune.ops.direct import load

        if self.timings >= MOST_TIMED:
            return None
        self.timings += 1
        compiled = run(kernel, *args, grid=grid, warmup=True, **named)
        if compiled is not None:
            load(compiled)
        is_first = id(kernel) not in self._launched
        self._launched.add(id(kernel))
        if busy:
            torch.cuda._sleep(_BUSY_CYCLES * (_FIRST if is_first else 1))
        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


class Times:
    """Times of launches by what they are of, any key: TIMED_OF_ONE of each say what all of them take."""

    def __init__(self) -> None:
        self._timer = LaunchTimer()
        self._events: dict[Hashable, list[tuple[Any, Any]]] = {}
        self._launches: dict[Hashable, int] = {}

    @contextlib.contextmanager
    def around(
        self,
        key: Hashable,
        run: Any,
        kernel: Any,
        args: tuple[Any, ...],
        grid: Any,
        named: dict[str, Any],
        *,
        benchmark: set[Any] | None = None,
    ) -> Iterator[None]:
        """Time the launch that is made within; not while a graph is captured.

        `benchmark` has the keys of the launches so far in one call of what times the program's: each counts once.
        """
        if is_capturing():
            yield
            return
        held = self._events.setdefault(key, [])
        again = benchmark is not None and key in benchmark
        self._launches[key] = self._launches.get(key, 0) + (not again)
        if benchmark is not None:
            benchmark.add(key)
        events = None
        if len(held) < TIMED_OF_ONE:
            events = self._timer.events(run, kernel, args, grid, named, busy=benchmark is None)
        if events is None:
            yield
            return
        events[0].record()
        yield
        events[1].record()
        held.append(events)

    def of_launches(self) -> dict[Hashable, float]:
        """The microseconds of one launch by its key: the mean of the middle half of those that were timed."""
        if not any(self._events.values()):
            return {}
        import torch

        torch.cuda.synchronize()
        return {
            key: 1e3 * _middle([start.elapsed_time(end) for start, end in held])
            for key, held in self._events.items()
            if held
        }

    def total_us(self) -> float | None:
        """The microseconds of all launches; None where none was timed."""
        times = self.of_launches()
        return sum(us * self._launches[key] for key, us in times.items()) if times else None


def _middle(values: Sequence[float]) -> float:
    """The mean of the middle half: steadier than the median where a clock ticks slowly."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def is_capturing() -> bool:
    """Whether a CUDA graph is captured in this thread's stream."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
