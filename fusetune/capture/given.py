"""What a launch is to run with instead of its own config, and how the launch has to be made then.

Private parts of Triton that this relies on, the same in 3.6 to 3.9: `JITFunction.run` (the interpreter's
`InterpretedFunction.run`) takes each eager launch; an `Autotuner` with one config in `configs` runs with it and times
nothing, with its pre_hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

from fusetune.capture.above import Above
from fusetune.capture.call_sites import LAUNCHERS, program_frame
from fusetune.capture.grids import Reads, rule_of
from fusetune.capture.kept import Placed
from fusetune.capture.kinds import Kind, kind_around, kind_of, kind_of_grid, meant, of_cell, without_floats
from fusetune.capture.launches import user_frame
from fusetune.capture.patching import Patches
from fusetune.capture.placing import placed_at
from fusetune.core.config import OPTIONS
from fusetune.ops.arguments import constexprs_of, resolved_grid, signature_of, told
from fusetune.ops.tuners import heuristics_of
from fusetune.runtime.pure_grids import counts

NOT_KNOWN: Final = "what the program would launch with these constants is not known there"
MOST_PLACED: Final = 1024
"""So many kinds of launches are known; then all are asked anew."""


class Launch(NamedTuple):
    """What Triton is called with."""

    args: tuple[Any, ...]
    grid: Any
    named: dict[str, Any]


class Given(NamedTuple):
    """What a launch is to run with: `constants` by the kernel's own names, and `options`.

    `others` are constants that it has beside them, and `ran` what ran when that was found out, as far as known.
    `follows` are arguments that were computed from constants then, and have to be computed anew for others.
    """

    constants: Mapping[str, Any]
    options: Mapping[str, int]
    others: Mapping[str, Any] = {}
    ran: Mapping[str, Any] = {}
    follows: frozenset[str] = frozenset()


def hold_launches(
    patches: Patches,
    above: Above,
    launch: Callable[[Any, Any, tuple[Any, ...], Any, bool, dict[str, Any]], Any],
    choose: Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any],
) -> None:
    """Have each launch made by `launch(run, kernel, args, grid, warmup, named)` until `patches` are closed.

    Each call of an autotuner goes through `choose(run, tuner, args, named)`. Triton is imported here.
    """
    import triton
    from triton.runtime.autotuner import Autotuner

    kind: Any = triton.JITFunction
    if triton.knobs.runtime.interpret:
        from triton.runtime.interpreter import InterpretedFunction  # which loads NumPy

        kind = InterpretedFunction
    run = kind.run

    def held_run(kernel: Any, /, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        return launch(run, kernel, args, grid, warmup, named)

    patches.put(kind, "run", held_run)
    above.install(patches.put)
    tuners_run = Autotuner.run

    def chosen_run(tuner: Any, /, *args: Any, **named: Any) -> Any:
        return choose(tuners_run, tuner, args, named)

    patches.put(Autotuner, "run", chosen_run)


class Placements:
    """Launches with other configs, each place of a program asked once what it would launch."""

    def __init__(self) -> None:
        self._kernels: dict[int, Any] = {}  # Their ids must not become others'.
        self._names: dict[Any, tuple[str, ...]] = {}
        self._by_floats: set[Any] = set()
        self._placed: dict[Any, Placed | str] = {}

    def launch(
        self, given: Given, kernel: Any, launch: Launch, bound: Mapping[str, Any], tuners: Sequence[Any]
    ) -> Launch | str:
        """The launch with the config that it is given; or why it stays as it is. `tuners` are those above it."""
        args, grid, named = launch
        changed = {name: value for name, value in given.constants.items() if bound.get(name) != value}
        follow: Mapping[str, Any] = {}
        if changed and grid is None:  # A warm-up, whose kernel somebody launches by himself.
            return NOT_KNOWN
        if changed:
            placed = self._placed_for(changed, given.follows, kernel, grid, bound, tuners)
            if isinstance(placed, str):
                return placed
            assert placed.grid is not None, "else it is a reason"
            grid, follow = placed.grid, placed.arguments
        args, named = _with(kernel, args, named, {**changed, **follow, **given.options})
        return Launch(args, grid, named)

    def place_of(self, kernel: Any, grid: Any, held: Iterable[Any]) -> tuple[Kind, tuple[Any, ...]] | None:
        """What a launch now goes by beside its numbers: the place that launches, and what it computes a grid from.

        `held` are its arguments that are none.

        None for a place that was not asked yet, or where floats have a say. Codes count by their ids, which are their
        own as long as somebody holds what stands behind the key. In as little time as there can be.
        """
        frame = user_frame()
        if frame is not None and frame.f_code.co_name in LAUNCHERS:
            frame = program_frame(frame)
        if frame is None or self._kernels.get(id(kernel)) is not kernel:
            return None
        code = frame.f_code
        place = (id(kernel), code, frame.f_lasti)
        names = self._names.get(place)
        if names is None or place in self._by_floats:
            return None
        found: list[Any] = [id(code), frame.f_lasti]
        if names:
            around, more = frame.f_locals, frame.f_globals
            for name in names:
                value = around[name] if name in around else more.get(name)
                found.append(value if type(value) is int else meant(value))
        del frame
        codes: Any = code
        if not callable(grid):
            pass
        elif counts(grid):
            codes = code, grid.__code__
            found += [id(grid.__code__), *(meant(of_cell(one)) for one in grid.__closure__ or ())]
        else:
            of_grid, of_held = kind_of_grid(grid), kind_of(held, {}, shapes=True)
            if of_grid is None or of_held is None:
                return None
            found += [of_grid, of_held]
        return tuple(found), (codes,)

    def _placed_for(
        self,
        changed: dict[str, Any],
        follows: frozenset[str],
        kernel: Any,
        grid: Any,
        bound: Mapping[str, Any],
        tuners: Sequence[Any],
    ) -> Placed | str:
        """Where the program would launch with other constants, as far as its source tells; remembered by its place."""
        resolved = resolved_grid(grid, bound)
        own = user_frame()
        frame = program_frame(own) if own is not None else None
        place = (id(kernel), frame.f_code, frame.f_lasti) if frame is not None else id(kernel)
        try:
            known: Mapping[str, Any] = bound
            if float in map(type, bound.values()) and place not in self._by_floats:
                known = without_floats(bound, constexprs_of(kernel))
            common = resolved, follows, kind_of((), known, shapes=True), kind_of((), changed), kind_of_grid(grid)
            names = self._names.get(place) if self._kernels.get(id(kernel)) is kernel else None
            if names is not None and None not in common:
                found = self._placed.get((place, *common, kind_around(frame, names)))
                if found is not None:
                    return found
            read: set[str] = set(names or ())
            while True:
                try:
                    placed, by_floats = _placed_anew(changed, follows, kernel, grid, resolved, bound, tuners, own, read)
                    break
                except SystemError as error:  # ast.parse of Python 3.11, while another thread parses (gh-106905)
                    if "recursion depth" not in str(error):
                        raise
            if by_floats:
                self._by_floats.add(place)
                if known is not bound:
                    return placed
            if len(self._placed) >= MOST_PLACED:
                self._placed.clear()
                self._names.clear()
                self._kernels.clear()
                self._by_floats.clear()
            self._kernels[id(kernel)] = kernel
            names = self._names[place] = tuple(sorted(read))
            around = kind_around(frame, names)
            if None not in common and around is not None:
                key = (place, *common, around)
                self._placed[key] = placed
            return placed
        finally:
            del own, frame


def _placed_anew(
    changed: dict[str, Any],
    follows: frozenset[str],
    kernel: Any,
    grid: Any,
    resolved: tuple[int, ...],
    bound: Mapping[str, Any],
    tuners: Sequence[Any],
    frame: FrameType | None,
    read: set[str],
) -> tuple[Placed | str, bool]:
    """The launch, and whether floats have a say in it. To `read` the caller's names are added that it goes by."""
    constants = {name: bound[name] for name in constexprs_of(kernel) if name in bound}
    rule = rule_of(grid, resolved, bound, constants, kernel=kernel, frame=frame, read=read)
    heuristics = heuristics_of(tuners)
    why = next((rule.buffers[name] for name in changed if name in rule.buffers), None)
    if why is None and not follows <= {*rule.derived, *heuristics, *changed}:
        why = NOT_KNOWN
    placed = placed_at(changed, grid, resolved, bound, rule, heuristics)
    floats = {name for name, value in bound.items() if type(value) is float} - constants.keys()
    by_floats = bool(floats) and (bool(heuristics) or not floats.isdisjoint({*rule.derived, *_read_by(grid, bound)}))
    return why or (placed if placed.grid is not None else NOT_KNOWN), by_floats


def _read_by(grid: Any, bound: Mapping[str, Any]) -> set[str]:
    """The arguments that a callable grid asks for."""
    reads = Reads(bound)
    if callable(grid):
        grid(reads)
    return reads.names


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


def config_like(configs: Sequence[Any], given: Given) -> Any:
    """A Config of what a launch is given, with the hook of a list's own one.

    Of the one that is the same, or else has the same constants, since a hook may go with a tile as one that zeroes what
    several blocks add to; or else of what ran, or of the first.
    """
    import triton

    constants = {**given.others, **given.constants}
    wanted = {"num_ctas": 1, **constants, **given.options}
    same = _like(configs, wanted, options=False) or configs
    own = [*_like(configs, wanted), *_like(same, given.ran), *same][0]
    names = {name for one in configs for name in one.kwargs if name in constants and name not in OPTIONS}
    held = {**constants, **own.kwargs, **given.constants}
    return triton.Config({name: held[name] for name in names}, **given.options, pre_hook=own.pre_hook)


def run_with(run: Any, tuner: Any, config: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """Have an autotuner launch with a config of ours.

    A copy of it runs: another thread may be in the middle of the tuner itself, which notes arguments and configs.
    """
    held = copy_of(tuner, [config])
    result = run(held, *args, **named)
    tuner.best_config = config  # Programs read it.
    return result


def copy_of(tuner: Any, configs: list[Any]) -> Any:
    """Another autotuner with a list of its own and all else the same; what it has found out it shares."""
    held = object.__new__(type(tuner))
    held.__dict__.update(tuner.__dict__, configs=configs)
    return held


def _like(configs: Sequence[Any], held: Mapping[str, Any], *, options: bool = True) -> list[Any]:
    """The configs whose constants, and `options`, are all among these."""

    def is_like(config: Any) -> bool:
        given = config.all_kwargs() if options else config.kwargs
        return all(name in held and held[name] == told(value) for name, value in given.items())

    return list(filter(is_like, configs))
