"""Watch what a program launches, in its own process: every launch through Triton's JIT, as it is launched.

Private parts of Triton that this relies on, the same in 3.6 to 3.8: `JITFunction.run(*args, grid, warmup, **kwargs)`
takes each eager launch, `Autotuner._bench` makes an autotuner's trials, `knobs.runtime.launch_enter_hook` is a chain.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from fusetune.capture.cases import Case, KernelSeen, Looked, TensorSeen
from fusetune.capture.grids import GridRule
from fusetune.capture.keeping import Keeper, Pending
from fusetune.capture.kept import Placed
from fusetune.capture.knobs import Knob
from fusetune.capture.placing import heuristics_of, placed_of
from fusetune.capture.sources import source_hash_of
from fusetune.ops.hashing import innermost

MOST_CASES: Final = 2000
MOST_TIMED: Final = 20_000
"""Launches that are timed at most; what comes later is counted."""
TIMED_OF_A_CASE: Final = 20
"""So many launches of a case say what all of them take."""
_BUSY_CYCLES: Final = 400_000
"""Of the GPU's clock, some 200 us: longer than the host takes for a launch."""
_FIRST: Final = 20
"""So many times as long at a kernel's first launch."""
_BEFORE: Final = ("num_warps", "num_stages", "num_ctas", "maxnreg", "warp_size")
_OPTIONS_OF_A_CONFIG: Final = ("num_warps", "num_stages", "num_ctas", "maxnreg")
_OURS: Final = str(Path(__file__).resolve().parents[1])


class Understood(NamedTuple):
    """What of a launch can only be told while the program lives. `pointers`: tensors that hold addresses."""

    rule: GridRule
    knobs: Sequence[Knob]
    pointers: tuple[str, ...] = ()


class _Seen:
    """A case while the program runs."""

    def __init__(self, case: Case) -> None:
        self.case, self.launches = case, 0
        self.events: list[tuple[Any, Any]] = []


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
        self._understand, self._timed, self._keeper = understand, timed, keeper
        self._seen: dict[Any, _Seen] = {}
        self._here = threading.local()
        self._lock = threading.Lock()
        self._undo: list[Callable[[], None]] = []
        self._timings = 0
        self._launched: set[int] = set()
        self.trials = self.in_graphs = self.lost = 0
        self.bypassed: dict[str, int] = {}

    def install(self) -> None:
        """Begin to watch. Triton is imported here, and torch with it."""
        import triton
        from triton.runtime.autotuner import Autotuner, Heuristics
        from triton.runtime.jit import JITFunction

        watch = self
        run = JITFunction.run

        def watched_run(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            return watch._run(run, kernel, args, grid, warmup, named)

        self._replace(JITFunction, "run", watched_run)
        for owner, name in (
            (Autotuner, "_bench"),
            (triton.testing, "do_bench"),
            (triton.testing, "do_bench_cudagraph"),
        ):
            self._replace(owner, name, self._as_trial(getattr(owner, name)))
        for owner in (Autotuner, Heuristics):
            self._replace(owner, "run", self._below(owner.run))
        hooks = triton.knobs.runtime.launch_enter_hook
        if hasattr(hooks, "add"):
            hooks.add(self._entered)
            self._undo.append(lambda: hooks.remove(self._entered))

    def remove(self) -> None:
        """End it; everything is as it was."""
        while self._undo:
            self._undo.pop()()

    def looked(self, **about: Any) -> Looked:
        """What was seen so far."""
        self._finish_times()
        cases = [_replaced(seen.case, launches=seen.launches) for seen in self._seen.values()]
        cases.sort(key=lambda case: -(case.us or 0.0))
        return Looked(tuple(cases), trials=self.trials, in_graphs=self.in_graphs, bypassed=dict(self.bypassed), **about)

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        before = owner.__dict__[name] if name in vars(owner) else getattr(owner, name)
        setattr(owner, name, function)
        self._undo.append(lambda: setattr(owner, name, before))

    def _as_trial(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def trial(*args: Any, **named: Any) -> Any:
            with self._deeper("trial"):
                return function(*args, **named)

        return trial

    def _below(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(tuner: Any, *args: Any, **named: Any) -> Any:
            above = getattr(self._here, "tuners", ())
            self._here.tuners = (*above, tuner)
            try:
                return function(tuner, *args, **named)
            finally:
                self._here.tuners = above

        return run

    @contextlib.contextmanager
    def _deeper(self, name: str) -> Iterator[None]:
        depths = self._here.__dict__
        depths[name] = depths.get(name, 0) + 1
        try:
            yield
        finally:
            depths[name] -= 1

    def _run(self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, warmup: bool, named: dict[str, Any]) -> Any:
        if warmup or self._here.__dict__.get("trial", 0):
            with self._lock:
                self.trials += not warmup
            with self._deeper("inside"):
                return run(kernel, *args, grid=grid, warmup=warmup, **named)
        if _is_capturing():
            with self._lock:
                self.in_graphs += 1
            with self._deeper("inside"):
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
                seen.launches += 1
                if events and len(seen.events) < TIMED_OF_A_CASE:
                    seen.events.append(events)
        return compiled

    def _launch(
        self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, named: dict[str, Any]
    ) -> tuple[Any, tuple[Any, Any] | None]:
        """Launch, and the events around it where it is timed."""
        with self._deeper("inside"):
            events = self._events(run, kernel, args, grid, named) if self._timed else None
            if events:
                events[0].record()
            compiled = run(kernel, *args, grid=grid, warmup=False, **named)
            if events:
                events[1].record()
        return compiled, events

    def _before(self, kernel: Any, args: tuple[Any, ...], grid: Any, named: dict[str, Any]) -> Pending | None:
        """What the keeper takes before a case's first launch; None for others, and where Triton will object."""
        assert self._keeper is not None, "asked for with a keeper alone"
        try:
            bound, options = bind(kernel, args, named)
            key = (id(kernel), resolved_grid(grid, bound), repr(described(kernel, bound)), repr(options))
        except Exception:  # noqa: BLE001 - the launch itself tells the program
            return None
        return self._keeper.before(key, kernel, bound)

    def _drop(self, pending: Pending | None) -> None:
        if self._keeper is not None and pending is not None:
            self._keeper.drop(pending)

    def _events(
        self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, named: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        """Events for a launch, with the GPU kept busy until both are queued: no time of the host's is between them.

        A kernel is compiled and loaded before. Its first launch takes the host longer than others.
        """
        import torch

        from fusetune.ops.direct import load

        if self._timings >= MOST_TIMED:
            return None
        self._timings += 1
        compiled = run(kernel, *args, grid=grid, warmup=True, **named)
        if compiled is not None:
            load(compiled)
        is_first = id(kernel) not in self._launched
        self._launched.add(id(kernel))
        torch.cuda._sleep(_BUSY_CYCLES * (_FIRST if is_first else 1))
        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def _entered(self, metadata: Any) -> None:
        """Triton's own hook: a launch that no `run` was on the way of."""
        if self._here.__dict__.get("inside", 0) or self._here.__dict__.get("trial", 0):
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
    ) -> _Seen | None:
        """The case of a launch; the caller holds the lock."""
        try:
            bound, options = bind(kernel, args, named)
        except TypeError:  # Triton has taken it, so that this is ours to answer for
            self.lost += 1
            self._drop(pending)
            return None
        tensors, values, constants = described(kernel, bound)
        resolved = resolved_grid(grid, bound)
        before = before_of(compiled)
        key = (id(kernel), resolved, repr(tensors), repr(values), repr(constants), repr(options), repr(before))
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= MOST_CASES:
                self.lost += 1
                self._drop(pending)
                return None
            tuners = tuple(getattr(self._here, "tuners", ()))
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
            seen = self._seen[key] = _Seen(case)
            understood: Understood | None = None
            if self._understand is not None:
                frame = user_frame()
                try:
                    more = dict(
                        self._understand(
                            kernel,
                            bound,
                            grid,
                            resolved,
                            options,
                            frame,
                            compiled,
                            proposals_of(tuners),
                            heuristics_of(tuners),
                        )
                    )
                    understood = more.pop("understood", None)
                    seen.case = _replaced(case, **more)
                except Exception as error:  # noqa: BLE001 - the program goes on, and who reads the case is told
                    why = f"what may vary could not be found out: {type(error).__name__}: {error}"
                    seen.case = _replaced(case, findings=(*case.findings, why))
                finally:
                    del frame
            if pending is not None:
                self._keep(pending, seen, understood, (grid, resolved, bound, options, tuners))
        else:
            self._drop(pending)
        return seen

    def _keep(self, pending: Pending, seen: _Seen, understood: Understood | None, launch: tuple[Any, ...]) -> None:
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
            pointers=understood.pointers if understood is not None else (),
        )
        notes = [f"it cannot be launched again: {pending.why}"] if pending.why is not None else []
        seen.case = _replaced(seen.case, kept=folder, findings=(*seen.case.findings, *notes))

    def _finish_times(self) -> None:
        if not self._timings:
            return
        import torch

        torch.cuda.synchronize()
        for seen in self._seen.values():
            if seen.events:
                mean = sum(start.elapsed_time(end) for start, end in seen.events) / len(seen.events)
                seen.case = _replaced(seen.case, us=round(mean * 1e3 * seen.launches, 3))


def bind(kernel: Any, args: Sequence[Any], named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a launch by name, defaults and all, and its options. Raises TypeError where they do not fit."""
    names = {parameter.name for parameter in kernel.params}
    own = {name: value for name, value in named.items() if name in names}
    bound = kernel.signature.bind(*args, **own)
    bound.apply_defaults()
    ignored = {"debug", "instrumentation_mode", "sanitize_overflow"}
    return dict(bound.arguments), {name: value for name, value in named.items() if name not in names | ignored}


def described(kernel: Any, bound: Mapping[str, Any]) -> tuple[dict[str, TensorSeen], dict[str, Any], dict[str, Any]]:
    """Tensors, run-time values and constants of a launch by name; tensors in tuples as `name.0`."""
    tensors: dict[str, TensorSeen] = {}
    values: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    storages: dict[int, int] = {}
    constexprs = {parameter.name for parameter in kernel.params if parameter.is_constexpr}

    def put(name: str, value: Any, into: dict[str, Any]) -> None:
        # A descriptor and what triton.reinterpret gives hold their tensors.
        tensor = value if hasattr(value, "untyped_storage") else getattr(value, "base", None)
        if hasattr(tensor, "data_ptr") and hasattr(tensor, "untyped_storage"):
            block = tuple(value.block_shape) if hasattr(value, "block_shape") else None
            tensors[name] = tensor_seen(tensor, storages, block)
        elif isinstance(value, tuple | list):
            for number, one in enumerate(value):
                put(f"{name}.{number}", one, into)
        else:
            into[name] = told(value)

    for name, value in bound.items():
        put(name, value, constants if name in constexprs else values)
    return tensors, values, constants


def tensor_seen(tensor: Any, storages: dict[int, int], block: tuple[int, ...] | None = None) -> TensorSeen:
    """What of a tensor counts for a launch. `storages` numbers storages by their addresses."""
    storage = tensor.untyped_storage()
    return TensorSeen(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        storage=storages.setdefault(storage.data_ptr(), len(storages)),
        offset=tensor.storage_offset(),
        storage_bytes=storage.nbytes(),
        aligned=tensor.data_ptr() % 16 == 0,
        block=block,
    )


def told(value: Any) -> Any:
    """A value as JSON has it: numbers, flags, words and None as they are, all else as a word."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    name = getattr(value, "__name__", None)
    return str(name if name is not None and callable(value) else value)[:200]


def resolved_grid(grid: Any, bound: Mapping[str, Any]) -> tuple[int, ...]:
    """The grid of a launch, of one to three axes."""
    found = grid(dict(bound)) if callable(grid) else grid
    return tuple(int(axis) for axis in (found if isinstance(found, tuple | list) else (found,)))


def before_of(compiled: Any) -> dict[str, Any]:
    """The options that a compiled kernel has, whatever the source asks for; none where nothing was compiled."""
    metadata = getattr(compiled, "metadata", None)
    found = {name: getattr(metadata, name, None) for name in _BEFORE} if metadata is not None else {}
    return {name: told(value) for name, value in found.items() if value is not None and name != "warp_size"}


def kernel_seen(kernel: Any) -> KernelSeen:
    """Where a kernel stands, and the hash of its code."""
    function = innermost(kernel)
    code = function.__code__
    try:
        hashed: str | None = source_hash_of(kernel)
    except (OSError, TypeError, SyntaxError, ValueError):  # its source is not to be had: made by a program
        hashed = None
    return KernelSeen(function.__qualname__, function.__module__, code.co_filename, code.co_firstlineno, hashed)


def proposals_of(tuners: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """The configs of the autotune lists above a launch, constants and options by name."""
    return tuple(
        {name: told(value) for name, value in config.all_kwargs().items()}
        for tuner in tuners
        for config in getattr(tuner, "configs", ())
        if hasattr(config, "all_kwargs")
    )


def findings_of(tuners: Sequence[Any], options: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, ...]:
    """What the source asks for and does not get."""
    found = []
    for tuner in tuners:
        hidden = {
            name
            for config in getattr(tuner, "configs", ())
            for name in _OPTIONS_OF_A_CONFIG
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
        for name in _OPTIONS_OF_A_CONFIG
        if options.get(name) is not None and name in before and options[name] != before[name]
    ]
    return tuple(found)


def user_frame() -> FrameType | None:
    """The frame of the program that launches: the innermost that is neither Triton's nor ours."""
    import triton

    # By both names: an environment may be a link to another folder.
    theirs = (str(Path(triton.__file__).parent), str(Path(triton.__file__).resolve().parent))
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((*theirs, _OURS)):
        frame = frame.f_back
    return frame


def _replaced(case: Case, **changes: Any) -> Case:
    from msgspec import structs

    return structs.replace(case, **changes)


def _is_capturing() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
