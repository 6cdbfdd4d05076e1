"""What launches are to run with, remembered by what the answers follow from."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusetune.capture.cases import KernelSeen
from fusetune.capture.changes import free_names
from fusetune.capture.given import Given, Launch
from fusetune.capture.kinds import kind_of, without_floats
from fusetune.capture.launches import kernel_seen
from fusetune.capture.serving.served import Tally
from fusetune.ops.arguments import constexprs_of, signature_of
from fusetune.runtime.launch_configs import Chosen, LaunchConfigs
from fusetune.runtime.pure_grids import Shapes, asked, shape_of

MOST_REMEMBERED: Final = 4096
"""Kinds of launches whose answers are kept; after these all are looked up anew."""
MOST_HELD: Final = 1024
"""Kernels, and tuners, of which something is kept: a program may make one at each call."""
_SAME: Final = frozenset({int, bool, str, type(None)})
"""Arguments that are the same in all launches of a kind."""
_BUCKETED: Final = range(2, 1 << 31)
_ALIGNED: Final = 16
_NOT_ASKED: Final[Shapes] = {}


class Answer(NamedTuple):
    """What a kind of launches is to run with: `given`, or None for a miss.

    `config` is an autotuner's: of the entry, or for a miss the first one of its list. `tally` counts the launches that
    run so. A miss may be that of all launches with other numbers of the same buckets, which has the `numbers` of the
    kernel's entries, and is told by those of the first one.
    """

    chosen: Chosen
    given: Given | None
    tally: Tally
    config: Any = None
    numbers: frozenset[int] | None = None


class Key(NamedTuple):
    """What an answer is remembered by. `grid` is None where another one gets the same."""

    times_forgotten: int
    holder: int
    device: int
    kind: Any
    grid: Any


class Alike(NamedTuple):
    """The key of all launches that miss alike, and the numbers in the entries of their kernel, which count alone."""

    key: Key
    numbers: frozenset[int]


class Answers:
    """Answers by Key. The holder of an answer is an autotuner, or a kernel that none is above."""

    def __init__(self) -> None:
        self.times_forgotten = 0
        self._answers: dict[Key, Answer] = {}
        self._shapes: dict[Any, Shapes | None] = {}  # Grids by kind of launch; None where they do not count.
        self._kernels: dict[int, tuple[Any, KernelSeen, tuple[str, ...]]] = {}
        self._free: dict[tuple[int, ...], tuple[tuple[Any, ...], frozenset[str]]] = {}
        self._holders: dict[int, Any] = {}  # What answers are of: its id must not become another's.
        self._numbers: dict[int, tuple[Any, frozenset[int] | None]] = {}  # Of the entries of a kernel.

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key | None) -> Answer | None:
        """The answer for a launch like one before."""
        return None if key is None else self._answers.get(key)

    def forget(self) -> int:
        """Have all looked up anew, also what another thread is about to remember; how often that was done so far."""
        self.times_forgotten += 1
        self._clear()
        return self.times_forgotten

    def _clear(self) -> None:
        self._holders.clear()  # First: no answer is to be without.
        self._answers.clear()
        self._shapes.clear()
        self._numbers.clear()

    def numbers(self, kernel: Any, lookups: LaunchConfigs) -> frozenset[int] | None:
        """The whole numbers in the problems of a kernel's entries; None where these cannot be read now."""
        found = self._numbers.get(id(kernel))
        if found is None or found[0] is not kernel or found[1] is None:
            if len(self._numbers) >= MOST_HELD:
                self._numbers.clear()
            found = self._numbers[id(kernel)] = kernel, lookups.numbers(kernel)
        return found[1]

    def alike(
        self, key: Key | None, kernel: Any, launch: Launch, lookups: LaunchConfigs, exact: Container[str] = ()
    ) -> Alike | None:
        """That of all launches that miss as this one does: with other numbers of the same buckets, and any grid.

        A program may launch with what it counts up. The arguments `exact` count to the number all the same.
        """
        numbers = self.numbers(kernel, lookups) if key is not None else None
        if key is None or numbers is None:
            return None
        given = {**dict(zip(self.seen(kernel)[2], launch.args, strict=False)), **launch.named}
        constants = constexprs_of(kernel)
        for name, value in given.items():
            if name in constants or name in exact:
                continue
            if type(value) is int and value not in numbers and value in _BUCKETED:
                given[name] = value % _ALIGNED == 0, (value - 1).bit_length()
            elif type(value) is float:
                given[name] = float
        kind = kind_of((), given)
        return None if kind is None else Alike(key._replace(kind=("alike", kind), grid=None), numbers)

    def remember_of(self, key: Key | None, alike: Alike | None, answer: Answer, holder: Any) -> tuple[Any, Answer]:
        """Give the same answer to launches with this key, or to all alike where it is a miss of theirs."""
        chosen = answer.chosen
        if alike is None or not chosen.by_launch or chosen.by_grid or chosen.by_sizes:
            return key, self.remember(key, answer, holder)
        return alike.key, self.remember(alike.key, answer._replace(numbers=alike.numbers), holder)

    def remember(self, key: Key | None, answer: Answer, holder: Any) -> Answer:
        """Give the same answer to launches with this key."""
        if answer.chosen.remember and key is not None:
            if len(self._answers) >= MOST_REMEMBERED or len(self._shapes) >= MOST_REMEMBERED:
                self._clear()
            if not answer.chosen.by_grid:
                self._shapes[key[:-1]] = None
                key = key._replace(grid=None)
            self._answers[key] = answer
            self._holders[id(holder)] = holder
        return answer

    def key(
        self,
        holder: Any,
        kernel: Any,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        grid: Any,
        first: dict[str, Any],
        *,
        by_values: bool = False,
    ) -> Key | None:
        """What an answer is remembered by; None where the launch is looked up each time.

        `first` are constants that an autotuner gives without an entry. `by_values`: functions of the program have a
        say, which may ask for shapes and floats.
        """
        names = self.seen(kernel)[2]
        if not by_values and (float in map(type, args) or float in map(type, named.values())):
            constants = constexprs_of(kernel)
            by_name = dict(zip(names, args, strict=False))
            kind = kind_of(without_floats(by_name, constants).values(), without_floats(named, constants))
        else:
            kind = kind_of(args, named, shapes=by_values)
        if kind is None:
            return None
        of_kind = self.times_forgotten, id(holder), _device(), kind
        shapes = self._shapes.get(of_kind, _NOT_ASKED)
        if shapes is None:
            return Key(*of_kind, None)
        if callable(grid):
            shape = shape_of(grid, shapes)
            # It may follow what is no argument.
            if shape is None:
                meta = {**dict(zip(names, args, strict=False)), **first, **named}
                if shapes is _NOT_ASKED:
                    if len(self._shapes) >= MOST_REMEMBERED:
                        self._clear()
                    shapes = self._shapes[of_kind] = {}
                try:
                    shape = asked(grid, meta, [name for name, one in meta.items() if type(one) in _SAME], shapes)
                except Exception:  # noqa: BLE001 - it may read what the launch has by default, or heuristics compute
                    return None
            grid = shape
        return Key(*of_kind, tuple(grid) if isinstance(grid, list) else grid)

    def names(self, tuners: Sequence[Any]) -> frozenset[str]:
        """The constants and options that autotuners give, asked once of each."""
        key = tuple(map(id, tuners))
        found = self._free.get(key)
        if found is None:
            if len(self._free) >= MOST_HELD:
                self._free.clear()
            names = free_names([one for one in tuners if hasattr(one, "configs")])
            found = self._free[key] = (tuple(tuners), names)
        return found[1]

    def seen(self, kernel: Any) -> tuple[Any, KernelSeen, tuple[str, ...]]:
        """A kernel, what is told of it, and the names of its parameters."""
        found = self._kernels.get(id(kernel))
        if found is None:
            if len(self._kernels) >= MOST_HELD:
                self._kernels.clear()
            names = tuple(signature_of(kernel).parameters)
            found = self._kernels[id(kernel)] = (kernel, kernel_seen(kernel, hashed=False), names)
        return found


def _device() -> int:
    import torch

    return torch.cuda.current_device() if torch.cuda.is_initialized() else -1
