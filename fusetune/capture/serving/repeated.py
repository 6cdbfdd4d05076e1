"""Launches that came before are made again without a look-up, and past Triton's JIT.

What a launch was given is remembered by its arguments, and for a tile of another size by the place in the program that
launches. Private parts of Triton that this relies on, beside those of `runtime/direct_calls.py`, the same in 3.6 to
3.9: `JITFunction.run` takes each launch, and `Autotuner.run` each of an autotuner, of which nothing is left for a
config without a `pre_hook` but to note it as `best_config`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from fusetune.capture.above import Above
from fusetune.capture.given import Launch, Placements
from fusetune.capture.patching import Patches
from fusetune.ops.arguments import bind, constexprs_of, signature_of
from fusetune.ops.direct import Firing
from fusetune.runtime.direct_calls import MOST_KNOWN, Around, Bound, DirectLaunches, bound_of

MOST_HELD: Final = 1024
"""Kernels, and tuners, of which launches are known: a program may make one at each call."""
MOST_FAILED: Final = 8
"""Launches of a kernel that cannot be made directly, after which it is asked of none."""


class Here(threading.local):
    """What a thread is in the middle of: a launch whose config is `chosen`, and what else it is `given` below."""

    chosen = False
    given: Any = None


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
    `exact` are the whole numbers that it follows from; None: all. A launch for which the place in the program was asked
    is `placed` there, with its grid, and gives `result`.
    """

    times: int
    tally: Any
    compiled: Any
    config: Any = None
    still: Callable[[], bool] | None = None
    grid: tuple[int, ...] | None = None
    exact: frozenset[str] | None = None
    placed: tuple[int, ...] | None = None
    result: Any = None


class _Moves:
    """A launch with a tile of another size, by the place in the program, whose source says which grid goes with it."""

    def __init__(self, kernel: Any, placements: Placements) -> None:
        self._kernel, self._placements = kernel, placements
        self._known: dict[Any, Bound] = {}

    def __call__(self, grid: Any, shape: Any, tensors: tuple[Any, ...]) -> Bound | None:
        """What runs instead of the grid `shape` at the place that launches now; None where that is not known."""
        place = self._placements.place_of(self._kernel, grid)
        return None if place is None else self._known.get((place, shape, *map(_shape, tensors)))

    def learn(self, launch: Launch, shape: Any, bound: Bound) -> None:
        """Launch so from now on at the place that launches now."""
        place = self._placements.place_of(self._kernel, launch.grid)
        if place is None:
            return
        arguments, constants = bind(self._kernel, launch.args, launch.named)[0], constexprs_of(self._kernel)
        tensors = [one for name, one in arguments.items() if hasattr(one, "data_ptr") and name not in constants]
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[place, shape, *map(_shape, tensors)] = bound


def _shape(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride()


class Repeated:
    """Direct launches, by kernel and by autotuner, between `install` and the end of its patches.

    What is launched is noted by `count`. Nothing is launched directly where somebody had put a function of his own in
    the place of Triton's before.
    """

    def __init__(self, here: Here, above: Above, count: Callable[[Any], None]) -> None:
        self._here, self._above, self._count = here, above, count
        self._kernels: dict[int, DirectLaunches] = {}  # Of those that take an answer.
        self._tuners: dict[int, DirectLaunches] = {}
        self._plain: dict[int, DirectLaunches] = {}  # As they are told to launch.
        self._failed: dict[int, int] = {}
        self._held: dict[int, Any] = {}  # Whose id it is must not become another's.
        self.able = False
        self.begin_anew()

    def begin_anew(self, times: int = 0) -> None:
        """In a process that was forked: what was loaded is the parent's, and so is the lock.

        `times` is how often all was forgotten.
        """
        self._lock = threading.Lock()
        self._times_forgotten = times
        self._forget(self._kernels, self._tuners, self._plain)
        self._failed.clear()

    def forget(self, times: int) -> None:
        """Other configs have been loaded, so many times so far."""
        with self._lock:
            self._times_forgotten = times
            self._forget(self._kernels, self._tuners)

    def _forget(self, *tables: dict[int, DirectLaunches]) -> None:
        for table in tables:
            for one in tuple(table.values()):
                one.forget()
            table.clear()

    # Below what chooses.

    def install_below(self, patches: Patches) -> None:
        """Launch past the JIT what comes to Triton. It has to be there before anything is put above it."""
        import triton
        from triton.runtime.autotuner import Autotuner

        kind: Any = triton.JITFunction
        own = kind.run
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

    def _by_jit(self, own: Any, kernel: Any, grid: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        compiled = own(kernel, *args, grid=grid, warmup=False, **named)
        if compiled is None or not self._may_be_direct(kernel):
            return compiled

        def again(grid: Any, /, *args: Any, **named: Any) -> Any:
            return self._by_jit(own, kernel, grid, args, named)

        with self._lock:
            made = bound_of(None, {}, compiled, None)
            self._learn(self._plain, kernel, kernel, Launch(args, grid, named), made, again, Around((), exact=frozenset()))
        return compiled

    # What chooses.

    def install_above(self, patches: Patches) -> None:
        """Launch directly what was answered before. What answers has to be there already."""
        if not self.able:
            return
        import triton
        from triton.runtime.autotuner import Autotuner

        here, above = self._here, self._above.here
        kernels, tuners = self._kernels, self._tuners
        launch, choose = triton.JITFunction.run, Autotuner.run

        def launched(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            found = kernels.get(id(kernel))
            if found is None or warmup or here.chosen or above.trial or above.tuners:
                return launch(kernel, *args, grid=grid, warmup=warmup, **named)
            return found.call(grid, *args, **named)

        def chosen(tuner: Any, /, *args: Any, **named: Any) -> Any:
            found = tuners.get(id(tuner))
            if found is None or named.get("warmup") is not False or here.chosen or above.trial:
                return choose(tuner, *args, **named)
            grid = named.pop("grid", None)
            del named["warmup"]
            return found.call(grid, *args, **named)

        self._hold, self._choose, self._launched = launch, choose, launched
        patches.put(triton.JITFunction, "run", launched)
        patches.put(Autotuner, "run", chosen)

    def learn_of_tuner(self, tuner: Any, launch: Launch, outcome: Outcome) -> None:
        """Launch so an autotuner that holds the kernel itself. A config's own hook is its own affair."""
        kernel, config = tuner.fn, outcome.config
        if config.pre_hook is not None or not self._may_be_direct(kernel):
            return
        import triton

        choose = self._choose

        def again(grid: Any, /, *args: Any, **named: Any) -> Any:
            return choose(tuner, *args, grid=grid, warmup=False, **named)

        parameters = signature_of(kernel).parameters
        constants = {name: value for name, value in config.all_kwargs().items() if name in parameters}
        around = Around(((triton.JITFunction, self._launched),), tuner, self._count, outcome.exact)
        with self._lock:
            if outcome.times == self._times_forgotten:
                made = _bound(outcome, constants)
                self._learn(self._tuners, tuner, kernel, launch, made, again, around)

    def learn_of_kernel(self, kernel: Any, launch: Launch, outcome: Outcome, placements: Placements) -> None:
        """Launch a kernel so that nothing is above."""
        if self._above.tuners or not self._may_be_direct(kernel):
            return
        hold = self._hold

        def again(grid: Any, /, *args: Any, **named: Any) -> Any:
            return hold(kernel, *args, grid=grid, warmup=False, **named)

        around = Around((), None, self._count, outcome.exact, moves=True)
        with self._lock:
            made = _bound(outcome, {})
            if outcome.times != self._times_forgotten:
                return
            if made is not None and outcome.placed is not None:
                inner, firing = made
                before = self._kernels.get(id(kernel))
                outer = before.known(launch.grid, launch.args, launch.named) if before is not None else None
                if outer is not None and isinstance(outer.moved, _Moves):
                    outer.moved.learn(launch, outcome.grid, inner)
                    return
                moves = _Moves(kernel, placements)
                moves.learn(launch, outcome.grid, inner)
                made = Bound(None, {}, None, firing, None), firing
                made[0].moved = moves
            self._learn(self._kernels, kernel, kernel, launch, made, again, around)

    # What both need.

    def _may_be_direct(self, kernel: Any) -> bool:
        import triton

        return self.able and type(kernel) is triton.JITFunction and self._failed.get(id(kernel), 0) < MOST_FAILED

    def _learn(
        self,
        table: dict[int, DirectLaunches],
        holder: Any,
        kernel: Any,
        launch: Launch,
        made: tuple[Bound, Firing] | None,
        again: Callable[..., Any],
        around: Around,
    ) -> None:
        """The caller holds the lock."""
        known = table.get(id(holder))
        if known is None:
            if len(table) >= MOST_HELD:
                self._forget(table)
                self._failed.clear()
                self._held.clear()
            self._held[id(holder)] = holder, kernel
            known = DirectLaunches(kernel, again, around)
        if made is not None and known.learn(launch.grid, launch.args, launch.named, made):
            table[id(holder)] = known
            self._failed.pop(id(kernel), None)
        elif not known.made:
            self._failed[id(kernel)] = self._failed.get(id(kernel), 0) + 1


def _bound(outcome: Outcome, constants: Mapping[str, Any]) -> tuple[Bound, Firing] | None:
    grids = None if outcome.grid is None or outcome.placed is not None else {outcome.grid}
    made = bound_of(outcome.config, constants, outcome.compiled, grids)
    if made is not None:
        made[0].tally, made[0].still, made[0].shape = outcome.tally, outcome.still, outcome.placed
        if outcome.result is not None:
            made[0].result = outcome.result
    return made


def same_arguments(kernel: Any, launch: Launch, other: Launch) -> bool:
    """Whether two launches give a kernel the same arguments, but for constants."""
    constants = constexprs_of(kernel)
    before, _ = bind(kernel, launch.args, launch.named)
    after, _ = bind(kernel, other.args, other.named)
    return all(after[name] is value for name, value in before.items() if name not in constants)


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
