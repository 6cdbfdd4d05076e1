"""A program's autotuner looks at each config for a moment, and times those for long that may be its choice.

It would time each for 125 ms and what clearing L2 before each launch takes, several times as long where a launch is
short; for a hundred configs all that is waited for before anything can be tuned. So all are looked at first. What is
among the fastest then is timed as ever, and among these is the choice; the others are as far behind as they looked.
Private parts of Triton, as in 3.6 to 3.9: `Autotuner._bench` times one config by `do_bench`, a cached property, which
is the driver's benchmarker where the program named none (`_do_bench`); `Autotuner.prune_configs` is called before the
first trial for a key.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from fusetune.capture.patching import Patches

LOOK_MS: Final = {"warmup": 1, "rep": 4}
"""Of a short look, where Triton's own is 25 and 100."""
NEAR: Final = 1.05
"""How much longer than the best look one may be that is timed for long: looks at the same config differ by less."""
MOST: Final = 5
"""So many of the fastest are timed for long: of more that are as near, any could be the choice of an autotuner."""
_NOTHING: Final = object()


@contextlib.contextmanager
def quick_trials() -> Iterator[None]:
    """While it lasts, an autotuner that times in Triton's own way times configs for long only where they are close."""
    from triton.runtime.autotuner import Autotuner

    begun: dict[int, _Looks] = {}
    with Patches() as patches:
        patches.wrap(Autotuner, "prune_configs", lambda prune: _beginning(prune, begun))
        patches.wrap(Autotuner, "_bench", lambda bench: _with_a_look(bench, begun))
        yield


class _Looks:
    """An autotuner's configs for one key, and what they were timed at, once there was a look at each.

    `close` has the times of those that were timed for long, until the autotuner has them.
    """

    def __init__(self, configs: Sequence[Any]) -> None:
        self.configs = configs
        self.close: dict[Any, Any] = {}
        self.others: dict[Any, Any] = {}
        self.taken = False

    def take(self, looked: Callable[[Any], Any], timed: Callable[[Any], Any]) -> None:
        looks = {config: looked(config) for config in self.configs}
        least = min((times[0] for times in looks.values()), default=math.inf)
        near = [config for config, times in looks.items() if times[0] < math.inf and times[0] <= NEAR * least]
        chosen = set(sorted(near, key=lambda config: looks[config][0])[:MOST])
        close = {config: timed(config) for config in looks if config in chosen}
        # A GPU that grows slower under a long trial would let one win that had none.
        grown = [times[0] / looks[config][0] for config, times in close.items() if 0 < looks[config][0] < math.inf]
        longer = max((one for one in grown if one < math.inf), default=1.0)
        self.others = {
            config: [longer * one for one in times] for config, times in looks.items() if config not in close
        }
        self.close, self.taken = close, True


def _beginning(prune: Callable[..., Any], begun: dict[int, _Looks]) -> Callable[..., Any]:
    def pruned(tuner: Any, *args: Any, **named: Any) -> Any:
        configs = list(prune(tuner, *args, **named))
        begun[id(tuner)] = _Looks(configs)
        return configs

    return pruned


def _with_a_look(bench: Callable[..., Any], begun: dict[int, _Looks]) -> Callable[..., Any]:
    def looked(tuner: Any, *args: Any, config: Any, **meta: Any) -> Any:
        def timed(one: Any) -> Any:
            return bench(tuner, *args, config=one, **meta)

        looks, timer = begun.get(id(tuner)), _look_of(tuner)
        if timer is not None and looks is not None and config in looks.configs:
            if not looks.taken:
                looks.take(_with_timer(tuner, timer, timed), timed)
            if config in looks.others:
                return looks.others[config]
            if config in looks.close:
                return looks.close.pop(config)
        return timed(config)

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


def _with_timer(tuner: Any, timer: Callable[..., Any], timed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, while an autotuner times with another timer than its own."""

    def with_it(config: Any) -> Any:
        own = vars(tuner).get("do_bench", _NOTHING)
        tuner.do_bench = timer
        try:
            return timed(config)
        finally:
            if own is _NOTHING:
                del tuner.do_bench
            else:
                tuner.do_bench = own

    return with_it
