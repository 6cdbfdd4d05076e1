"""What became of the launches of a program that was to run with tuned configs: noted while it runs, joined, as JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from fusetune.capture.cases import KernelSeen

VERSION: Final = 1
"""Of the JSON. History: 1 first version."""
AS_IT_IS: Final = "what the program launches"
"""What a launch without an entry runs with that no autotuner is above."""
MOST_ROWS: Final = 2000
"""Different outcomes that a process notes; what comes after them is counted as one."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a number of launches."""

    launches: int = 0


class Applied(Row, frozen=True):
    """The config of an entry and how many launches ran with it.

    `rung` is exact or nearest; `why` says which entry it is, `file` where that stands.
    """

    constants: dict[str, Any]
    options: dict[str, int]
    rung: str
    why: str
    file: str


class Missed(Row, frozen=True):
    """Launches for which there is no entry, by the reason. `did` says what they ran with; `stopped`: they did not."""

    reason: str
    did: str
    stopped: bool = False


class Left(Row, frozen=True):
    """Launches that have an entry and ran as they are all the same; `refused`: by the GPU or Triton, for good."""

    constants: dict[str, Any]
    options: dict[str, int]
    why: str
    refused: bool = False


class KernelServed(msgspec.Struct, frozen=True):
    """A kernel and what became of its launches. `command` would tune it; empty where nothing is missing."""

    name: str
    file: str
    line: int
    applied: tuple[Applied, ...] = ()
    missed: tuple[Missed, ...] = ()
    left: tuple[Left, ...] = ()
    command: str = ""

    @property
    def launches(self) -> int:
        """All that were seen; one whose config was refused is among the missed."""
        left = [one for one in self.left if not one.refused]
        return sum(one.launches for one in (*self.applied, *self.missed, *left))


class Served(msgspec.Struct, frozen=True):
    """What one process, or several of one program, launched.

    `trials` counts launches of autotuners that only timed, `by_inductor` those of what torch.compile made, by name.
    `notes` are sentences on what else there is to tell. `failed` says how the program ended by an error of its own.
    """

    version: int = VERSION
    processes: int = 0
    kernels: tuple[KernelServed, ...] = ()
    trials: int = 0
    by_inductor: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    failed: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether some launch was stopped for want of an entry."""
        return any(one.stopped for kernel in self.kernels for one in kernel.missed)


class _Place(NamedTuple):
    name: str
    file: str
    line: int


class Tally:
    """One outcome of a kernel's launches, to be counted by Notes."""

    __slots__ = ("launches", "place", "row")

    def __init__(self, place: _Place, row: Row) -> None:
        self.place, self.row, self.launches = place, row, 0


class Notes:
    """Counts outcomes, from any thread. `new` is called when something is noted that was not there before."""

    def __init__(self, command: Callable[[str], str], new: Callable[[], None] = lambda: None) -> None:
        self.command, self._new = command, new
        self._tallies: dict[tuple[_Place, str, bytes], Tally] = {}
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a process that was forked: what its parent noted is the parent's, and so is the lock."""
        self._lock = threading.Lock()
        for tally in self._tallies.values():
            tally.launches = 0
        self._notes: dict[str, None] = {}
        self._by_inductor: dict[str, int] = {}
        self.trials = 0

    def tally(self, kernel: KernelSeen, row: Row) -> Tally:
        """What counts this outcome of a kernel's launches."""
        place = _Place(kernel.name, kernel.file, kernel.line)
        with self._lock:
            if len(self._tallies) >= MOST_ROWS:
                row = Missed("there are more outcomes than are told one by one", "what is not told")
            key = (place, type(row).__name__, msgspec.json.encode(row))
            return self._tallies.setdefault(key, Tally(place, row))

    def count(self, tally: Tally) -> None:
        """One more launch with this outcome."""
        with self._lock:
            tally.launches += 1
            is_new = tally.launches == 1
        if is_new:
            self._new()

    def count_trial(self) -> None:
        """One more launch of an autotuner that only timed."""
        with self._lock:
            self.trials += 1

    def count_of_inductor(self, name: str) -> None:
        """One more launch of what torch.compile made."""
        with self._lock:
            self._by_inductor[name] = self._by_inductor.get(name, 0) + 1

    def note(self, sentence: str) -> None:
        """Something that went wrong beside."""
        with self._lock:
            if len(self._notes) < MOST_ROWS:
                self._notes.setdefault(sentence)

    def served(self, failed: str | None = None) -> Served:
        """What was noted so far."""
        with self._lock:
            tallies = [(one.place, one.row, one.launches) for one in self._tallies.values() if one.launches]
            notes, by_inductor, trials = tuple(self._notes), dict(self._by_inductor), self.trials
        kernels: dict[_Place, list[Row]] = {}
        for place, row, launches in tallies:
            kernels.setdefault(place, []).append(msgspec.structs.replace(row, launches=launches))
        made = tuple(_kernel(place, some, self.command) for place, some in kernels.items())
        return Served(VERSION, 1, made, trials, by_inductor, notes, failed)


def _kernel(place: _Place, rows: Iterable[Row], command: Callable[[str], str]) -> KernelServed:
    applied: list[Applied] = []
    missed: list[Missed] = []
    left: list[Left] = []
    for row in rows:
        if isinstance(row, Applied):
            applied.append(row)
        elif isinstance(row, Missed):
            missed.append(row)
        elif isinstance(row, Left):
            left.append(row)
    said = command(place.name) if missed or any(one.refused for one in left) else ""
    return KernelServed(*place, tuple(applied), tuple(missed), tuple(left), said)


def joined(several: Iterable[Served]) -> Served:
    """What several processes of one program came to together."""
    rows: dict[_Place, dict[bytes, Row]] = {}
    commands: dict[_Place, str] = {}
    by_inductor: dict[str, int] = {}
    notes: dict[str, None] = {}
    processes = trials = 0
    failed: str | None = None
    for one in several:
        processes, trials = processes + one.processes, trials + one.trials
        notes.update(dict.fromkeys(one.notes))
        failed = failed or one.failed
        for name, count in one.by_inductor.items():
            by_inductor[name] = by_inductor.get(name, 0) + count
        for kernel in one.kernels:
            place = _Place(kernel.name, kernel.file, kernel.line)
            commands[place] = commands.get(place) or kernel.command
            for row in (*kernel.applied, *kernel.missed, *kernel.left):
                key = msgspec.json.encode(msgspec.structs.replace(row, launches=0)) + type(row).__name__.encode()
                before = rows.setdefault(place, {}).get(key)
                launches = row.launches + (before.launches if before is not None else 0)
                rows[place][key] = msgspec.structs.replace(row, launches=launches)
    made = (_kernel(place, some.values(), lambda _, at=place: commands[at]) for place, some in rows.items())  # type: ignore[misc]
    return Served(VERSION, processes, tuple(made), trials, by_inductor, tuple(notes), failed)
