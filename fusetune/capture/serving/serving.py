"""Let the launches of a program run with tuned configs that are looked up as they come, in its own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, NoReturn

from fusetune.capture.above import Above
from fusetune.capture.given import Given, Launch, Placements, config_like, copy_of, hold_launches, run_with
from fusetune.capture.inductor import around_launchers, when_imported
from fusetune.capture.launches import proposals_of
from fusetune.capture.patching import Patches
from fusetune.capture.serving import traced
from fusetune.capture.serving.answers import Answer, Answers, Key
from fusetune.capture.serving.as_launched import AsLaunched, seen
from fusetune.capture.serving.repeated import (
    Choosing,
    Here,
    Outcome,
    Repeated,
    changes_of,
    chooses_alike,
    only_one_gpu,
    prunes,
)
from fusetune.capture.serving.served import AS_IT_IS, Applied, Left, Missed, Notes, Row, Tally
from fusetune.capture.serving.untimed import WouldTimeError, untimed
from fusetune.core.brief import brief
from fusetune.core.config import OPTIONS
from fusetune.errors import MissingConfigError
from fusetune.ops.arguments import bind, resolved_grid, told
from fusetune.ops.refusals import is_of_one_config, is_refusal
from fusetune.ops.refusals import told as told_error
from fusetune.ops.tuners import chain_of, heuristics_of
from fusetune.runtime.launch_configs import Chosen, LaunchConfigs

OnMiss = Literal["default", "tune", "error"]
ON_MISS: Final[tuple[OnMiss, ...]] = ("default", "tune", "error")
_TIMED: Final = "what its autotuner times"
_FOUND_OUT: Final = ("best_config", "bench_time", "configs_timings")
"""What programs read of an autotuner that has timed."""
_FOUND_BEFORE: Final = "what its autotuner has found out before"
_OURS_CHOSE: Final = "its own fusetune.autotune has chosen another one"
_MOST_WARNINGS: Final = 20
_OF_TRITON: Final = frozenset({"grid", "warmup"})
_NOTHING: Final = "nothing: it was stopped (--on-miss error)"


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
        self._here = Here()
        self._repeated = Repeated(self._here, self._above, notes.count)
        self._answers = Answers()

    def install(self) -> None:
        """Begin. Triton is imported here, and torch with it."""
        self._repeated.install_below(self._patches)
        hold_launches(self._patches, self._above, self._launch, self._choose)
        self._repeated.install_above(self._patches)
        around_launchers(self._patches, self._of_inductor)
        if self._on_miss != "tune":
            self._patches.callback(when_imported(traced.MODULE, traced.Traces(self._patches, self._note_traced).watch))

    def remove(self) -> None:
        """End it; everything is as it was."""
        self._patches.close()
        self.forked()

    def forked(self) -> None:
        """Here is a child of the process that was served, which has loaded nothing."""
        self._repeated.begin_anew(self._answers.times_forgotten)

    def forget(self) -> None:
        """Look everything up anew: what another thread is about to remember is not found again, either."""
        self._repeated.forget(self._answers.forget())

    # An autotuner.

    def _choose(self, run: Any, tuner: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._above.here.trial or self._here.chosen:
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
                with Choosing(self._here, beyond):
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
                if beyond is None:
                    self._learn_of_tuner(tuner, chain, key, answer, args, named, result)
                return result
        why = answer.chosen.why
        if self._on_miss == "error":
            self.notes.count(self._tally(kernel, Missed(why, _NOTHING, stopped=True)))
            self._stop(kernel, why)
        missed = self._timed if self._on_miss == "tune" else self._untimed
        with Choosing(self._here, None):
            result, tally = missed(run, tuner, chain, answer, key, args, named)
        if counts:
            self.notes.count(tally)
        return result

    def _timed(
        self,
        run: Any,
        tuner: Any,
        chain: Sequence[Any],
        answer: Answer,
        key: Key | None,
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> tuple[Any, Tally]:
        """A launch of an autotuner without an entry, that may time; and what counts it."""
        tally = self._tally(chain[-1], Missed(answer.chosen.why, _TIMED))
        if not tuner.cache:
            return run(tuner, *args, **named), tally
        held = copy_of(tuner, tuner.configs)  # Another thread may choose another config meanwhile.
        result = run(held, *args, **named)
        for name in _FOUND_OUT:
            if vars(held).get(name) is not vars(tuner).get(name):
                setattr(tuner, name, vars(held)[name])
        made = answer._replace(config=held.best_config, tally=tally)
        self._learn_of_tuner(tuner, chain, key, made, args, named, result, chooses_alike(tuner))
        return result, tally

    def _untimed(
        self,
        run: Any,
        tuner: Any,
        chain: Sequence[Any],
        answer: Answer,
        key: Key | None,
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> tuple[Any, Tally]:
        """A launch of an autotuner without an entry, that does not time; and what counts it.

        Of what its timing would leave out since it cannot be launched, the next of the list takes the place.
        """
        if answer.config is not None:
            result = run_with(run, tuner, answer.config, args, named)
            self._learn_of_tuner(tuner, chain, key, answer, args, named, result)
            return result, answer.tally
        left_out: list[Any] = []
        why = ""
        while True:
            held = untimed(tuner, left_out)
            try:
                result = run(held, *args, **named)
            except WouldTimeError as found:
                config = found.config
            else:
                tuner.best_config = held.best_config
                did = "the one config of its list" if len(tuner.configs) == 1 else _FOUND_BEFORE
                tally = self._tally(chain[-1], Missed(answer.chosen.why, did))
                made = answer._replace(config=held.best_config, tally=tally)
                self._learn_of_tuner(tuner, chain, key, made, args, named, result, chooses_alike(tuner))
                return result, tally
            try:
                result = run_with(run, tuner, config, args, named)
            except Exception as error:
                if not is_of_one_config(error) or len(left_out) >= len(tuner.configs):
                    raise
                left_out.append(config)
                why = why or f"; {_text(config)} cannot be ({told_error(error)})"
                continue
            did = f"the first config of its list{' that can be launched' if why else ''}, {_text(config)}{why}"
            tally = self._tally(chain[-1], Missed(answer.chosen.why, did))
            answer = self._answers.remember(key, answer._replace(config=config, tally=tally), tuner)
            self._learn_of_tuner(tuner, chain, key, answer, args, named, result)
            return result, answer.tally

    def _of_tuner(
        self, tuner: Any, chain: Sequence[Any], args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, Answer]:
        """What an autotuner's launch is to run with, and what that is remembered by."""
        kernel, grid = chain[-1], named.get("grid")
        own = {name: value for name, value in named.items() if name not in _OF_TRITON}
        first = tuner.configs[0].kwargs
        heuristics = heuristics_of(chain)
        key = self._answers.key(tuner, kernel, args, own, grid, first, by_values=bool(heuristics))
        found = self._answers.get(key)
        if found is not None:
            return key, found
        alike = None
        if not heuristics and not prunes(tuner):
            alike = self._answers.alike(key, kernel, Launch(args, grid, own), self._lookups, tuner.keys)
        found = self._answers.get(alike.key) if alike is not None else None
        if alike is not None and found is not None:
            return alike.key, found
        bound, _ = bind(kernel, args, own, partly=True)
        arguments = {name: value for name, value in bound.items() if name not in self._answers.names((tuner,))}
        first = {name: value for name, value in first.items() if name not in OPTIONS}
        supplied = _with_heuristics({**arguments, **first}, heuristics)
        supplied = {name: value for name, value in supplied.items() if name not in arguments}
        answer = self._asked(kernel, arguments, grid, proposals_of(chain[:-1]), supplied)
        cannot = answer.given.follows - heuristics.keys() if answer.given is not None else ()
        if cannot:
            answer = self._not_given(kernel, f"{min(cannot)} follows what was tuned, and the launch itself gives it")
        elif answer.given is not None:
            answer = answer._replace(config=config_like(tuner.configs, answer.given))
        return self._answers.remember_of(key, alike, answer, tuner)

    def _learn_of_tuner(
        self,
        tuner: Any,
        chain: Sequence[Any],
        key: Any,
        answer: Answer,
        args: tuple[Any, ...],
        named: dict[str, Any],
        result: Any,
        still: Callable[[], bool] | None = None,
    ) -> None:
        """Have the next launch like this one be made directly."""
        if key is None or not answer.chosen.remember or result is None or named.get("warmup"):
            return
        if not self._repeated.takes(chain[-1], chain[1:-1]):
            return
        own = {name: value for name, value in named.items() if name not in _OF_TRITON}
        shape = None
        if answer.chosen.by_grid:
            bound, _ = bind(chain[-1], args, own, partly=True)
            meta = _with_heuristics({**bound, **answer.config.all_kwargs()}, heuristics_of(chain))
            try:
                shape = resolved_grid(named.get("grid"), meta)
            except Exception:  # noqa: BLE001 - the program's own function, which was asked for this launch before
                return
        values = prunes(tuner) or heuristics_of(chain)
        by_launch = answer.chosen.by_launch and answer.numbers is None
        exact = None if by_launch or values else only_one_gpu(frozenset(tuner.keys))
        numbers = answer.numbers if exact is not None else None
        outcome = Outcome(key.times_forgotten, answer.tally, result, answer.config, still, shape, exact, numbers)
        self._repeated.learn_of_tuner(chain, Launch(args, named.get("grid"), own), outcome)

    # A launch.

    def _launch(
        self, run: Any, kernel: Any, args: tuple[Any, ...], grid: Any, warmup: bool, named: dict[str, Any]
    ) -> Any:
        if self._above.here.trial:
            if not warmup:
                self.notes.count_trial()
            return run(kernel, *args, grid=grid, warmup=warmup, **named)
        launch = Launch(args, grid, named)
        if self._here.chosen:
            return self._below_choice(run, kernel, launch, warmup=warmup)
        try:
            key, answer = self._of_launch(kernel, launch)
        except TypeError as error:
            result = run(kernel, *args, grid=grid, warmup=warmup, **named)  # the launch itself tells the program
            return self._note_unseen(kernel, error, result)
        changed: Launch | str = launch
        if answer.given is not None:
            changed = self._changed(answer.given, kernel, launch)
            if isinstance(changed, str):
                tally = self._tally(kernel, _left(answer.given, changed))
                answer, changed = answer._replace(tally=tally), launch
            else:
                try:
                    compiled = self._run(run, kernel, changed, warmup=warmup)
                except Exception as error:
                    if not _refuses(error):
                        raise
                    key, answer = None, self._refused(kernel, answer, error)
                else:
                    return self._served(run, kernel, launch, changed, compiled, key, answer, warmup=warmup)
        compiled = self._run(run, kernel, launch, warmup=warmup)
        return self._served(run, kernel, launch, launch, compiled, key, answer, warmup=warmup)

    def _served(
        self,
        run: Any,
        kernel: Any,
        launch: Launch,
        changed: Launch,
        compiled: Any,
        key: Any,
        answer: Answer,
        *,
        warmup: bool,
    ) -> Any:
        """What the program gets for a launch that was made, `changed`; it is counted, and remembered."""
        result = compiled
        if compiled is not None and changed.grid is not launch.grid:
            # Whoever keeps it is to keep no tensors by it.
            args, named = tuple(map(seen, launch.args)), {name: seen(value) for name, value in launch.named.items()}
            own = Launch(args, (1,), named)  # A grid may hold some, too, and a warm-up asks for none.
            result = AsLaunched(compiled, lambda: self._run(run, kernel, own, warmup=True))
        if not warmup:
            self.notes.count(answer.tally)
            self._here.counted = answer.tally
            if key is not None and answer.chosen.remember and compiled is not None:
                self._learn_of_kernel(kernel, launch, changed, key, answer, compiled, result)
        return result

    def _learn_of_kernel(
        self, kernel: Any, launch: Launch, changed: Launch, key: Any, answer: Answer, compiled: Any, result: Any
    ) -> None:
        """Have the next launch like this one be made directly."""
        if not self._repeated.takes(kernel, self._above.here.tuners):
            return
        chosen, placed = answer.chosen, None
        changes = changes_of(kernel, launch, changed) if changed is not launch else {}
        if changes is None:
            return
        if answer.given is not None and (changed is launch or changed.grid is not launch.grid):
            bound, _ = bind(kernel, changed.args, changed.named)
            placed = resolved_grid(changed.grid, bound)
        shape = key.grid if chosen.by_grid or placed is not None else None
        exact = None if chosen.by_launch and answer.numbers is None else only_one_gpu(frozenset())
        numbers = answer.numbers if exact is not None else None
        outcome = Outcome(
            key.times_forgotten, answer.tally, compiled, None, None, shape, exact, numbers, placed, result, changes
        )
        self._repeated.learn_of_kernel(kernel, launch, outcome, self._placements)

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
        with Choosing(self._here, None):
            return run(kernel, *args, grid=grid, warmup=warmup, **named)

    def _changed(self, given: Given, kernel: Any, launch: Launch) -> Launch | str:
        if self._is_below_ours():
            bound, _ = bind(kernel, launch.args, launch.named)
            has, wants = {**bound, **launch.named}, {**given.constants, **given.options}
            return launch if all(has.get(name) == value for name, value in wants.items()) else _OURS_CHOSE
        if not given.constants and given.options.keys().isdisjoint(self._answers.seen(kernel)[2]):
            return launch._replace(named={**launch.named, **given.options})
        bound, _ = bind(kernel, launch.args, launch.named)
        return self._placements.launch(given, kernel, launch, bound, self._above.tuners)

    def _is_below_ours(self) -> bool:
        """Whether `fusetune.autotune` has chosen, which says by itself what it takes."""
        tuners = self._above.here.tuners
        if not tuners:
            return False
        from fusetune.runtime.autotune import Autotuned

        return any(isinstance(one, Autotuned) for one in tuners)

    def _of_launch(self, kernel: Any, launch: Launch) -> tuple[Any, Answer]:
        """What a launch is to run with, and what that is remembered by."""
        tuners = self._above.tuners
        key = self._answers.key(kernel, kernel, launch.args, launch.named, launch.grid, {})
        found = self._answers.get(key)
        if found is not None:
            return key, found
        alike = self._answers.alike(key, kernel, launch, self._lookups)
        found = self._answers.get(alike.key) if alike is not None else None
        if alike is not None and found is not None:
            return alike.key, found
        bound, _ = bind(kernel, launch.args, launch.named)
        free = self._answers.names(tuners) & bound.keys()
        arguments = {name: value for name, value in bound.items() if name not in free}
        supplied = {name: bound[name] for name in free}
        answer = self._asked(kernel, arguments, launch.grid, proposals_of(tuners), supplied)
        return self._answers.remember_of(key, alike, answer, kernel)

    # What both need.

    def _asked(
        self,
        kernel: Any,
        arguments: Mapping[str, Any],
        grid: Any,
        listed: Sequence[Mapping[str, Any]],
        supplied: Mapping[str, Any],
    ) -> Answer:
        chosen = Chosen("miss", "the look-up has failed", remember=False)
        for _ in range(_MOST_WARNINGS):
            try:
                chosen = self._lookups.find(kernel, arguments, grid, listed=listed, supplied=supplied)
                break
            except Warning as warning:  # a program may have its warnings raised, and this is none of its own
                self.notes.note(str(warning))
            except SystemError as error:  # ast.parse of Python 3.11, while another thread parses (gh-106905)
                if "recursion depth" not in str(error):
                    raise
        if chosen.rung == "miss":
            return Answer(chosen, None, self._tally(kernel, Missed(chosen.why, AS_IT_IS)))
        before = chosen.entry.before if chosen.entry is not None else None
        ran = {} if before is None else {**before.constants(), **before.options(), "num_ctas": before.num_ctas}
        given = Given(chosen.constants, chosen.options, supplied, ran, frozenset(chosen.follows))
        constants = {name: told(value) for name, value in chosen.constants.items()}
        row = Applied(constants, dict(chosen.options), chosen.rung, chosen.why, str(chosen.file or ""))
        return Answer(chosen, given, self._tally(kernel, row))

    def _refused(self, kernel: Any, answer: Answer, error: Exception) -> Answer:
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

    def _not_given(self, kernel: Any, why: str, *, remember: bool = True) -> Answer:
        """The answer for a launch that cannot have the config of its entry."""
        missed = Chosen("miss", why, remember=remember, by_grid=True)
        return Answer(missed, None, self._tally(kernel, Missed(why, AS_IT_IS)))

    def _tally(self, kernel: Any, row: Row) -> Tally:
        return self.notes.tally(self._answers.seen(kernel)[1], row)

    def _stop(self, kernel: Any, why: str) -> NoReturn:
        seen = self._answers.seen(kernel)[1]
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
        return Choosing(self._here, None)


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


def _text(config: Any) -> str:
    values = {name: told(value) for name, value in config.all_kwargs().items()}
    return brief(" ".join(f"{name}={value}" for name, value in values.items()))
