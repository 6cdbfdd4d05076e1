"""A program's autotuner looks at each config for a moment, and times those for long that may be its choice.

It would time each for 125 ms, which for a hundred configs is waited for before anything can be tuned. What a short look
has far behind the best so far keeps the time of that look; all others are timed as ever, and among these is the choice.
Private parts of Triton, as in 3.6 to 3.9: `Autotuner._bench` times one config by `do_bench`, a cached property, which
is the driver's benchmarker where the program named none (`_do_bench`); `Autotuner.prune_configs` is called before the
first trial for a key.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from fusetune.capture.patching import Patches

LOOK_MS: Final = {"warmup": 2, "rep": 8}
"""Of a short look, where Triton's own is 25 and 100."""
FAR: Final = 1.3
"""By how much longer than the best look a config is left alone: short looks at the same config differ by less."""
_NOTHING: Final = object()


@contextlib.contextmanager
def quick_trials() -> Iterator[None]:
    """While it lasts, an autotuner that times in Triton's own way times configs for long only where they are close."""
    from triton.runtime.autotuner import Autotuner

    best: dict[int, float] = {}
    with Patches() as patches:
        patches.wrap(Autotuner, "prune_configs", lambda prune: _beginning(prune, best))
        patches.wrap(Autotuner, "_bench", lambda bench: _with_a_look(bench, best))
        yield


def _beginning(prune: Callable[..., Any], best: dict[int, float]) -> Callable[..., Any]:
    def pruned(tuner: Any, *args: Any, **named: Any) -> Any:
        best.pop(id(tuner), None)
        return prune(tuner, *args, **named)

    return pruned


def _with_a_look(bench: Callable[..., Any], best: dict[int, float]) -> Callable[..., Any]:
    def looked(tuner: Any, *args: Any, config: Any, **meta: Any) -> Any:
        timer = _look_of(tuner)
        if timer is None:
            return bench(tuner, *args, config=config, **meta)
        with _timing_with(tuner, timer):
            times = bench(tuner, *args, config=config, **meta)
        least = best[id(tuner)] = min(best.get(id(tuner), math.inf), times[0])
        if times[0] == math.inf or times[0] > FAR * least:
            return times
        return bench(tuner, *args, config=config, **meta)

    return looked


def _look_of(tuner: Any) -> Callable[..., Any] | None:
    """What takes a short look; None where the program says how its autotuner times, or none can be told how long."""
    if getattr(tuner, "_do_bench", _NOTHING) is not None or isinstance(vars(type(tuner)).get("do_bench"), property):
        return None
    timer = tuner.do_bench
    try:
        known = inspect.signature(timer).parameters
    except (TypeError, ValueError):
        return None
    return functools.partial(timer, **LOOK_MS) if LOOK_MS.keys() <= known.keys() else None


@contextlib.contextmanager
def _timing_with(tuner: Any, timer: Callable[..., Any]) -> Iterator[None]:
    own = vars(tuner).get("do_bench", _NOTHING)
    tuner.do_bench = timer
    try:
        yield
    finally:
        if own is _NOTHING:
            del tuner.do_bench
        else:
            tuner.do_bench = own
