"""What stands above a launch: the autotuners and heuristics that it came through, and whether one of them only tries.

Private parts of Triton that this relies on, the same in 3.6 to 3.8: `Autotuner._bench` makes an autotuner's trials,
`Autotuner.run` and `Heuristics.run` hand on to what they hold.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Above:
    """What each thread is in the middle of. `install` puts its own functions in the place of Triton's."""

    def __init__(self) -> None:
        self._here = threading.local()

    def install(self, replace: Callable[[Any, str, Any], Any]) -> None:
        """Watch autotuners and heuristics; `replace(owner, name, function)` sets an attribute until it is undone."""
        import triton
        from triton.runtime.autotuner import Autotuner, Heuristics

        for owner, name in (
            (Autotuner, "_bench"),
            (triton.testing, "do_bench"),
            (triton.testing, "do_bench_cudagraph"),
        ):
            replace(owner, name, self._as_trial(getattr(owner, name)))
        for owner in (Autotuner, Heuristics):
            replace(owner, "run", self._below(owner.run))

    @property
    def tuners(self) -> tuple[Any, ...]:
        """Autotuners and heuristics above, the outermost first."""
        return tuple(getattr(self._here, "tuners", ()))

    def depth(self, name: str) -> int:
        """How often it is `deeper` in what has this name."""
        return int(self._here.__dict__.get(name, 0))

    @contextlib.contextmanager
    def deeper(self, name: str) -> Iterator[None]:
        """One deeper in something, as in a `trial`."""
        depths = self._here.__dict__
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

    def _below(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(tuner: Any, /, *args: Any, **named: Any) -> Any:
            above = self.tuners
            self._here.tuners = (*above, tuner)
            try:
                return function(tuner, *args, **named)
            finally:
                self._here.tuners = above

        return run
