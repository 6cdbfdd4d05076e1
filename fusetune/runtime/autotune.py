"""`@fusetune.autotune`: in the place of `@triton.autotune`, with configs that were tuned before; nothing is timed.

Private parts of Triton 3.6 to 3.9 that this relies on: `Autotuner` keeps `fn`, `arg_names`, `configs` and
`early_config_prune`, and hands on to `fn.run(*args, grid, warmup, **kwargs)`; a launch of a chosen config calls that
config's own `pre_hook`, and no other hook.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

from triton.runtime.autotuner import Autotuner, Config
from triton.runtime.jit import JITFunction, MockTensor

from fusetune.core.brief import brief
from fusetune.core.config import OPTIONS
from fusetune.errors import MissingConfigError
from fusetune.ops.arguments import constexprs_of, resolved_grid, signature_of, specialized
from fusetune.ops.hashing import innermost
from fusetune.ops.refusals import is_of_one_config, is_refusal, told
from fusetune.ops.sources import jitted
from fusetune.ops.tuners import chain_of, heuristics_of
from fusetune.runtime.configs import active_source, forget_at_load
from fusetune.runtime.direct_calls import MOST_KNOWN, Around, DirectLaunches, Listener, bound_of
from fusetune.runtime.launch_configs import LAUNCH_CONFIGS, Chosen, current_identity, has_one_gpu
from fusetune.runtime.left_out import LeftOut
from fusetune.runtime.listed import Gives, Tuned, place_of, with_entries
from fusetune.runtime.program_here import program_here
from fusetune.runtime.traced import Traced, is_traced, traces_choices


class Choice(NamedTuple):
    """What a launch runs with; `chosen` is None for a default. `shape` is the grid that it was chosen for, if any."""

    config: Config
    found: Chosen
    chosen: Chosen | None
    shape: tuple[int, ...] | None


class Call(NamedTuple):
    """One call as Triton's tuners have it: arguments given by place, by the kernel's names, and the others by name."""

    by_place: Mapping[str, Any]
    by_name: Mapping[str, Any]

    @property
    def named(self) -> dict[str, Any]:
        """All of them."""
        return {**self.by_place, **self.by_name}


class Autotuned(Autotuner):
    """A kernel whose configs are looked up. See `autotune`."""

    def __init__(
        self,
        fn: Any,
        configs: Sequence[Config] | None,
        key: Sequence[str] | None,
        *,
        reset_to_zero: Sequence[str] | None,
        restore_value: Sequence[str] | None,
        prune_configs_by: Mapping[str, Any] | None,
        default: Config | int | None,
    ) -> None:
        self._lock = threading.RLock()
        self._tuned: dict[Any, Tuned] = {}
        self._only: Tuned | None = None
        super().__init__(fn, fn.arg_names, list(configs or ()), list(key or ()), reset_to_zero, restore_value)
        prune = dict(prune_configs_by or {})
        listed = len(self._listed)
        signature = signature_of(jitted(fn) or fn).parameters
        defaults = {name: one.default for name, one in signature.items() if one.default is not one.empty}
        self._traced = Traced(
            listed,
            place_of(default, self._listed),
            prune.get("early_config_prune"),
            prune.get("perf_model"),
            defaults,
            self._tell_traced,
        )
        self._parameters = frozenset(signature)
        self._constexprs = constexprs_of(jitted(fn) or fn)
        self._names = frozenset(name for one in self._listed for name in one.all_kwargs() if name in signature)
        self._heuristics = heuristics_of(chain_of(fn))
        by_prune = self._traced.default is None and bool(self._traced.prune_listed or self._traced.perf_model)
        self._goes_by_values = by_prune or bool(self._heuristics)
        """Whether a choice follows from functions of the user's, which may ask for anything of the arguments."""
        self._is_chosen_traced = traces_choices() or not (self._heuristics or self._parameters & frozenset(OPTIONS))
        self.early_config_prune = self._traced.prune if self._is_chosen_traced else None
        self._gives = Gives(self._parameters, self._names, frozenset(self._heuristics))
        self._times_forgotten = 0
        self._choices: dict[Any, Choice] = {}
        self._direct: DirectLaunches | None = None
        self._told = False
        self._left_out = LeftOut()
        self._call: Callable[..., Any] = self._by_run
        _ALL.add(self)

    # What Triton and torch ask of an Autotuner.

    @property
    def configs(self) -> list[Config]:
        """The user's configs, and behind them those of entries for this GPU that are none of these.

        A new list each time: to Dynamo of torch 2.11 one list can be but once in a graph.
        """
        if not self._is_chosen_traced and is_traced():
            self._tell(None, "torch.compile before 2.13 cannot choose above heuristics or a num_warps of its own")
            return [self._traced.first(self._listed)]
        return list(self._all().configs)

    @configs.setter
    def configs(self, configs: list[Config]) -> None:
        self._listed = list(configs)
        self._tuned.clear()
        self._only = None

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """The kernel, to be called with its arguments."""
        return partial(self._call, grid)

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        """Launch, as what is around a kernel does. `warmup` compiles alone."""
        if warmup:
            return self.warmup(*args, grid=grid, **kwargs)[0]
        if type(self).run is not _RUN:  # somebody watches it, and came here from there
            return self._by_jit(grid, *args, **kwargs)
        return self._call(grid, *args, **kwargs)

    own_run: ClassVar = run
    """Whatever stands in its place, also from the moment on in which this class is made."""
    listener: ClassVar[Listener | None] = None
    """Who is told of launches that go past the JIT."""

    def warmup(self, *args: Any, grid: Any = None, **kwargs: Any) -> list[Any]:
        """Compile for the one config that a launch with such arguments would have."""
        mocked = dict(zip(self.arg_names, map(MockTensor.wrap_dtype, args), strict=False))
        config = self._choose(grid, Call(mocked, kwargs)).config
        return [self.fn.warmup(*args, grid=grid, **kwargs, **config.all_kwargs())]

    # A launch.

    def _by_run(self, grid: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(self).run is not _RUN:
            return self.run(*args, grid=grid, warmup=False, **kwargs)
        return self._by_jit(grid, *args, **kwargs)

    def _by_jit(self, grid: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Launch in Triton's own way, and see to it that the next launch like this one need not."""
        call = Call(dict(zip(self.arg_names, args, strict=False)), kwargs)
        left_out: list[tuple[Config, Exception]] = []
        while True:
            times_forgotten = self._times_forgotten
            choice = self._choice(grid, call)
            given = choice.config.all_kwargs()
            if choice.config.pre_hook is not None:
                choice.config.pre_hook({**call.named, "grid": grid, "warmup": False, **given})
            self.best_config = choice.config
            if self.listener is not None:
                self.listener.last()
            try:
                compiled = self.fn.run(*args, grid=grid, warmup=False, **kwargs, **given)
            except Exception as error:
                if choice.chosen is None and is_of_one_config(error):
                    left_out.append((choice.config, error))
                    self._leave_out(grid, call, left_out)
                    continue
                if choice.chosen is None or not is_refusal(error, compiling=False):
                    raise
                LAUNCH_CONFIGS.refuse(self.fn, choice.chosen, told(error))
                self.forget()
                continue
            if left_out:
                name = getattr(innermost(self.fn), "__name__", "a kernel")
                text = self._left_out.warning(left_out, choice.config, name, _label)
                if text is not None:
                    active_source().warn(text)
            if self._is_direct(choice, call) and compiled is not None:
                with self._lock:
                    if times_forgotten == self._times_forgotten:
                        self._bind(grid, args, call, choice, compiled)
            return compiled

    def _choice(self, grid: Any, call: Call) -> Choice:
        """The choice for a launch, made once for all that are alike."""
        named = call.named
        exact, alike = self._keys(named)
        for key in (exact, alike):
            choice = self._choices.get(key) if key is not None else None
            if choice is not None and (choice.shape is None or choice.shape == self._shape(grid, named, choice.config)):
                return choice
        times_forgotten = self._times_forgotten
        choice = self._choose(grid, call)
        key = exact if choice.found.by_sizes or self._goes_by_values else alike
        if choice.found.remember and key is not None:
            if len(self._choices) >= MOST_KNOWN:
                self._choices.clear()
            self._choices[key] = choice
            if times_forgotten != self._times_forgotten:  # other configs were loaded meanwhile
                self._choices.pop(key, None)
        return choice

    def _choose(self, grid: Any, call: Call) -> Choice:
        """Look the config of a launch up, or take the default and say so."""
        named = call.named
        arguments = {
            name: value
            for name, value in {**self._traced.defaults, **named}.items()
            if name in self._parameters and name not in self._names and name not in self._heuristics
        }
        default = self._default(grid, call)
        found = LAUNCH_CONFIGS.find(
            self.fn,
            arguments,
            self._grid_with(grid),
            listed=[one.all_kwargs() for one in self._listed],
            supplied=self._supplied(default, named),
        )
        config = self._config_of(found, arguments)
        chosen: Chosen | None = found
        if isinstance(config, str):
            self._tell(default, config)
            config, chosen = default, None
        shape = self._shape(grid, named, config) if found.by_grid and grid is not None else None
        return Choice(config, found, chosen, shape)

    def _default(self, grid: Any, call: Call) -> Any:
        """What a launch takes without an entry; None where nothing of the list can be launched."""
        rest = {**call.by_name, "grid": grid, "warmup": False}
        without = self._left_out.of(lambda: self._keys(call.named)[1])
        return self._traced.default_of(self._all().configs, call.by_place, rest, without)

    def _leave_out(self, grid: Any, call: Call, refused: Sequence[tuple[Config, Exception]]) -> None:
        """Take another default for launches like this one. Raises the first error where there is none."""
        kind = self._keys(call.named)[1]
        with self._lock:
            self._left_out.add(kind, refused[-1][0])
            self._choices.clear()
        if len(refused) > len(self._listed) or self._default(grid, call) is None:
            self._left_out.forget(kind)
            raise refused[0][1]

    def _config_of(self, found: Chosen, arguments: Mapping[str, Any]) -> Config | str:
        """The config of what was found, or why there is none."""
        if found.entry is None or found.file is None:
            return found.why
        tuned = self._all()
        place = tuned.places.get((found.file, found.number), "it was read a moment ago")
        if isinstance(place, str):
            return f"{brief(found.file)}, entries[{found.number}]: {place}"
        for name, value in found.constants.items():
            if name not in self._names and arguments.get(name) != value:
                return f"the launch itself gives {name}={brief(str(arguments.get(name)))}, where {value} was tuned"
        missing = [name for name in found.follows if name not in self._heuristics]
        if missing:
            return f"{missing[0]} follows what was tuned, and the launch itself gives it"
        return tuned.configs[place]

    def _supplied(self, config: Config, named: Mapping[str, Any]) -> dict[str, Any]:
        """The constants that a config gives, and heuristics below with it."""
        given = config.all_kwargs()
        supplied = {name: given.get(name) for name in self._names}
        return {**supplied, **self._computed({**named, **supplied})} if self._heuristics else supplied

    def _computed(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The constants that heuristics below make of a launch's other ones, as they will once it is launched."""
        values = dict(meta)
        for name, compute in self._heuristics.items():
            values[name] = compute(dict(values))
        return {name: values[name] for name in self._heuristics}

    def _grid_with(self, grid: Any) -> Any:
        """The grid, where it may ask for what heuristics compute."""
        if not callable(grid) or not self._heuristics:
            return grid
        return lambda meta: grid({**meta, **self._computed(meta)})

    def _shape(self, grid: Any, named: Mapping[str, Any], config: Config) -> tuple[int, ...]:
        return resolved_grid(self._grid_with(grid), {**self._traced.defaults, **named, **config.all_kwargs()})

    def _keys(self, named: Mapping[str, Any]) -> tuple[Any, Any]:
        """What tells launches apart: to the number, and by what numbers are specialized and bucketed for alone.

        Where functions of the user's have a say, shapes and floats count, too. None for what has no key of its own, as
        a descriptor.
        """
        exact: list[Any] = [True, current_identity()]
        alike: list[Any] = [False, exact[1]]
        for name, value in named.items():
            kind = type(value)
            if kind is int:
                exact.append((name, value))
                alike.append((name, specialized(value), (value - 1).bit_length() if value > 1 else value))
                continue
            if hasattr(value, "data_ptr") and hasattr(value, "dtype"):
                part: Any = (name, value.dtype, value.data_ptr() % 16 == 0)
                if self._goes_by_values:
                    part += (tuple(getattr(value, "shape", ())), tuple(value.stride()))
            elif kind is float and name not in self._constexprs and not self._goes_by_values:
                part = (name, kind)
            elif value is None or kind in {bool, float, str}:
                part = (name, kind, value)
            else:
                return None, None
            exact.append(part)
            alike.append(part)
        return tuple(exact), tuple(alike)

    def _is_direct(self, choice: Choice, call: Call) -> bool:
        """Whether the next launch like this one may go past the JIT."""
        return (
            type(self.fn) is JITFunction
            and choice.config.pre_hook is None
            and choice.found.remember
            and call.by_name.keys() <= self._parameters
        )

    def _bind(self, grid: Any, args: tuple[Any, ...], call: Call, choice: Choice, compiled: Any) -> None:
        """Have the next launch like this one go past the JIT. The caller holds the lock."""
        around = self._around()
        if around is None:
            return
        if self._direct is not None and around.watched != self._direct.around.watched:
            self._direct.forget()
            self._direct, self._call = None, self._by_run
        if self._direct is None:
            self._direct = DirectLaunches(self.fn, self._by_run, around)
        given = {name: value for name, value in choice.config.all_kwargs().items() if name in self._parameters}
        made = bound_of(choice.config, given, compiled, None if choice.shape is None else {choice.shape})
        if made is None:
            return
        if self.listener is not None and around.note is not None:
            made[0].tally = self.listener.last()
            if made[0].tally is None:
                return
        if self._direct.learn(grid, args, call.by_name, made):
            self._call = self._direct.call

    def _around(self) -> Around | None:
        """None where somebody watches: he stands in the place of Triton's `run` or of ours, and wants to be told."""
        own, listener = type(self), self.listener
        watched: tuple[tuple[type, Any], ...] = ((JITFunction, JITFunction.run), (own, own.run))
        if JITFunction.run.__module__ == JITFunction.__module__ and own.run is _RUN:
            return Around(watched, tuner=self)
        if listener is None or JITFunction.run is not listener.run or getattr(own.run, "below", None) is not _RUN:
            return None
        return Around(watched, tuner=self, note=listener.note)

    # Configs of entries.

    def _all(self) -> Tuned:
        """The list of configs for the GPU at hand, with those of its entries."""
        if self._only is not None:  # asked at each call of what torch.compile made
            return self._only
        identity = current_identity()
        found = self._tuned.get(identity)
        if found is None:
            with self._lock:
                made = LAUNCH_CONFIGS.entries(self.fn)
                if made is None:  # what cannot be read now may be read later
                    return Tuned(list(self._listed))
                found = self._tuned.setdefault(identity, with_entries(*made, self._listed, self._gives))
                self._only = found if has_one_gpu() else None
        self._traced.rules = found.rules
        return found

    # What is said, and forgotten.

    def _tell_traced(self) -> None:
        """A launch was traced that has no entry."""
        self._tell(None, "no entry is for what was traced")

    def _tell(self, default: Config | None, why: str) -> None:
        """Say once that a launch has no entry."""
        known = LAUNCH_CONFIGS.known(self.fn)
        place = known.place if known is not None else str(innermost(self.fn))
        name = getattr(innermost(self.fn), "__name__", "")
        command = f"`fusetune tune --kernel {name} {program_here()}`"
        if active_source().strict:
            raise MissingConfigError(f"no tuned config of {place} for this launch ({why}); run {command} on this GPU")
        if self._told:
            return
        self._told = True
        runs = "its default" if default is None else _label(default)
        active_source().warn(
            f"fusetune has no tuned config of {place} for a launch ({why}), and runs {runs}; {command} would tune it"
        )

    def forget(self) -> None:
        """Other configs have been loaded, or one was refused."""
        with self._lock:
            self._times_forgotten += 1
            self._tuned.clear()
            self._only = None
            self._choices.clear()
            self._traced.rules = ()
            if self._direct is not None:
                self._direct.forget()
            self._direct = None
            self._call = self._by_run


def autotune(
    configs: Sequence[Config] | None,
    key: Sequence[str] | None,
    prune_configs_by: Mapping[str, Any] | None = None,
    reset_to_zero: Sequence[str] | None = None,
    restore_value: Sequence[str] | None = None,
    pre_hook: Callable[..., Any] | None = None,
    post_hook: Callable[..., Any] | None = None,
    warmup: int | None = None,
    rep: int | None = None,
    use_cuda_graph: bool = False,
    do_bench: Callable[..., Any] | None = None,
    cache_results: bool = False,
    *,
    default: Config | int | None = None,
) -> Callable[[Any], Autotuned]:
    """In the place of `@triton.autotune`, with its arguments: configs come from tuned files, and nothing is timed.

    A launch takes the entry that `fusetune tune` wrote for it, or for the nearest sizes in the same power-of-two
    buckets; the list need not hold its config. Without one it takes `default`, a Config or a place in `configs`, or the
    first of `configs` that `prune_configs_by` leaves, and says so once for each kernel. A config that this GPU or this
    Triton cannot launch is left out with a warning: one of an entry, and one of the list, after which the next comes.

    `warmup`, `rep`, `use_cuda_graph`, `do_bench` and `cache_results` say how to time, and `pre_hook`, `post_hook`,
    `reset_to_zero` and `restore_value` what to do around a launch that is timed: they are taken and never needed. A
    Config's own pre_hook runs before each launch. Under torch.compile the choice is made while a launch is traced, and
    guarded by its shapes. Raises ValueError for a `default` that is no place in the list; at a launch, under
    `fusetune.load(strict=True)`, MissingConfigError where there is no entry.
    """
    place_of(default, list(configs or ()))  # raises where it is written

    def decorator(fn: Any) -> Autotuned:
        return Autotuned(
            fn,
            configs,
            key,
            reset_to_zero=reset_to_zero,
            restore_value=restore_value,
            prune_configs_by=prune_configs_by,
            default=default,
        )

    return decorator


def _label(config: Config) -> str:
    """A Config in short, as `BLOCK=64 w4 s3`."""
    constants = [f"{name}={value}" for name, value in config.kwargs.items()]
    return brief(" ".join([*constants, f"w{config.num_warps}", f"s{config.num_stages}"]))


_RUN: Final = Autotuned.own_run
_ALL: Final[weakref.WeakSet[Autotuned]] = weakref.WeakSet()


def _forget_all() -> None:
    for one in tuple(_ALL):
        one._told = False
        one.forget()


def _after_fork() -> None:
    # What was loaded belongs to the parent's CUDA context, and a lock may have been held by a thread that is not here.
    for one in tuple(_ALL):
        one._lock = threading.RLock()
    _forget_all()


os.register_at_fork(after_in_child=_after_fork)
forget_at_load(_forget_all)
