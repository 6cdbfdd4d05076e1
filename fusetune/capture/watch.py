"""Watch what a program launches, in its own process: every launch through Triton's JIT, as it is launched.

Private parts of Triton that this relies on, the same in 3.6 to 3.9: `JITFunction.run(*args, grid, warmup, **kwargs)`
takes each eager launch, `knobs.runtime.launch_enter_hook` is a chain.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusetune.capture.above import Above, Turn
from fusetune.capture.alike import Identity, identity_of
from fusetune.capture.cases import Case, KernelSeen, Looked, NotCaptured
from fusetune.capture.grids import GridRule
from fusetune.capture.inductor import around_launchers
from fusetune.capture.keeping import Keeper, Pending
from fusetune.capture.kept import Placed
from fusetune.capture.knobs import Knob
from fusetune.capture.launches import before_of, described, kernel_seen, proposals_of, user_frame
from fusetune.capture.patching import Patches
from fusetune.capture.placing import placed_of
from fusetune.capture.seen import MOST_CASES, Seen, SeenCases, trials_of
from fusetune.capture.timing import LaunchTimer, is_capturing
from fusetune.core.brief import brief
from fusetune.core.config import OPTIONS
from fusetune.ops.arguments import bind, resolved_grid, told
from fusetune.ops.tuners import heuristics_of

TIMED_OF_A_CASE: Final = 20
"""So many launches of a case say what all of them take."""
MOST_BENCHMARKED: Final = 8
"""Of a kernel that is benchmarked, so many cases are kept: a script that tunes by itself has hundreds."""


class Understood(NamedTuple):
    """What of a launch can only be told while the program lives."""

    rule: GridRule
    knobs: Sequence[Knob]


class Watch:
    """Records launches between `install` and `remove`; `looked` is what was seen.

    `understand(kernel, bound, grid, resolved, options, frame, compiled, proposals, heuristics)` may add to a case when
    it is seen first, while its objects live: the fields that it returns replace the case's, but for `understood`, an
    Understood. What it raises is a finding. A `keeper` keeps each case.
    """

    def __init__(
        self,
        understand: Callable[..., Mapping[str, Any]] | None = None,
        *,
        timed: bool = False,
        keeper: Keeper | None = None,
    ) -> None:
        self._understand, self._keeper = understand, keeper
        self._timer = LaunchTimer() if timed else None
        self._seen = SeenCases(keeper.forget if keeper is not None else lambda _folder: None)
        self._above = Above(self._settle)
        self._lock = threading.Lock()
        self._patches = Patches()
        self.trials = self.in_graphs = 0
        self._lost: dict[tuple[KernelSeen, str], int] = {}
        self.bypassed: dict[str, int] = {}
        self.by_inductor: dict[str, int] = {}
        self._benchmarked: dict[int, int] = {}

    def install(self) -> None:
        """Begin to watch. Triton is imported here, and torch with it."""
        import triton
        from triton.runtime.jit import JITFunction

        watch = self
        run = JITFunction.run

        def watched_run(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            return watch._run(run, kernel, args, grid, warmup, named)

        self._patches.put(JITFunction, "run", watched_run)
        self._above.install(self._patches.put)
        hooks = triton.knobs.runtime.launch_enter_hook
        if hasattr(hooks, "add"):
            hooks.add(self._entered)
            self._patches.callback(hooks.remove, self._entered)
        around_launchers(self._patches, self._of_inductor)

    def _of_inductor(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Around a launch of torch.compile's own, which is counted."""
        with self._lock:
            self.by_inductor[name] = self.by_inductor.get(name, 0) + 1
        return self._above.deeper("inside")

    def remove(self) -> None:
        """End it; everything is as it was."""
        self._patches.close()

    def looked(self, **about: Any) -> Looked:
        """What was seen so far."""
        self._finish_times()
        self.trials += self._seen.settle_benchmarks()
        cases = [seen.told() for seen in self._seen]
        cases.sort(key=lambda case: -(case.us or 0.0))
        return Looked(
            tuple(cases),
            trials=self.trials,
            in_graphs=self.in_graphs,
            bypassed=dict(self.bypassed),
            by_inductor=dict(self.by_inductor),
            not_captured=tuple(NotCaptured(*what, launches) for what, launches in self._lost.items()),
            **about,
        )

    def _run(self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, warmup: bool, named: dict[str, Any]) -> Any:
        if warmup or self._above.depth("trial"):
            with self._lock:
                self.trials += not warmup
            with self._above.deeper("inside"):
                return run(kernel, *args, grid=grid, warmup=warmup, **named)
        if is_capturing():
            with self._lock:
                self.in_graphs += 1
            with self._above.deeper("inside"):
                return run(kernel, *args, grid=grid, warmup=warmup, **named)
        pending = self._before(kernel, args, grid, named) if self._keeper is not None else None
        try:
            compiled, events = self._launch(run, kernel, args, grid, named)
        except BaseException:
            self._drop(pending)
            raise
        if self._keeper is not None and pending is not None:
            self._keeper.after(pending)
        with self._lock:
            seen = self._note(kernel, args, grid, named, compiled, pending)
            if seen is not None:
                benchmark = self._above.benchmark
                seen.launches += benchmark is None
                seen.benchmarked += benchmark is not None and seen not in benchmark
                if benchmark is not None:
                    benchmark.add(seen)
                timed = events if len(seen.events) < TIMED_OF_A_CASE else None
                if timed:
                    seen.events.append(timed)
                if (turn := self._above.turn) is not None and benchmark is None:
                    turn.launches.append((seen, timed))
        return compiled

    def _settle(self, turn: Turn) -> None:
        """Of a tuner that timed in its own way, only the last launch is the program's."""
        with self._lock:
            for seen, events in trials_of(turn):
                self.trials += 1
                seen.launches -= 1
                if events:
                    seen.events.remove(events)
                if not seen.launches and not seen.benchmarked:
                    self._seen.remove(seen)

    def _launch(
        self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, named: dict[str, Any]
    ) -> tuple[Any, tuple[Any, Any] | None]:
        """Launch, and the events around it where it is timed."""
        with self._above.deeper("inside"):
            events = self._events(run, kernel, args, grid, named)
            if events:
                events[0].record()
            compiled = run(kernel, *args, grid=grid, warmup=False, **named)
            if events:
                events[1].record()
        return compiled, events

    def _events(
        self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, named: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        if self._timer is None:
            return None
        # Whoever times by itself must not count what keeps the GPU busy.
        busy = self._above.turn is None and self._above.benchmark is None
        return self._timer.events(run, kernel, args, grid, named, busy=busy)

    def _before(self, kernel: Any, args: tuple[Any, ...], grid: Any, named: dict[str, Any]) -> Pending | None:
        """What the keeper takes before a case's first launch; None for others, and where Triton will object."""
        assert self._keeper is not None, "asked for with a keeper alone"
        try:
            bound, options = bind(kernel, args, named)
            identity = identity_of(kernel, resolved_grid(grid, bound), *described(kernel, bound), options)
        except Exception:  # noqa: BLE001 - the launch itself tells the program
            return None
        if self._seen.is_another(identity):
            return None
        if self._above.benchmark is not None and self._is_enough(kernel, identity):
            return None
        return self._keeper.before(identity.exact, kernel, bound)

    def _is_enough(self, kernel: Any, identity: Identity) -> bool:
        """Whether as many cases of a kernel that is benchmarked were begun as are kept."""
        if self._seen.knows(identity):
            return False
        with self._lock:
            count = self._benchmarked[id(kernel)] = self._benchmarked.get(id(kernel), 0) + 1
        return count > MOST_BENCHMARKED

    def _drop(self, pending: Pending | None) -> None:
        if self._keeper is not None and pending is not None:
            self._keeper.drop(pending)

    def _entered(self, metadata: Any) -> None:
        """Triton's own hook: a launch that no `run` was on the way of."""
        if self._above.depth("inside") or self._above.depth("trial"):
            return
        with contextlib.suppress(Exception):
            name = str(metadata.get().get("name", "a kernel"))
            with self._lock:
                self.bypassed[name] = self.bypassed.get(name, 0) + 1

    def _note(
        self,
        kernel: Any,
        args: tuple[Any, ...],
        grid: Any,
        named: dict[str, Any],
        compiled: Any,
        pending: Pending | None = None,
    ) -> Seen | None:
        """The case of a launch; the caller holds the lock."""
        try:
            bound, options = bind(kernel, args, named)
            tensors, values, constants = described(kernel, bound)
            resolved = resolved_grid(grid, bound)
            before = before_of(compiled)
            identity = identity_of(kernel, resolved, tensors, values, constants, options)
        except Exception as error:  # noqa: BLE001 - Triton has taken it, so that this is ours to answer for
            self._lose(kernel, brief(error), pending)
            return None
        seen = self._seen.find(identity, before)
        new = seen is None
        tuners = self._above.tuners
        if seen is None:
            case = Case(
                kernel=kernel_seen(kernel),
                grid=resolved,
                grid_kind="callable" if callable(grid) else "tuple",
                tensors=tensors,
                values=values,
                constants=constants,
                options={name: told(value) for name, value in options.items()},
                before=before,
                proposals=sum(len(getattr(tuner, "configs", ())) for tuner in tuners),
                findings=findings_of(tuners, options, before),
            )
            seen = self._seen.add(identity, case)
            if seen is None:
                self._lose(kernel, f"the program has {MOST_CASES:,} other cases", pending)
                return None
        # The first thread to begin a launch is the one to keep it, and another one may be done with it before.
        late = not new and pending is not None and seen.case.kept is None and not self._seen.is_another(identity)
        if new or late:
            more = self._find_out(kernel, bound, grid, resolved, options, compiled, tuners)
            understood = more.pop("understood", None)
            if new:
                findings = (*seen.case.findings, *more.pop("findings", ()))
                seen.case = _replaced(seen.case, **more, findings=findings)
            if pending is not None:
                self._keep(pending, seen, understood, (grid, resolved, bound, options, tuners))
        else:
            self._drop(pending)
        seen.differing.note(tensors, values)
        return seen

    def _find_out(
        self,
        kernel: Any,
        bound: Mapping[str, Any],
        grid: Any,
        resolved: tuple[int, ...],
        options: Mapping[str, Any],
        compiled: Any,
        tuners: Sequence[Any],
    ) -> dict[str, Any]:
        """What `understand` says of a launch; a finding where it raises."""
        if self._understand is None:
            return {}
        frame = user_frame()
        try:
            proposals, heuristics = proposals_of(tuners), heuristics_of(tuners)
            return dict(
                self._understand(kernel, bound, grid, resolved, options, frame, compiled, proposals, heuristics)
            )
        except Exception as error:  # noqa: BLE001 - the program goes on, and who reads the case is told
            why = f"what may vary could not be found out: {type(error).__name__}: {error}"
            return {"findings": (why,)}
        finally:
            del frame

    def _lose(self, kernel: Any, why: str, pending: Pending | None) -> None:
        """Count a launch that is no case; the caller holds the lock."""
        self._drop(pending)
        what = kernel_seen(kernel, hashed=False), why
        self._lost[what] = self._lost.get(what, 0) + 1

    def _keep(self, pending: Pending, seen: Seen, understood: Understood | None, launch: tuple[Any, ...]) -> None:
        """Write a case down, and note in it where, or why not."""
        assert self._keeper is not None, "pending for a keeper alone"
        grid, resolved, bound, options, tuners = launch
        placed: tuple[Placed, ...] = ()
        if understood is not None:
            placed = placed_of(grid, resolved, bound, understood.rule, understood.knobs, heuristics_of(tuners))
        folder = self._keeper.keep(
            pending,
            seen.case,
            rule=understood.rule if understood is not None else None,
            placed=placed,
            proposals=proposals_of(tuners),
            options=options,
        )
        notes = [f"it cannot be launched again: {pending.why}"] if pending.why is not None else []
        seen.case = _replaced(seen.case, kept=folder, findings=(*seen.case.findings, *notes))

    def _finish_times(self) -> None:
        if self._timer is not None and self._timer.timings:
            import torch

            torch.cuda.synchronize()


def findings_of(tuners: Sequence[Any], options: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, ...]:
    """What the source asks for and does not get."""
    found = []
    for tuner in tuners:
        hidden = {
            name
            for config in getattr(tuner, "configs", ())
            for name in OPTIONS
            if name in getattr(config, "kwargs", {})
        }
        if any(getattr(config, "pre_hook", None) is not None for config in getattr(tuner, "configs", ())):
            found.append("a Config has a pre_hook, which runs before each launch: what it did is kept, and not it")
        if hidden:
            names = ", ".join(sorted(hidden))
            found.append(
                f"a Config holds {names} among its constants, where its own {names} wins: give it as Config's own"
            )
    found += [
        f"the launch asks for {name}={options[name]}, and {before[name]} runs"
        for name in OPTIONS
        if options.get(name) is not None and name in before and options[name] != before[name]
    ]
    return tuple(found)


def _replaced(case: Case, **changes: Any) -> Case:
    from msgspec import structs

    return structs.replace(case, **changes)
