"""Let the launches of a program run with tuned configs that are looked up as they come, in its own process."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final, Literal, NamedTuple, NoReturn

from fusetune.capture.above import Above
from fusetune.capture.cases import KernelSeen
from fusetune.capture.changes import free_names
from fusetune.capture.given import Given, Launch, Placements, config_like, copy_of, hold_launches, run_with
from fusetune.capture.inductor import around_launchers, when_imported
from fusetune.capture.kinds import kind_of, without_floats
from fusetune.capture.launches import kernel_seen, proposals_of
from fusetune.capture.patching import Patches
from fusetune.capture.serving import traced
from fusetune.capture.serving.as_launched import AsLaunched, seen
from fusetune.capture.serving.served import AS_IT_IS, Applied, Left, Missed, Notes, Row, Tally
from fusetune.core.brief import brief
from fusetune.core.config import OPTIONS
from fusetune.errors import MissingConfigError
from fusetune.ops.arguments import bind, constexprs_of, signature_of, told
from fusetune.ops.refusals import is_of_one_config, is_refusal
from fusetune.ops.refusals import told as told_error
from fusetune.ops.tuners import chain_of, heuristics_of
from fusetune.runtime.launch_configs import Chosen, LaunchConfigs

OnMiss = Literal["default", "tune", "error"]
ON_MISS: Final[tuple[OnMiss, ...]] = ("default", "tune", "error")
MOST_REMEMBERED: Final = 4096
"""Kinds of launches whose answers are kept; after these all are looked up anew."""
MOST_HELD: Final = 1024
"""Kernels, and tuners, of which something is kept: a program may make one at each call."""
_TIMED: Final = "what its autotuner times"
_FOUND_BEFORE: Final = "what its autotuner has found out before"
_OURS_CHOSE: Final = "its own fusetune.autotune has chosen another one"
_MOST_WARNINGS: Final = 20
_OF_TRITON: Final = frozenset({"grid", "warmup"})
_NOTHING: Final = "nothing: it was stopped (--on-miss error)"


class _Answer(NamedTuple):
    """What a kind of launches is to run with: `given`, or None for a miss.

    `config` is an autotuner's: of the entry, or for a miss the first one of its list. `tally` counts the launches that
    run so.
    """

    chosen: Chosen
    given: Given | None
    tally: Tally
    config: Any = None


class _WouldTimeError(Exception):
    """An autotuner is about to time its configs, of which this is the first."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class _NotPlacedError(Exception):
    """What an autotuner's list does not vary cannot be given to its launch."""


class Serving:
    """Gives launches their tuned configs between `install` and `remove`; `notes` has what became of each.

    An autotuner takes the entry and times nothing. Where there is none, it takes what it has found out before, or else
    the first config of its list (`default`), or times as it would (`tune`), or MissingConfigError ends the launch
    (`error`). Other launches without an entry run as they are. A config that cannot be launched is refused, and the
    launch runs as one without an entry. Threads may launch at once.
    """

    def __init__(self, lookups: LaunchConfigs, notes: Notes, *, on_miss: OnMiss = "default") -> None:
        self._lookups, self.notes, self._on_miss = lookups, notes, on_miss
        self._above = Above(benchmarks=False)  # What a program benchmarks is what it launches.
        self._patches, self._placements = Patches(), Placements()
        self._here = threading.local()
        self._answers: dict[Any, _Answer] = {}
        self._kernels: dict[int, tuple[Any, KernelSeen, tuple[str, ...]]] = {}
        self._free: dict[tuple[int, ...], tuple[tuple[Any, ...], frozenset[str]]] = {}
        self._holders: dict[int, Any] = {}  # What answers are of: its id must not become another's.
        self._times_forgotten = 0

    def install(self) -> None:
        """Begin. Triton is imported here, and torch with it."""
        hold_launches(self._patches, self._above, self._launch, self._choose)
        around_launchers(self._patches, self._of_inductor)
        if self._on_miss != "tune":
            self._patches.callback(when_imported(traced.MODULE, traced.Traces(self._patches, self._note_traced).watch))

    def remove(self) -> None:
        """End it; everything is as it was."""
        self._patches.close()

    def forget(self) -> None:
        """Look everything up anew: what another thread is about to remember is not found again, either."""
        self._times_forgotten += 1
        self._clear()

    def _clear(self) -> None:
        self._holders.clear()  # First: no answer is to be without.
        self._answers.clear()

    # An autotuner.

    def _choose(self, run: Any, tuner: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._above.depth("trial") or self._is_chosen():
            return run(tuner, *args, **named)
        chain = chain_of(tuner)
        kernel = chain[-1]
        try:
            key, answer = self._of_tuner(tuner, chain, args, named)
        except (TypeError, AttributeError) as error:  # it is no kernel of Triton's, or:
            result = run(tuner, *args, **named)  # the launch itself tells the program
            return self._note_unseen(kernel, error, result)
        counts = not named.get("warmup")
        if answer.given is not None:
            beyond = answer.given if answer.given.constants.keys() - answer.config.kwargs.keys() else None
            try:
                with self._choosing(beyond):
                    result = run_with(run, tuner, answer.config, args, named)
            except _NotPlacedError as error:
                key, answer = None, self._not_given(kernel, str(error), remember=False)
            except Exception as error:
                if not _refuses(error):
                    raise
                key, answer = None, self._refused(kernel, answer, error)
            else:
                if counts:
                    self.notes.count(answer.tally)
                return result
        why = answer.chosen.why
        if self._on_miss == "error":
            self.notes.count(self._tally(kernel, Missed(why, _NOTHING, stopped=True)))
            self._stop(kernel, why)
        with self._choosing(None):
            if self._on_miss == "tune":
                result, tally = run(tuner, *args, **named), self._tally(kernel, Missed(why, _TIMED))
            else:
                result, tally = self._untimed(run, tuner, kernel, answer, key, args, named)
        if counts:
            self.notes.count(tally)
        return result

    def _untimed(
        self,
        run: Any,
        tuner: Any,
        kernel: Any,
        answer: _Answer,
        key: Any,
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> tuple[Any, Tally]:
        """A launch of an autotuner without an entry, that does not time; and what counts it.

        Of what its timing would leave out since it cannot be launched, the next of the list takes the place.
        """
        if answer.config is not None:
            return run_with(run, tuner, answer.config, args, named), answer.tally
        left_out: list[Any] = []
        why = ""
        while True:
            held = copy_of(tuner, tuner.configs)
            held._bench = partial(_would_time, left_out)
            if left_out:  # What is of no use here is no answer to keep, here or on a disk.
                held.cache, held.cache_results = dict(tuner.cache), False
            try:
                result = run(held, *args, **named)
            except _WouldTimeError as found:
                config = found.config
            else:
                tuner.best_config = held.best_config
                did = "the one config of its list" if len(tuner.configs) == 1 else _FOUND_BEFORE
                return result, self._tally(kernel, Missed(answer.chosen.why, did))
            try:
                result = run_with(run, tuner, config, args, named)
            except Exception as error:
                if not is_of_one_config(error) or len(left_out) >= len(tuner.configs):
                    raise
                left_out.append(config)
                why = why or f"; {_text(config)} cannot be ({told_error(error)})"
                continue
            did = f"the first config of its list{' that can be launched' if why else ''}, {_text(config)}{why}"
            tally = self._tally(kernel, Missed(answer.chosen.why, did))
            return result, self._remember(key, answer._replace(config=config, tally=tally), tuner).tally

    def _of_tuner(
        self, tuner: Any, chain: Sequence[Any], args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, _Answer]:
        """What an autotuner's launch is to run with, and what that is remembered by."""
        kernel, grid = chain[-1], named.get("grid")
        own = {name: value for name, value in named.items() if name not in _OF_TRITON}
        first = tuner.configs[0].kwargs
        heuristics = heuristics_of(chain)
        key = self._key(tuner, kernel, args, own, grid, first, by_values=bool(heuristics))
        found = self._answers.get(key)
        if found is not None:
            return key, found
        bound, _ = bind(kernel, args, own, partly=True)
        arguments = {name: value for name, value in bound.items() if name not in self._names((tuner,))}
        first = {name: value for name, value in first.items() if name not in OPTIONS}
        supplied = _with_heuristics({**arguments, **first}, heuristics)
        supplied = {name: value for name, value in supplied.items() if name not in arguments}
        answer = self._asked(kernel, arguments, grid, proposals_of(chain[:-1]), supplied)
        cannot = answer.given.follows - heuristics.keys() if answer.given is not None else ()
        if cannot:
            answer = self._not_given(kernel, f"{min(cannot)} follows what was tuned, and the launch itself gives it")
        elif answer.given is not None:
            answer = answer._replace(config=config_like(tuner.configs, answer.given))
        return key, self._remember(key, answer, tuner)

    # A launch.

    def _launch(
        self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, warmup: bool, named: dict[str, Any]
    ) -> Any:
        if self._above.depth("trial"):
            if not warmup:
                self.notes.count_trial()
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        launch = Launch(args, grid, named)
        if self._is_chosen():
            return self._below_choice(run, kernel, launch, warmup=warmup)
        try:
            answer = self._of_launch(kernel, launch)
        except TypeError as error:
            result = run(kernel, *args, grid=grid, warmup=warmup, **named)  # the launch itself tells the program
            return self._note_unseen(kernel, error, result)
        tally = answer.tally
        if answer.given is not None:
            changed = self._changed(answer.given, kernel, launch)
            if isinstance(changed, str):
                tally = self._tally(kernel, _left(answer.given, changed))
            else:
                try:
                    return self._served(run, kernel, launch, changed, answer, warmup=warmup)
                except Exception as error:
                    if not _refuses(error):
                        raise
                    tally = self._refused(kernel, answer, error).tally
        result = self._run(run, kernel, launch, warmup=warmup)
        if not warmup:
            self.notes.count(tally)
        return result

    def _served(self, run: Any, kernel: Any, launch: Launch, changed: Launch, answer: _Answer, *, warmup: bool) -> Any:
        """A launch with its entry's config, `changed`."""
        result = self._run(run, kernel, changed, warmup=warmup)
        if not warmup:
            self.notes.count(answer.tally)
        if result is None or changed.grid is launch.grid:
            return result
        # Whoever keeps it is to keep no tensors by it.
        args, named = tuple(map(seen, launch.args)), {name: seen(value) for name, value in launch.named.items()}
        own = Launch(args, (1,), named)  # A grid may hold some, too, and a warm-up asks for none.
        return AsLaunched(result, lambda: self._run(run, kernel, own, warmup=True))

    def _below_choice(self, run: Any, kernel: Any, launch: Launch, *, warmup: bool) -> Any:
        """A launch of an autotuner that has chosen: what its list does not vary is given here."""
        given: Given | None = self._here.given
        if given is None:
            return run(kernel, *launch.args, grid=launch.grid, warmup=warmup, **launch.named)
        changed = self._changed(given, kernel, launch)
        if isinstance(changed, str):
            raise _NotPlacedError(changed)
        return self._run(run, kernel, changed, warmup=warmup)

    def _run(self, run: Any, kernel: Any, launch: Launch, *, warmup: bool) -> Any:
        args, grid, named = launch
        here = self._here.__dict__  # As `_choosing` does, and each launch comes by here.
        before = here.get("chosen", False), here.get("given")
        here["chosen"], here["given"] = True, None
        try:
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        finally:
            here["chosen"], here["given"] = before

    def _changed(self, given: Given, kernel: Any, launch: Launch) -> Launch | str:
        if self._is_below_ours():
            bound, _ = bind(kernel, launch.args, launch.named)
            has, wants = {**bound, **launch.named}, {**given.constants, **given.options}
            return launch if all(has.get(name) == value for name, value in wants.items()) else _OURS_CHOSE
        if not given.constants and given.options.keys().isdisjoint(self._seen(kernel)[2]):
            return launch._replace(named={**launch.named, **given.options})
        bound, _ = bind(kernel, launch.args, launch.named)
        return self._placements.launch(given, kernel, launch, bound, self._above.tuners)

    def _is_below_ours(self) -> bool:
        """Whether `fusetune.autotune` has chosen, which says by itself what it takes."""
        tuners = self._above.tuners
        if not tuners:
            return False
        from fusetune.runtime.autotune import Autotuned

        return any(isinstance(one, Autotuned) for one in tuners)

    def _of_launch(self, kernel: Any, launch: Launch) -> _Answer:
        tuners = self._above.tuners
        key = self._key(kernel, kernel, launch.args, launch.named, launch.grid, {})
        found = self._answers.get(key)
        if found is not None:
            return found
        bound, _ = bind(kernel, launch.args, launch.named)
        free = self._names(tuners) & bound.keys()
        arguments = {name: value for name, value in bound.items() if name not in free}
        supplied = {name: bound[name] for name in free}
        answer = self._asked(kernel, arguments, launch.grid, proposals_of(tuners), supplied)
        return self._remember(key, answer, kernel)

    # What both need.

    def _is_chosen(self) -> bool:
        return bool(self._here.__dict__.get("chosen"))

    @contextmanager
    def _choosing(self, given: Given | None) -> Iterator[None]:
        """Launches within are an autotuner's that has chosen, and take `given` as well, or are made as they are."""
        here = self._here.__dict__
        before = here.get("chosen", False), here.get("given")
        here["chosen"], here["given"] = True, given
        try:
            yield
        finally:
            here["chosen"], here["given"] = before

    def _names(self, tuners: tuple[Any, ...]) -> frozenset[str]:
        """The constants and options that autotuners give, asked once of each."""
        key = tuple(map(id, tuners))
        found = self._free.get(key)
        if found is None:
            if len(self._free) >= MOST_HELD:
                self._free.clear()
            found = self._free[key] = (tuners, free_names([one for one in tuners if hasattr(one, "configs")]))
        return found[1]

    def _key(
        self,
        holder: Any,
        kernel: Any,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        grid: Any,
        first: dict[str, Any],
        *,
        by_values: bool = False,
    ) -> Any:
        """What an answer is remembered by; None where the launch is looked up each time.

        `by_values`: functions of the program have a say, which may ask for shapes and floats.
        """
        if callable(grid):
            # It may follow what is no argument.
            meta = {**dict(zip(self._seen(kernel)[2], args, strict=False)), **first, **named}
            try:
                grid = grid(meta)
            except Exception:  # noqa: BLE001 - it may read what the launch has by default, or heuristics compute
                return None
        if not by_values and (float in map(type, args) or float in map(type, named.values())):
            constants = constexprs_of(kernel)
            by_name = dict(zip(self._seen(kernel)[2], args, strict=False))
            args = tuple(without_floats(by_name, constants).values())
            named = without_floats(named, constants)
        kind = kind_of(args, named, shapes=by_values)
        grid = tuple(grid) if isinstance(grid, list) else grid
        return None if kind is None else (self._times_forgotten, id(holder), _device(), grid, kind)

    def _remember(self, key: Any, answer: _Answer, holder: Any) -> _Answer:
        if answer.chosen.remember and key is not None:
            if len(self._answers) >= MOST_REMEMBERED:
                self._clear()
            self._answers[key] = answer
            self._holders[id(holder)] = holder
        return answer

    def _asked(
        self,
        kernel: Any,
        arguments: Mapping[str, Any],
        grid: Any,
        listed: Sequence[Mapping[str, Any]],
        supplied: Mapping[str, Any],
    ) -> _Answer:
        chosen = Chosen("miss", "the look-up has failed", remember=False)
        for _ in range(_MOST_WARNINGS):
            try:
                chosen = self._lookups.find(kernel, arguments, grid, listed=listed, supplied=supplied)
                break
            except Warning as warning:  # a program may have its warnings raised, and this is none of its own
                self.notes.note(str(warning))
        if chosen.rung == "miss":
            return _Answer(chosen, None, self._tally(kernel, Missed(chosen.why, AS_IT_IS)))
        before = chosen.entry.before if chosen.entry is not None else None
        ran = {} if before is None else {**before.constants(), **before.options(), "num_ctas": before.num_ctas}
        given = Given(chosen.constants, chosen.options, supplied, ran, frozenset(chosen.follows))
        constants = {name: told(value) for name, value in chosen.constants.items()}
        row = Applied(constants, dict(chosen.options), chosen.rung, chosen.why, str(chosen.file or ""))
        return _Answer(chosen, given, self._tally(kernel, row))

    def _refused(self, kernel: Any, answer: _Answer, error: Exception) -> _Answer:
        """The answer for a launch whose config cannot be launched."""
        assert answer.given is not None, "what is refused was given"
        why = told_error(error)
        try:
            self._lookups.refuse(kernel, answer.chosen, why)
        except Warning as warning:
            self.notes.note(str(warning))
        self.forget()
        self.notes.count(self._tally(kernel, _left(answer.given, why, refused=True)))
        return self._not_given(kernel, f"its config cannot be launched here ({why})", remember=False)

    def _not_given(self, kernel: Any, why: str, *, remember: bool = True) -> _Answer:
        """The answer for a launch that cannot have the config of its entry."""
        missed = Chosen("miss", why, remember=remember)
        return _Answer(missed, None, self._tally(kernel, Missed(why, AS_IT_IS)))

    def _tally(self, kernel: Any, row: Row) -> Tally:
        return self.notes.tally(self._seen(kernel)[1], row)

    def _seen(self, kernel: Any) -> tuple[Any, KernelSeen, tuple[str, ...]]:
        """A kernel, what is told of it, and the names of its parameters."""
        found = self._kernels.get(id(kernel))
        if found is None:
            if len(self._kernels) >= MOST_HELD:
                self._kernels.clear()
            names = tuple(signature_of(kernel).parameters)
            found = self._kernels[id(kernel)] = (kernel, kernel_seen(kernel, hashed=False), names)
        return found

    def _stop(self, kernel: Any, why: str) -> NoReturn:
        seen = self._seen(kernel)[1]
        command = self.notes.command(seen.name)
        raise MissingConfigError(f"{brief(seen.name)} ({brief(seen.place())}) has no tuned config: {why}; `{command}`")

    def _note_unseen(self, kernel: Any, error: Exception, result: Any) -> Any:
        """A launch works that could not be looked up."""
        name = getattr(kernel, "__name__", str(kernel))
        self.notes.note(f"{brief(name)}: launches ran as they are, which could not be looked up: {brief(error)}")
        return result

    def _note_traced(self, name: str) -> None:
        self.notes.note(f"{name}: torch.compile has looked its configs up while it traced, which is not counted")

    def _of_inductor(self, name: str) -> AbstractContextManager[None]:
        """Around a launch of torch.compile's own, which is counted and given no entry."""
        self.notes.count_of_inductor(name)
        return self._choosing(None)


def _refuses(error: Exception) -> bool:
    """Whether the config is to blame; what a kernel does wrong in the interpreter it does with any."""
    from triton.runtime.errors import InterpreterError

    return is_refusal(error, compiling=False) and not isinstance(error, InterpreterError)


def _with_heuristics(held: dict[str, Any], heuristics: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a launch with what heuristics below a tuner compute, as far as they can be asked before."""
    for name, heuristic in heuristics.items():
        try:
            held[name] = heuristic(dict(held))
        except Exception:  # noqa: BLE001 - somebody's function, which is asked again at the launch
            continue
    return held


def _left(given: Given, why: str, *, refused: bool = False) -> Left:
    constants = {name: told(value) for name, value in given.constants.items()}
    return Left(constants, dict(given.options), why, refused=refused)


def _would_time(left_out: Sequence[Any], *_: Any, config: Any, **__: Any) -> list[float]:
    if config in left_out:
        return [math.inf] * 3
    raise _WouldTimeError(config)


def _text(config: Any) -> str:
    values = {name: told(value) for name, value in config.all_kwargs().items()}
    return brief(" ".join(f"{name}={value}" for name, value in values.items()))


def _device() -> int:
    import torch

    return torch.cuda.current_device() if torch.cuda.is_initialized() else -1
