"""What stands above a launch: the autotuners and heuristics that it came through, and whether one of them only tries.

Private parts of Triton that this relies on, the same in 3.6 to 3.9: `Autotuner._bench` makes an autotuner's trials,
`Autotuner.run` and `Heuristics.run` hand on to what they hold. What derives from these may have its own of each.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """One call of a tuner's own `run`, and the launches in it, in their order, as whoever watches notes them."""

    tuner: Any
    launches: list[Any]


class Here(threading.local):
    """What a thread is in the middle of: see Above."""

    tuners: tuple[Any, ...] = ()
    turn: Turn | None = None
    benchmark: set[Any] | None = None
    trial = 0


class Above:
    """What each thread is in the middle of. `install` puts its own functions in the place of Triton's.

    A tuner with a `run` of its own may launch to time: `ended` is told what it launched in a turn, once that is over.
    With `benchmarks`, what triton.testing times is a trial where a tuner asks it to, and a `benchmark` elsewhere.
    """

    def __init__(self, ended: Callable[[Turn], None] | None = None, *, benchmarks: bool = True) -> None:
        self.here = Here()
        self._ended, self._benchmarks = ended, benchmarks

    def install(self, replace: Callable[[Any, str, Any], Any]) -> None:
        """Watch autotuners and heuristics; `replace(owner, name, function)` sets an attribute until it is undone."""
        import triton
        from triton.runtime.autotuner import Autotuner, Heuristics

        timers = [(triton.testing, "do_bench"), (triton.testing, "do_bench_cudagraph")] if self._benchmarks else []
        replace(Autotuner, "_bench", self._as_trial(Autotuner._bench))
        for owner, name in timers:
            replace(owner, name, self._as_benchmark(getattr(owner, name)))
        for owner in (Autotuner, Heuristics):
            replace(owner, "run", self._below(owner.run))
            for derived in _derived(owner):
                self._watch(derived, replace)

            before = vars(owner).get("__init_subclass__")

            def made(cls: Any, /, owner: Any = owner, before: Any = before, **named: Any) -> None:
                if before is None:
                    super(owner, cls).__init_subclass__(**named)
                else:
                    before.__func__(cls, **named)
                self._watch(cls, replace)

            replace(owner, "__init_subclass__", classmethod(made))

    def _watch(self, derived: Any, replace: Callable[[Any, str, Any], Any]) -> None:
        """Watch what a class that derives from a tuner does in its own way."""
        own = vars(derived)
        if inspect.isfunction(own.get("_bench")):
            replace(derived, "_bench", self._as_trial(own["_bench"]))
        if inspect.isfunction(own.get("run")):
            replace(derived, "run", self._below(own["run"], is_own=True))

    @property
    def tuners(self) -> tuple[Any, ...]:
        """Autotuners and heuristics above, the outermost first."""
        return self.here.tuners

    def depth(self, name: str) -> int:
        """How often it is `deeper` in what has this name."""
        return int(self.here.__dict__.get(name, 0))

    @contextlib.contextmanager
    def deeper(self, name: str) -> Iterator[None]:
        """One deeper in something, as in a `trial`."""
        depths = self.here.__dict__
        depths[name] = depths.get(name, 0) + 1
        try:
            yield
        finally:
            depths[name] -= 1

    def _as_trial(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def trial(*args: Any, **named: Any) -> Any:
            with self.deeper("trial"):
                return function(*args, **named)

        return trial

    def _as_benchmark(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def benchmark(*args: Any, **named: Any) -> Any:
            if any(hasattr(one, "configs") for one in self.tuners):
                with self.deeper("trial"):
                    return function(*args, **named)
            if self.benchmark is not None:
                return function(*args, **named)
            self.here.benchmark = set()
            try:
                return function(*args, **named)
            finally:
                self.here.benchmark = None

        return benchmark

    @property
    def benchmark(self) -> set[Any] | None:
        """While the program itself lets triton.testing time: what was noted of this one call; else None.

        It repeats what is fast more often, so that a launch counts once a call.
        """
        return self.here.benchmark

    @property
    def turn(self) -> Turn | None:
        """The turn of a tuner's own that a launch belongs to; None under Triton's, whose trials are known."""
        return self.here.turn

    def _below(self, function: Callable[..., Any], *, is_own: bool = False) -> Callable[..., Any]:
        def run(tuner: Any, /, *args: Any, **named: Any) -> Any:
            above, turn = self.tuners, self.turn
            self.here.tuners = above if any(one is tuner for one in above) else (*above, tuner)
            if not hasattr(tuner, "configs"):  # Heuristics launch what they are asked for.
                begun = turn
            elif is_own:
                begun = turn or Turn(tuner, [])
            else:
                begun = None
            self.here.turn = begun
            try:
                return function(tuner, *args, **named)
            finally:
                self.here.tuners, self.here.turn = above, turn
                if begun is not None and turn is None and self._ended is not None:
                    self._ended(begun)

        run.below = function  # type: ignore[attr-defined]
        return run


def _derived(owner: Any) -> Iterator[Any]:
    """The classes that derive from one, at any depth."""
    for one in owner.__subclasses__():
        yield one
        yield from _derived(one)
