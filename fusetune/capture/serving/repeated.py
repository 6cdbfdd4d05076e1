"""Launches that came before are made again without a look-up, and past Triton's JIT.

What a launch was given is remembered by its arguments, and for a tile of another size by the place in the program that
launches. Private parts of Triton that this relies on, beside those of `runtime/direct_calls.py`, the same in 3.6 to
3.9: `JITFunction.run` takes each launch, and `Autotuner.run` each of an autotuner, of which nothing is left for a
config without a `pre_hook` but to note it as `best_config`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from fusetune.capture.above import Above
from fusetune.capture.given import Launch, Placements
from fusetune.capture.inductor import when_imported
from fusetune.capture.kinds import kind_of
from fusetune.capture.patching import Patches
from fusetune.ops.arguments import bind, constexprs_of, signature_of
from fusetune.ops.direct import Firing
from fusetune.ops.tuners import heuristics_of
from fusetune.runtime.direct_calls import (
    MOST_KNOWN,
    NO_FIRING,
    PLAIN,
    Around,
    Bound,
    DirectLaunches,
    Listener,
    bound_of,
)

MOST_HELD: Final = 1024
"""Kernels, and tuners, of which launches are known: a program may make one at each call."""
MOST_FAILED: Final = 8
"""Launches of a kernel that cannot be made directly, after which it is asked of none."""


class Here(threading.local):
    """What a thread is in the middle of: a launch whose config is `chosen`, and what else it is `given` below.

    `counted` is what counted its last launch of a kernel.
    """

    chosen = False
    given: Any = None
    counted: Any = None


class Choosing:
    """Launches within are one's that has chosen, and take `given` as well, or are made as they are."""

    __slots__ = ("_before", "_given", "_here")

    def __init__(self, here: Here, given: Any) -> None:
        self._here, self._given = here, given

    def __enter__(self) -> None:
        here = self._here
        self._before = here.chosen, here.given
        here.chosen, here.given = True, self._given

    def __exit__(self, *_: object) -> None:
        self._here.chosen, self._here.given = self._before


class Outcome(NamedTuple):
    """How a launch went, that the next one like it is to go as well.

    `times` is how often all was forgotten when it was looked up. `tally` counts it, and `compiled` ran. `config` is an
    autotuner's, and `still` whether it would choose so again. `grid` is the only one that this is for; None: any.
    `exact` are the whole numbers that it follows from, None: all; of the others `numbers` are as in Around. A launch
    for which the place in the program was asked is `placed` there, with its grid, and gives `result`. `changes` are
    what the kernel was given otherwise than it was told.
    """

    times: int
    tally: Any
    compiled: Any
    config: Any = None
    still: Callable[[], bool] | None = None
    grid: tuple[int, ...] | None = None
    exact: frozenset[str] | None = None
    numbers: frozenset[int] | None = None
    placed: tuple[int, ...] | None = None
    result: Any = None
    changes: Mapping[str, Any] = {}


class _Moves:
    """A launch with a tile of another size, by the place in the program, whose source says which grid goes with it."""

    def __init__(self, kernel: Any, placements: Placements) -> None:
        self._kernel, self._placements = kernel, placements
        self._known: dict[Any, tuple[Bound, Any]] = {}

    def __call__(self, grid: Any, shape: Any, held: tuple[Any, ...]) -> Bound | None:
        """What runs instead of the grid `shape` at the place that launches now; None where that is not known."""
        place = self._placements.place_of(self._kernel, grid, held)
        if place is None:
            return None
        try:
            found = self._known.get((shape, place[0]))
        except TypeError:  # from a hash
            return None
        return None if found is None else found[0]

    def learn(self, launch: Launch, shape: Any, bound: Bound) -> None:
        """Launch so from now on at the place that launches now."""
        arguments, constants = bind(self._kernel, launch.args, launch.named)[0], constexprs_of(self._kernel)
        held = [one for name, one in arguments.items() if type(one) not in PLAIN and name not in constants]
        place = self._placements.place_of(self._kernel, launch.grid, held)
        if place is None:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        with contextlib.suppress(TypeError):
            self._known[shape, place[0]] = bound, place[1]


class Repeated:
    """Direct launches, by kernel and by autotuner, between `install` and the end of its patches.

    What counted a launch before is given to `note`. Nothing is launched directly where somebody had put a function of
    his own in the place of Triton's before.
    """

    def __init__(self, here: Here, above: Above, note: Callable[[Any], None]) -> None:
        self._here, self._above, self._note = here, above, note
        self._kernels: dict[Any, DirectLaunches] = {}  # And of what stands above each.
        self._tuners: dict[Any, DirectLaunches] = {}
        self._missed: dict[Any, DirectLaunches] = {}  # Of those whose numbers no entry is near.
        self._plain: dict[Any, DirectLaunches] = {}  # As they are told to launch.
        self._failed: dict[int, tuple[Any, int]] = {}
        self.able = False
        self._kind: Any = None
        self._own: Any = None  # Triton's own `run`.
        self._heuristics: Any = None
        self.begin_anew()

    def begin_anew(self, times: int = 0) -> None:
        """In a process that was forked: what was loaded is the parent's, and so is the lock.

        `times` is how often all was forgotten.
        """
        self._lock = threading.RLock()
        self._times_forgotten = times
        self._forget(self._kernels, self._missed, self._tuners, self._plain)
        self._failed.clear()

    def forget(self, times: int) -> None:
        """Other configs have been loaded, so many times so far."""
        with self._lock:
            self._times_forgotten = times
            self._forget(self._kernels, self._missed, self._tuners)

    def _forget(self, *tables: dict[Any, DirectLaunches]) -> None:
        for table in tables:
            for one in tuple(table.values()):
                one.forget()
            table.clear()

    # Below what chooses.

    def install_below(self, patches: Patches) -> None:
        """Launch past the JIT what comes to Triton. It has to be there before anything is put above it."""
        import triton
        from triton.runtime.autotuner import Autotuner, Heuristics

        self._kind, self._heuristics = triton.JITFunction, Heuristics
        kind: Any = triton.JITFunction
        own = self._own = kind.run
        self.able = (
            not triton.knobs.runtime.interpret
            and own.__module__ == kind.__module__
            and Autotuner.run.__module__ == Autotuner.__module__
        )
        if not self.able:
            return
        plain, by_jit = self._plain, self._by_jit

        def run(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            if warmup:
                return own(kernel, *args, grid=grid, warmup=warmup, **named)
            found = plain.get(id(kernel))
            if found is None:
                return by_jit(own, kernel, grid, args, named)
            return found.call(grid, *args, **named)

        patches.put(kind, "run", run)

    def _by_jit(self, own: Any, kernel: Any, grid: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        compiled = own(kernel, *args, grid=grid, warmup=False, **named)
        if compiled is None or not self.takes(kernel):
            return compiled

        def again(grid: Any, /, *args: Any, **named: Any) -> Any:
            return self._by_jit(own, kernel, grid, args, named)

        with self._lock:
            made = bound_of(None, {}, compiled, None)
            around = Around((), exact=frozenset())
            self._learn(self._plain, id(kernel), (kernel,), Launch(args, grid, named), made, again, around)
        return compiled

    # What chooses.

    def install_above(self, patches: Patches) -> None:
        """Launch directly what was answered before. What answers has to be there already."""
        if not self.able:
            return
        import triton
        from triton.runtime.autotuner import Autotuner

        here, above = self._here, self._above.here
        kernels, missed, tuners = self._kernels, self._missed, self._tuners
        launch, choose = triton.JITFunction.run, Autotuner.run

        def launched(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            at = id(kernel) if not above.tuners else _at(kernel, above.tuners)
            found = kernels.get(at) or missed.get(at)
            if found is None or warmup or here.chosen or above.trial:
                return launch(kernel, *args, grid=grid, warmup=warmup, **named)
            return found.call(grid, *args, **named)

        def chosen(tuner: Any, /, *args: Any, **named: Any) -> Any:
            found = tuners.get(id(tuner)) or missed.get(id(tuner))
            if found is None or named.get("warmup") is not False or here.chosen or above.trial:
                return choose(tuner, *args, **named)
            grid = named.pop("grid", None)
            del named["warmup"]
            return found.call(grid, *args, **named)

        self._hold, self._choose, self._launched = launch, choose, launched
        patches.put(triton.JITFunction, "run", launched)
        patches.put(Autotuner, "run", chosen)
        self._listener = Listener(launched, self._last, self._note)
        patches.callback(when_imported("fusetune.runtime.autotune", lambda module: self._listen(patches, module)))

    def _listen(self, patches: Patches, module: Any) -> None:
        """Count the launches of `fusetune.autotune`, which looks its configs up and goes past the JIT by itself."""
        patches.put(module.Autotuned, "listener", self._listener)

    def _last(self) -> Any:
        found, self._here.counted = self._here.counted, None
        return found

    def learn_of_tuner(self, chain: Sequence[Any], launch: Launch, outcome: Outcome) -> None:
        """Launch so an autotuner, and what it holds down to the kernel."""
        tuner, kernel, config = chain[0], chain[-1], outcome.config
        choose, missed = self._choose, self._missed

        def again(grid: Any, /, *args: Any, **named: Any) -> Any:
            return choose(tuner, *args, grid=grid, warmup=False, **named)

        def or_missed(grid: Any, /, *args: Any, **named: Any) -> Any:
            found = missed.get(id(tuner))
            return again(grid, *args, **named) if found is None else found.call(grid, *args, **named)

        misses = outcome.numbers is not None
        table, otherwise = (missed, again) if misses else (self._tuners, or_missed)
        parameters = signature_of(kernel).parameters
        heuristics = heuristics_of(chain)
        bound, _ = bind(kernel, launch.args, launch.named, partly=True)
        meta = {**bound, **launch.named, "grid": launch.grid, "warmup": False, **config.all_kwargs()}
        try:
            for name, compute in heuristics.items():
                meta[name] = compute(dict(meta))
        except Exception:  # noqa: BLE001 - the program's own function, which was asked for this launch before
            return
        constants = {name: meta[name] for name in (*config.all_kwargs(), *heuristics) if name in parameters}
        watched = ((self._kind, self._launched), *((type(one), type(one).run) for one in chain[1:-1]))
        values = bool(heuristics)
        around = Around(watched, tuner, self._note, outcome.exact, outcome.numbers, heuristics, values)
        around = around._replace(run=self._own, kind=partial(kind_of, shapes=values))
        with self._lock:
            if outcome.times == self._times_forgotten:
                made = _bound(outcome, constants)
                self._learn(table, id(tuner), (kernel, tuner), launch, made, otherwise, around)

    def learn_of_kernel(self, kernel: Any, launch: Launch, outcome: Outcome, placements: Placements) -> None:
        """Launch so a kernel that nothing is above, or heuristics alone: with these, what is placed goes by more."""
        above = self._above.here.tuners
        if above and outcome.placed is not None:
            return
        hold, missed = self._hold, self._missed
        at = id(kernel) if not above else _at(kernel, above)

        def again(grid: Any, /, *args: Any, **named: Any) -> Any:
            return hold(kernel, *args, grid=grid, warmup=False, **named)

        def or_missed(grid: Any, /, *args: Any, **named: Any) -> Any:
            found = missed.get(at)
            return again(grid, *args, **named) if found is None else found.call(grid, *args, **named)

        misses = outcome.numbers is not None
        table, otherwise = (missed, again) if misses else (self._kernels, or_missed)
        exact, numbers = outcome.exact, outcome.numbers
        around = Around((), None, self._note, exact, numbers, moves=not misses, run=self._own, kind=kind_of)
        with self._lock:
            made = _bound(outcome, {})
            if outcome.times != self._times_forgotten:
                return
            if outcome.placed is not None:
                inner, firing = made
                before = table.get(at)
                outer = before.known(launch.grid, launch.args, launch.named) if before is not None else None
                if outer is not None and isinstance(outer.moved, _Moves):
                    if (inner.launch is NO_FIRING.launch) is (outer.launch is NO_FIRING.launch):
                        outer.moved.learn(launch, outcome.grid, inner)
                    return
                moves = _Moves(kernel, placements)
                moves.learn(launch, outcome.grid, inner)
                made = Bound(None, {}, None, firing, None), firing
                made[0].moved = moves
            self._learn(table, at, (kernel, above), launch, made, otherwise, around)

    # What both need.

    def takes(self, kernel: Any, above: Sequence[Any] = ()) -> bool:
        """Whether a kernel is one that may be launched directly, below these: heuristics of Triton's own alone."""
        if not self.able or type(kernel) is not self._kind or self._times_failed(kernel) >= MOST_FAILED:
            return False
        return all(type(one) is self._heuristics for one in above)

    def _learn(
        self,
        table: dict[Any, DirectLaunches],
        at: Any,
        held: tuple[Any, ...],
        launch: Launch,
        made: tuple[Bound, Firing] | None,
        again: Callable[..., Any],
        around: Around,
    ) -> None:
        """Have `table` know a launch, `at` the ids of what is `held`: first the kernel. The caller holds the lock."""
        kernel = held[0]
        known = table.get(at)
        if known is None:
            if len(table) >= MOST_HELD:
                self._forget(table)
            known = DirectLaunches(kernel, again, around, held)
        if made is not None and known.learn(launch.grid, launch.args, launch.named, made):
            table[at] = known
            self._failed.pop(id(kernel), None)
        elif not known.made:
            if len(self._failed) >= MOST_HELD:
                self._failed.clear()
            self._failed[id(kernel)] = kernel, self._times_failed(kernel) + 1

    def _times_failed(self, kernel: Any) -> int:
        return self._failed.get(id(kernel), (None, 0))[1]


def _at(kernel: Any, above: Sequence[Any]) -> tuple[int, ...]:
    return id(kernel), *map(id, above)


def _bound(outcome: Outcome, constants: Mapping[str, Any]) -> tuple[Bound, Firing]:
    grids = None if outcome.grid is None or outcome.placed is not None else {outcome.grid}
    made = bound_of(outcome.config, constants, outcome.compiled, grids, direct=False)
    assert made is not None, "then nothing fires it"
    bound = made[0]
    bound.tally, bound.still, bound.shape = outcome.tally, outcome.still, outcome.placed
    bound.given = {**bound.given, **outcome.changes}
    if outcome.result is not None:
        bound.result = outcome.result
    return made


def changes_of(kernel: Any, launch: Launch, other: Launch) -> dict[str, Any] | None:
    """The constants and options that another launch of a kernel gives; None where arguments are others, too."""
    before = {**bind(kernel, launch.args, launch.named)[0], **launch.named}
    after = {**bind(kernel, other.args, other.named)[0], **other.named}
    arguments = signature_of(kernel).parameters.keys() - constexprs_of(kernel)
    found = {name: value for name, value in after.items() if name not in before or before[name] is not value}
    return None if found.keys() & arguments else found


def prunes(tuner: Any) -> bool:
    """Whether functions of the user's say which of an autotuner's list are timed."""
    return bool(getattr(tuner, "early_config_prune", None) or getattr(tuner, "perf_model", None))


def chooses_alike(tuner: Any) -> Callable[[], bool]:
    """Tells whether an autotuner has found out nothing more than now, and has the same list."""
    cache, configs = tuner.cache, tuner.configs
    counts = len(cache), len(configs)

    def still() -> bool:
        return tuner.cache is cache and tuner.configs is configs and (len(cache), len(configs)) == counts

    return still


def only_one_gpu(exact: frozenset[str]) -> frozenset[str] | None:
    """None where there are several GPUs, of which each may have entries of its own."""
    import torch

    return exact if torch.cuda.device_count() <= 1 else None
