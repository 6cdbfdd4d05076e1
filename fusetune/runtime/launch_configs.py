"""Which config a launch of somebody's kernel is to have, from the files that `fusetune tune` wrote; nothing is tuned.

The ladder is that of every look-up: an entry for exactly this launch, else the one with the nearest sizes in the same
power-of-two buckets and all else equal, else none, with the reason. Equal distances are decided by a fixed order, so
that all ranks that read one file choose alike.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from fusetune.core.brief import brief
from fusetune.core.config import OPTIONS, SAFE_STAGES, SAFE_WARPS
from fusetune.core.environment import TargetIdentity
from fusetune.core.problem import NamedProblem
from fusetune.core.values import Value
from fusetune.errors import ConfigFileError
from fusetune.ops.arguments import constexprs_of, resolved_grid, signature_of
from fusetune.ops.hashing import innermost
from fusetune.ops.naming import argument_value, kernel_place, op_name, value_name
from fusetune.ops.sources import jitted, source_hash_of
from fusetune.runtime import facts
from fusetune.runtime.configs import ConfigSource, active_source, device_identity, forget_at_load, why_no_gpu
from fusetune.runtime.matching import AXES, Distance, Parameter, distance, grid_distance
from fusetune.store.indexed import IndexedFile
from fusetune.store.lookup import MOST_TOLD, entry_obstacle, environment_differences, target_differences
from fusetune.store.schema import Entry

_LOG: Final = logging.getLogger(__name__)

MOST_FOUND: Final = 4096
"""So many kinds of launches are remembered, and kernels; then all are looked up anew."""

LaunchRung = Literal["exact", "nearest", "miss"]


class Chosen(msgspec.Struct, frozen=True):
    """What a launch is to run with, and how that was found.

    `constants` by the kernel's own names and `options` are those of the entry; both are empty for a miss. `follows` are
    the arguments that the tuned program computed from its constants: whoever applies the config has to compute them
    anew. `why` is half a line for people, `skipped` says why entries that are nearer were not used.

    `by_grid`: another grid may get another answer. `by_sizes`: other numbers may, although they are in the same buckets
    and of the same specialization. `remember` is False for what another call may get a better answer to, as one while a
    CUDA graph is captured. `by_launch` is False for a miss of all launches of a kernel on a GPU.
    """

    rung: LaunchRung
    why: str
    constants: Mapping[str, Any] = {}
    options: Mapping[str, int] = {}
    follows: tuple[str, ...] = ()
    entry: Entry | None = None
    file: Path | None = None
    number: int = -1
    skipped: tuple[str, ...] = ()
    by_grid: bool = False
    by_sizes: bool = False
    remember: bool = True
    by_launch: bool = True


class KernelFacts(NamedTuple):
    """What of a kernel a look-up asks for. `why` says why there can be no entry of it; None where there can be.

    `kernel` is the Python function, and `held` what Triton made of it.
    """

    kernel: Any
    held: Any
    op: str
    place: str
    parameters: Mapping[str, Parameter]
    why: str | None = None


class Candidate(NamedTuple):
    """An entry that fits the arguments of a launch. `position` is its file's in the search path."""

    far: Distance
    position: int
    number: int
    path: Path
    entry: Entry

    def order(self, grid: Distance) -> tuple[Any, ...]:
        """Smallest is best: exact, then earlier files, then the nearest, then what stands first."""
        far = self.far.beside(grid)
        return (not (self.far.is_exact and grid.is_exact), self.position, far.ratio, far.sizes, self.number)


class _Fitting(NamedTuple):
    candidates: tuple[Candidate, ...]
    skipped: tuple[str, ...]


class LaunchConfigs:
    """Look-ups for launches of any kernel, which threads may share. Files are read once, until configs are loaded."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kernels: dict[int, KernelFacts] = {}
        self._hashes: dict[int, tuple[str, str | None]] = {}
        self._fitting: dict[Any, _Fitting] = {}
        self._ready: set[tuple[str, TargetIdentity]] = set()
        self._refused: dict[tuple[str, Path, int], str] = {}
        _ALL.append(self)

    def find(
        self,
        kernel: Any,
        arguments: Mapping[str, Any],
        grid: Any = None,
        *,
        listed: Sequence[Mapping[str, Any]] = (),
        supplied: Mapping[str, Any] = {},
    ) -> Chosen:
        """The config for a launch of a kernel on the current GPU.

        `arguments` are the launch's by the kernel's own names, constants and defaults too, without those that a tuner
        above it gives; `supplied` are what the tuner would give without an entry, and `listed` all configs of its list,
        each with its options by name. A callable grid is asked with Before's constants; None leaves the grid open.
        """
        known = self.known(kernel)
        if known is None or known.why is not None:
            why = "it was launched first while a CUDA graph is captured" if known is None else known.why
            return Chosen("miss", str(why), remember=known is not None, by_launch=known is None)
        identity = current_identity()
        if identity is None:
            return Chosen("miss", why_no_gpu(), by_launch=False)
        if not self._is_ready(known, identity):
            why = "nothing is read from a disk while a CUDA graph is captured, and no launch came before"
            return Chosen("miss", why, remember=False)
        try:
            given = {value_name(name): argument_value(value) for name, value in arguments.items()}
            instead = {value_name(name): argument_value(value) for name, value in supplied.items()}
        except TypeError as error:
            return Chosen("miss", str(error))
        fitting = self._fitting_for(known, identity, given, instead)
        return self._choose(known, fitting, given, partial(_grids, grid, arguments, supplied, listed))

    def entries(self, kernel: Any) -> tuple[KernelFacts, tuple[Candidate, ...]] | None:
        """What is known of a kernel, and all entries that may be used on this GPU, in order, for whatever launch.

        None while a CUDA graph is captured, and nothing was read before.
        """
        known = self.known(kernel)
        identity = current_identity()
        if known is None or (identity is not None and known.why is None and not self._is_ready(known, identity)):
            return None
        if identity is None or known.why is not None:
            return known, ()
        source = active_source()
        found = (
            Candidate(Distance(), position, number, path, entry)
            for position, path, number, entry in _entries(source, known.op, identity)
            if not isinstance(entry, str) and self._obstacle(known, source, path, number, entry) is None
        )
        return known, tuple(found)

    def numbers(self, kernel: Any) -> frozenset[int] | None:
        """All whole numbers in the problems of a kernel's entries; None as of `entries`."""
        found = self.entries(kernel)
        if found is None:
            return None
        problems = (_problem(one.entry).to_builtins() for one in found[1])
        return frozenset(value for one in problems for value in one.values() if type(value) is int)

    def _is_ready(self, known: KernelFacts, identity: TargetIdentity) -> bool:
        """Whether the files of a kernel are in memory by now: they are read, but not while a CUDA graph is captured."""
        if (known.op, identity) not in self._ready:
            if is_capturing():
                return False
            with self._lock:
                active_source().files(known.op, identity)
                self._ready.add((known.op, identity))
        return True

    def refuse(self, kernel: Any, chosen: Chosen, why: str) -> None:
        """Take what was chosen for a config that cannot be launched here, and say so once; it is not chosen again."""
        known = self.known(kernel)
        if known is None or chosen.entry is None or chosen.file is None:
            return
        with self._lock:
            self._refused[known.op, chosen.file, chosen.number] = why
            self._fitting.clear()
        active_source().warn(
            f"fusetune does not use {brief(chosen.file)}, entries[{chosen.number}] "
            f"({brief(chosen.entry.config.label())}) for {known.place}, which cannot be launched here ({why}), and "
            "looks further; tune again with this software"
        )

    def forget(self) -> None:
        """Other configs have been loaded."""
        with self._lock:
            self._fitting.clear()
            self._ready.clear()
            self._refused.clear()

    def known(self, kernel: Any) -> KernelFacts | None:
        """What is known of a kernel; None where nothing is, and a CUDA graph is captured."""
        function = innermost(kernel)
        found = self._kernels.get(id(function))
        if found is None or found.kernel is not function:
            if is_capturing():
                return None
            with self._lock:
                if len(self._kernels) >= MOST_FOUND:  # by whose ids others are kept
                    self._fitting.clear()
                    self._hashes.clear()
                    self._kernels.clear()
                found = self._kernels[id(function)] = _facts_of(kernel)
        return found

    def _fitting_for(
        self, known: KernelFacts, identity: TargetIdentity, given: Mapping[str, Value], supplied: Mapping[str, Value]
    ) -> _Fitting:
        numbers = tuple(
            (name, type(value), None if type(value) is float and not known.parameters[name].constant else value)
            for name, value in given.items()
        )
        also = tuple((name, type(value), value) for name, value in supplied.items())  # True is 1
        key = (id(known.kernel), identity, numbers, also)
        found = self._fitting.get(key)
        if found is not None:
            return found
        with self._lock:
            if len(self._fitting) >= MOST_FOUND:
                self._fitting.clear()
            found = self._fitting[key] = self._fit(known, identity, given, supplied)
        return found

    def _fit(
        self, known: KernelFacts, identity: TargetIdentity, given: Mapping[str, Value], supplied: Mapping[str, Value]
    ) -> _Fitting:
        """The entries that fit the arguments. The caller holds the lock, and files have been read."""
        source = active_source()
        candidates: list[Candidate] = []
        skipped: list[str] = []
        measure = partial(distance, given=given, parameters=known.parameters, supplied=supplied)
        for position, path, number, entry in _entries(source, known.op, identity, measure):
            place = f"{brief(path)}, entries[{number}]"
            if isinstance(entry, str):
                skipped.append(f"{place}: {entry}")
                continue
            obstacle = self._obstacle(known, source, path, number, entry)
            far = measure(_problem(entry))
            if obstacle is not None or isinstance(far, str):
                skipped.append(f"{place}: {obstacle or far}")
            else:
                candidates.append(Candidate(far, position, number, path, entry))
        return _Fitting(tuple(candidates), tuple(skipped[:MOST_TOLD]))

    def _obstacle(self, known: KernelFacts, source: ConfigSource, path: Path, number: int, entry: Entry) -> str | None:
        """Why an entry may not be used here; None where it may."""
        refused = self._refused.get((known.op, path, number))
        if refused is not None:
            return f"it cannot be launched here ({refused})"
        missing = [name for name in entry.config.constants() if name not in known.parameters]
        if missing:
            return f"the kernel has no constant {missing[0]}"
        hashed, why = self._hash(known)
        return why or entry_obstacle(entry, hashed, source.allow_predicted)

    def _hash(self, known: KernelFacts) -> tuple[str, str | None]:
        """The hash of a kernel's source, or why there is none: made for those that have an entry, since it takes ms."""
        found = self._hashes.get(id(known.kernel))
        if found is None:
            try:
                found = source_hash_of(known.held), None
            except (OSError, TypeError, SyntaxError, ValueError) as error:
                found = "", f"the kernel's source cannot be read ({brief(error)})"
            self._hashes[id(known.kernel)] = found
        return found

    def _choose(self, known: KernelFacts, fitting: _Fitting, given: Mapping[str, Value], grids: Any) -> Chosen:
        ranked = []
        skipped = list(fitting.skipped)
        for one in fitting.candidates:
            possible = grids(known, one.entry)
            far = Distance() if possible is None else grid_distance(_problem(one.entry), possible, known.parameters)
            if far is None:
                axes = ", ".join(f"{name}={_problem(one.entry)[name]}" for name in AXES if name in _problem(one.entry))
                skipped.append(f"{brief(one.path)}, entries[{one.number}]: its grid, {axes or 1}, is another size")
            else:
                ranked.append((one.order(far), one, far))
        if not ranked:
            why = skipped[0] if skipped else f"no entry of {known.place} on this GPU"
            _LOG.info("%s: as the program launches it, %s", known.place, why)
            told = tuple(skipped[:MOST_TOLD])
            return Chosen("miss", why, skipped=told, by_grid=bool(fitting.candidates), by_launch=bool(skipped))
        _, one, far = min(ranked, key=lambda item: item[0])
        exact = one.far.is_exact and far.is_exact
        self._tell_differences(known, one)
        entry, config = one.entry, one.entry.config
        _LOG.info("%s: %s, of %s", known.place, config.label(), one.path)
        answered = {*_problem(entry), *config.constants(), *OPTIONS}
        return Chosen(
            "exact" if exact else "nearest",
            "the entry for exactly this launch"
            if exact
            else f"the entry for {_problem(entry).size_text()}, the nearest in the same power-of-two buckets",
            constants={known.parameters[name].name: value for name, value in config.constants().items()},
            options=config.options(),
            follows=tuple(known.parameters[name].name for name in given if name not in answered),
            entry=entry,
            file=one.path,
            number=one.number,
            skipped=tuple(skipped[:MOST_TOLD]),
            by_grid=True,
            by_sizes=len(fitting.candidates) > 1,
        )

    def _tell_differences(self, known: KernelFacts, one: Candidate) -> None:
        differences = environment_differences(one.entry.environment, facts.software(self._hash(known)[0]))
        if differences:
            active_source().warn(
                f"fusetune uses {brief(one.path)} although its environment differs ({'; '.join(differences)}); tune "
                "again to be sure of its gain"
            )


_ALL: Final[list[LaunchConfigs]] = []


def _forget_all() -> None:
    for one in _ALL:
        one.forget()


def _after_fork() -> None:
    for one in _ALL:  # a thread that is not in the child may have held it
        one._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
forget_at_load(_forget_all)
LAUNCH_CONFIGS: Final = LaunchConfigs()
"""What a process looks its launches up with."""


def current_identity() -> TargetIdentity | None:
    """The current GPU; None where there is none."""
    import torch

    return device_identity(torch.cuda.current_device()) if torch.cuda.is_available() else None


def has_one_gpu() -> bool:
    """Whether the current GPU is always the same one."""
    import torch

    return bool(torch.cuda.device_count() == 1)


def is_capturing() -> bool:
    """Whether a CUDA graph is captured in this thread's stream."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _facts_of(kernel: Any) -> KernelFacts:
    function = innermost(kernel)
    code = getattr(function, "__code__", None)
    held = jitted(kernel)
    if code is None or held is None:
        return KernelFacts(function, None, "", str(function), {}, "it is no function of Triton's")
    where = (function.__module__, function.__qualname__, code.co_filename)
    constants = constexprs_of(held)
    of_triton = {one.name: one for one in getattr(held, "params", ())}
    parameters = {
        value_name(name): Parameter(name, name in constants, of_triton.get(name))
        for name in signature_of(held).parameters
    }
    return KernelFacts(function, held, op_name(*where), kernel_place(*where), parameters)


def _entries(
    source: ConfigSource,
    op: str,
    identity: TargetIdentity,
    measure: Callable[[NamedProblem], Distance | str] | None = None,
) -> Iterator[tuple[int, Path, int, Entry | str]]:
    """The entries of an op on a GPU, each with its file's place in the order and its number there.

    Those that `measure` finds to be of another problem are not parsed: the reason stands in their place, as it does of
    what cannot be read.
    """
    for position, (path, file) in enumerate(source.files(op, identity)):
        if file.op != op:
            continue
        other = "; ".join(target_differences(file.target, identity))
        if other:
            yield position, path, 0, other
            continue
        for number, problem in enumerate(file.problems):
            far: Distance | str | None = "its problem is none of a kernel's arguments"
            if isinstance(problem, NamedProblem):
                far = measure(problem) if measure is not None else None
            yield position, path, number, far if isinstance(far, str) else _read(source, file, number)


def _read(source: ConfigSource, file: IndexedFile, number: int) -> Entry | str:
    try:
        return file.entry(number)
    except ConfigFileError as error:
        source.warn(f"fusetune does not use a damaged entry and looks further: {error}")
        return str(error)


def _problem(entry: Entry) -> NamedProblem:
    assert isinstance(entry.problem, NamedProblem), "others are left out"
    return entry.problem


def _grids(
    grid: Any,
    arguments: Mapping[str, Any],
    supplied: Mapping[str, Any],
    listed: Sequence[Mapping[str, Any]],
    known: KernelFacts,
    entry: Entry,
) -> list[tuple[int, ...]] | None:
    """The grids that the launch may have had with Before's constants; None where that cannot be told.

    An entry without `before` was held against BASELINE, whose constants it does not say: these are the launch's own, or
    those of any config of its list with BASELINE's warps and stages.
    """
    if grid is None:
        return None
    if not callable(grid):
        return [resolved_grid(grid, arguments)]
    if entry.before is not None:
        own = {known.parameters[name].name: value for name, value in entry.before.constants().items()}
        befores: list[Mapping[str, Any]] = [own]
    else:
        like = {"num_warps": SAFE_WARPS, "num_stages": SAFE_STAGES}
        befores = [one for one in listed if all(one.get(name) == value for name, value in like.items())] or [{}]
    found = []
    for before in befores:
        try:
            found.append(resolved_grid(grid, {**supplied, **arguments, **before}))
        except Exception:  # noqa: BLE001 - the program's own function, which may ask for what only a launch has
            continue
    return found or None
