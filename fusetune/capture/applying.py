"""Let the launches of a program that are tuned cases run with other configs, in its own process.

Private parts of Triton that this relies on, the same in 3.6 to 3.8: `JITFunction.run` (the interpreter's
`InterpretedFunction.run`) takes each eager launch; an `Autotuner` with one config in `configs` runs with it and times
nothing, with its pre_hook.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

import msgspec

from fusetune.capture.above import Above
from fusetune.capture.cases import Case, KernelSeen
from fusetune.capture.changes import Change, Changes, as_it_ran, free_names
from fusetune.capture.grids import rule_of
from fusetune.capture.kept import Placed
from fusetune.capture.launches import described, kernel_seen, user_frame
from fusetune.capture.patching import Patches
from fusetune.capture.placing import heuristics_of, placed_at
from fusetune.capture.timing import Times
from fusetune.core.config import OPTIONS
from fusetune.ops.arguments import bind, constexprs_of, resolved_grid, signature_of, told

_NOT_KNOWN: Final = "what the program would launch with these constants is not known there"
_MOST_ABOVE: Final = 20


class Launched(msgspec.Struct, frozen=True):
    """What became of one change: launches that ran with it, and by their reasons those that ran as they are.

    `grid`, `constants` and `options` are those of the last launch with it. `us` are the microseconds that a launch of
    the case takes, with the change or without it; None where none was timed.
    """

    applied: int = 0
    left: dict[str, int] = {}
    grid: tuple[int, ...] | None = None
    constants: dict[str, Any] = {}
    options: dict[str, Any] = {}
    us: float | None = None


class _Launch(NamedTuple):
    """What Triton is called with."""

    args: tuple[Any, ...]
    grid: Any
    named: dict[str, Any]


class Applier:
    """Applies changes between `install` and `remove`, or with `apply` false only watches the launches that they are of.

    An autotuner above a case of `held` takes what ran when that was captured, unless a change says otherwise: it times
    nothing again, and two runs of a program differ by their changes alone.
    Launches are timed while `timing` is set; it needs a GPU. `launches` counts all of them, `others` those of changes'
    kernels that are none of their cases.
    """

    def __init__(self, changes: Sequence[Change], *, apply: bool = True, held: Sequence[Case] = ()) -> None:
        self._changes, self._apply = Changes(changes), apply
        self._held = Changes(map(as_it_ran, held))
        self.timing = False
        self.launches = self.others = 0
        self._above = Above()
        self._patches = Patches()
        self._lock = threading.Lock()
        self._kernels: dict[int, tuple[Any, KernelSeen]] = {}
        self._placed: dict[Any, Placed | str] = {}
        self._launched = [Launched() for _ in self._changes.all]
        self._times = Times()

    def install(self) -> None:
        """Begin. Triton is imported here, and torch with it."""
        import triton
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction

        kind = InterpretedFunction if triton.knobs.runtime.interpret else JITFunction
        self._patches.put(kind, "run", self._applied(kind.run))
        self._above.install(self._patches.put)
        self._patches.put(Autotuner, "run", self._without_timing(Autotuner.run))

    def remove(self) -> None:
        """End it; everything is as it was."""
        self._patches.close()

    def begin_counting(self) -> None:
        """Forget the launches so far."""
        with self._lock:
            self.launches = self.others = 0
            self._launched = [Launched() for _ in self._changes.all]

    def kernel_names(self) -> frozenset[str]:
        """Those of the kernels that were launched, as the GPU's profile has them."""
        return frozenset(seen.name.rpartition(".")[2] for _, seen in self._kernels.values())

    def launched(self) -> tuple[Launched, ...]:
        """What became of each change, in their order."""
        times = self._times.of_launches()
        return tuple(msgspec.structs.replace(one, us=times.get(number)) for number, one in enumerate(self._launched))

    def all_us(self) -> float | None:
        """The microseconds of all launches that were timed and of those like them; None where none was."""
        return self._times.total_us()

    def _applied(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def applied_run(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            return self._run(run, kernel, args, grid, warmup, named)

        return applied_run

    # An autotuner above.

    def _without_timing(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def chosen_run(tuner: Any, /, *args: Any, **named: Any) -> Any:
            change = self._of_tuner(tuner, args, named) if not self._above.depth("trial") else None
            if change is None:
                return run(tuner, *args, **named)
            configs = tuner.configs
            tuner.configs = [_config_like(configs, change)]
            try:
                return run(tuner, *args, **named)
            finally:
                tuner.configs = configs

        return chosen_run

    def _of_tuner(self, tuner: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Change | None:
        """What an autotuner is to launch that is about to choose a config; None where it chooses."""
        chain = _chain(tuner)
        kernel = chain[-1]
        if not hasattr(kernel, "run"):
            return None
        free = free_names((*self._above.tuners, *chain[:-1]))
        own = {name: value for name, value in named.items() if name not in {"grid", "warmup"}}
        try:
            bound, options = bind(kernel, args, own, partly=True)
        except TypeError:  # the launch itself tells the program
            return None
        for changes in (self._changes, self._held) if self._apply else (self._held,):
            number = self._find(changes, kernel, bound, options, free)
            if number is not None:
                return changes.all[number]
        return None

    # A launch.

    def _run(self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, warmup: bool, named: dict[str, Any]) -> Any:
        if self._above.depth("trial") or self._above.depth("inside"):
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        try:
            bound, options = bind(kernel, args, named)
        except TypeError:  # the launch itself tells the program
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        number = self._find(self._changes, kernel, bound, options, free_names(self._above.tuners), grid)
        launch = _Launch(args, grid, named)
        why = None
        if number is not None and self._apply:
            changed = self._changed(self._changes.all[number], kernel, launch, bound)
            why = changed if isinstance(changed, str) else None
            launch = launch if isinstance(changed, str) else changed
        with self._above.deeper("inside"):
            compiled = self._launch(run, kernel, launch, number, warmup=warmup)
        if not warmup:
            self._count(number, why, kernel, launch)
        return compiled

    def _launch(self, run: Any, kernel: Any, launch: _Launch, number: int | None, *, warmup: bool) -> Any:
        args, grid, named = launch
        if warmup or not self.timing:
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        slot = number if number is not None else (id(kernel), str(grid) if isinstance(grid, tuple) else "")
        with self._times.around(slot, run, kernel, args, grid, named):
            return run(kernel, *args, grid=grid, warmup=False, **named)

    def _find(
        self,
        changes: Changes,
        kernel: Any,
        bound: Mapping[str, Any],
        options: Mapping[str, Any],
        free: frozenset[str],
        grid: Any = None,
    ) -> int | None:
        seen = self._seen(kernel)
        if not changes.are_of(seen):
            return None
        resolved = resolved_grid(grid, bound) if grid is not None else None
        return changes.find(seen, kernel, bound, options, free, resolved)

    def _seen(self, kernel: Any) -> KernelSeen:
        found = self._kernels.get(id(kernel))
        if found is None:
            found = self._kernels[id(kernel)] = (kernel, kernel_seen(kernel))
        return found[1]

    def _changed(self, change: Change, kernel: Any, launch: _Launch, bound: Mapping[str, Any]) -> _Launch | str:
        """The launch with the change's config; or why it stays as it is."""
        args, grid, named = launch
        changed = {name: value for name, value in change.constants.items() if bound.get(name) != value}
        follow: Mapping[str, Any] = {}
        if changed:
            placed = self._placed_for(changed, kernel, grid, bound)
            if isinstance(placed, str):
                return placed
            assert placed.grid is not None, "else it is a reason"
            grid, follow = placed.grid, placed.arguments
        args, named = _with(kernel, args, named, {**changed, **follow, **change.options})
        return _Launch(args, grid, named)

    def _placed_for(self, changed: dict[str, Any], kernel: Any, grid: Any, bound: Mapping[str, Any]) -> Placed | str:
        """Where the program would launch with other constants, as far as its source tells; remembered by its place."""
        resolved = resolved_grid(grid, bound)
        frame = user_frame()
        try:
            place = (frame.f_code, frame.f_lineno) if frame is not None else None
            key = (id(kernel), place, resolved, repr(described(kernel, bound)), repr(changed), _locals(frame))
            found = self._placed.get(key)
            if found is None:
                constants = {name: bound[name] for name in constexprs_of(kernel) if name in bound}
                rule = rule_of(grid, resolved, bound, constants, kernel=kernel, frame=frame)
                sized = next((rule.buffers[name] for name in changed if name in rule.buffers), None)
                placed = placed_at(changed, grid, resolved, bound, rule, heuristics_of(self._above.tuners))
                found = sized or (placed if placed.grid is not None else _NOT_KNOWN)
                self._placed[key] = found
            return found
        finally:
            del frame

    def _count(self, number: int | None, why: str | None, kernel: Any, launch: _Launch) -> None:
        with self._lock:
            self.launches += 1
            self.others += number is None and self._changes.are_of(self._seen(kernel))
            if number is None or not self._apply:
                return
            seen = self._launched[number]
            if why is not None:
                left = {**seen.left, why: seen.left.get(why, 0) + 1}
                self._launched[number] = msgspec.structs.replace(seen, left=left)
                return
            bound, _ = bind(kernel, launch.args, launch.named)
            change = self._changes.all[number]
            self._launched[number] = msgspec.structs.replace(
                seen,
                applied=seen.applied + 1,
                grid=resolved_grid(launch.grid, bound),
                constants={name: told(bound[name]) for name in change.case.constants if name in bound},
                options={name: told(value) for name, value in launch.named.items() if name in change.options},
            )


def _with(
    kernel: Any, args: tuple[Any, ...], named: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with other values, each in the place where it was given."""
    places = dict(zip(signature_of(kernel).parameters, range(len(args)), strict=False))
    positional, keywords = list(args), dict(named)
    for name, value in changes.items():
        if name in places:
            positional[places[name]] = value
        else:
            keywords[name] = value
    return tuple(positional), keywords


def _config_like(configs: Sequence[Any], change: Change) -> Any:
    """A Config of a change, with the hook of the list's own one: of the same, of what ran, or of the first."""
    import triton

    constants = {**change.case.constants, **change.constants}
    wanted = {"num_ctas": 1, **constants, **change.options}
    ran = {**change.case.constants, **change.case.before}
    own = _first_like(configs, wanted) or _first_like(configs, ran) or configs[0]
    given = {name for one in configs for name in one.kwargs if name in constants and name not in OPTIONS}
    held = {**constants, **own.kwargs, **change.constants}
    return triton.Config({name: held[name] for name in given}, **change.options, pre_hook=own.pre_hook)


def _first_like(configs: Sequence[Any], held: Mapping[str, Any]) -> Any:
    """The first config whose constants and options are all among these; None where none is."""

    def is_like(config: Any) -> bool:
        return all(name in held and held[name] == told(value) for name, value in config.all_kwargs().items())

    return next((one for one in configs if is_like(one)), None)


def _chain(tuner: Any) -> list[Any]:
    """An autotuner and what it holds, down to the kernel."""
    found = [tuner]
    while len(found) < _MOST_ABOVE and hasattr(getattr(found[-1], "fn", None), "fn"):
        found.append(found[-1].fn)
    return found


def _locals(frame: FrameType | None) -> str:
    """The plain values around a launch, which its grid may be computed from."""
    if frame is None:
        return ""
    plain = (int, float, tuple)
    return repr([(name, value) for name, value in frame.f_locals.items() if isinstance(value, plain)])
