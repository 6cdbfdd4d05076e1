"""Let the launches of a program that are tuned cases run with other configs, in its own process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fusetune.capture.above import Above
from fusetune.capture.cases import Case, KernelSeen
from fusetune.capture.changes import Change, Changes, as_it_ran, free_names
from fusetune.capture.given import Given, Launch, Placements, config_like, hold_launches, run_with
from fusetune.capture.launches import kernel_seen
from fusetune.capture.patching import Patches
from fusetune.capture.timing import Times
from fusetune.ops.arguments import bind, resolved_grid, told
from fusetune.ops.tuners import chain_of


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
        self._above = Above()  # What a program benchmarks is launched as all else of it.
        self._patches = Patches()
        self._lock = threading.Lock()
        self._kernels: dict[int, tuple[Any, KernelSeen]] = {}
        self._placements = Placements()
        self._launched = [Launched() for _ in self._changes.all]
        self._times = Times()

    def install(self) -> None:
        """Begin. Triton is imported here, and torch with it."""
        hold_launches(self._patches, self._above, self._run, self._choose)

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

    # An autotuner above.

    def _choose(self, run: Any, tuner: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        change = self._of_tuner(tuner, args, named) if not self._above.depth("trial") else None
        if change is None:
            return run(tuner, *args, **named)
        return run_with(run, tuner, config_like(tuner.configs, _given(change)), args, named)

    def _of_tuner(self, tuner: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Change | None:
        """What an autotuner is to launch that is about to choose a config; None where it chooses."""
        chain = chain_of(tuner)
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
        launch = Launch(args, grid, named)
        why = None
        if number is not None and self._apply:
            given = _given(self._changes.all[number])
            changed = self._placements.launch(given, kernel, launch, bound, self._above.tuners)
            why = changed if isinstance(changed, str) else None
            launch = launch if isinstance(changed, str) else changed
        with self._above.deeper("inside"):
            compiled = self._launch(run, kernel, launch, number, warmup=warmup)
        if not warmup:
            self._count(number, why, kernel, launch)
        return compiled

    def _launch(self, run: Any, kernel: Any, launch: Launch, number: int | None, *, warmup: bool) -> Any:
        args, grid, named = launch
        if warmup or not self.timing:
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        slot = number if number is not None else (id(kernel), str(grid) if isinstance(grid, tuple) else "")
        with self._times.around(slot, run, kernel, args, grid, named, benchmark=self._above.benchmark):
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

    def _count(self, number: int | None, why: str | None, kernel: Any, launch: Launch) -> None:
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


def _given(change: Change) -> Given:
    case = change.case
    return Given(change.constants, change.options, case.constants, {**case.constants, **case.before})
