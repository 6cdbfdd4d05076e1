"""Who has what: problems to GPUs, what becomes of a problem that a GPU loses, and when a GPU gets no more.

It knows no process, no network and no clock of its own, so that every rule of it can be tested in microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from fusetune.fleet.words import SUSPECT, Answer, How, Seen


class Rules(msgspec.Struct, frozen=True):
    """The numbers that decide.

    moves: so often a problem goes to another GPU after one that threw, hung or was noisy; then it is told. deaths: so
    often a problem is begun again after its process was lost. strikes: a GPU that loses so many problems one after
    another gets no more. silent_s: a worker that says nothing for so long hangs. away_s: so long a worker that went is
    expected back, and what it was at kept for it, since its journal lies there. empty_s: so long nobody may be there.
    """

    moves: int = 2
    deaths: int = 5
    strikes: int = 3
    silent_s: float = 300.0
    away_s: float = 60.0
    empty_s: float = 60.0


RULES: Final = Rules()


class Item(msgspec.Struct, frozen=True):
    """One problem for GPUs of one model. Those of a `group` wait until the first of it has ended."""

    key: int
    model: str
    group: str | None = None


class Attempt(msgspec.Struct, frozen=True):
    """A problem on a GPU, and how it ended there."""

    card: str
    worker: str
    how: How
    why: str


class Told(msgspec.Struct, frozen=True):
    """A problem's end. `answer` is the last one; None where no GPU gave one. `why` is for one without a verdict."""

    item: Item
    answer: Answer | None
    why: str
    attempts: tuple[Attempt, ...]


class _Open:
    """A problem that is not told yet."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.attempts: list[Attempt] = []
        self.home: str | None = None
        self.home_until = 0.0

    @property
    def failed_on(self) -> set[str]:
        return {one.card for one in self.attempts if one.how in SUSPECT}

    @property
    def moves(self) -> int:
        return sum(one.how in SUSPECT for one in self.attempts)

    @property
    def deaths(self) -> int:
        return sum(one.how == "lost" for one in self.attempts)


class _Worker:
    def __init__(self, seen: Seen, now: float) -> None:
        self.seen, self.heard = seen, now
        self.item: int | None = None
        self.spoke = False


class Schedule:
    """The problems of one run. `now` is a time in seconds, from any clock that only goes forward."""

    def __init__(self, items: Iterable[Item], rules: Rules = RULES) -> None:
        self.rules = rules
        self._open = {item.key: _Open(item) for item in items}
        self._order = list(self._open)
        self._workers: dict[str, _Worker] = {}
        self._away: dict[str, tuple[str, float]] = {}
        self._strikes: Counter[str] = Counter()
        self._retired: dict[str, str] = {}
        self._led: set[str] = set()
        self._empty_since: float | None = None

    # What is known.

    @property
    def left(self) -> int:
        """How many problems are not told."""
        return len(self._open)

    @property
    def busy(self) -> dict[str, int]:
        """The problem of each worker that has one."""
        return {name: worker.item for name, worker in self._workers.items() if worker.item is not None}

    @property
    def workers(self) -> Sequence[Seen]:
        """Those that are there."""
        return [worker.seen for worker in self._workers.values()]

    @property
    def retired(self) -> dict[str, str]:
        """Cards that get no more problems, and why."""
        return dict(self._retired)

    def seen(self, worker: str) -> Seen | None:
        """A worker that is there."""
        found = self._workers.get(worker)
        return None if found is None else found.seen

    # What happens.

    def join(self, seen: Seen, now: float) -> str | None:
        """A worker is there. Why it is not used, or None."""
        if seen.card in self._retired:
            return f"its GPU gets no more problems: {self._retired[seen.card]}"
        holder = next((one.seen for one in self._workers.values() if one.seen.card == seen.card), None)
        if holder is not None and holder.worker != seen.worker:
            return f"its GPU {seen.card} has the worker {holder.worker} already, and two would be each other's noise"
        self._workers[seen.worker] = _Worker(seen, now)
        self._away.pop(seen.card, None)
        self._empty_since = None
        return None

    def heard(self, worker: str, now: float) -> None:
        """A sign of life."""
        if worker in self._workers:
            self._workers[worker].heard, self._workers[worker].spoke = now, True

    def assign(self, now: float) -> Iterator[tuple[str, int, int]]:
        """Give problems to workers that are free: worker, problem, and how often it was begun before."""
        for name, worker in self._workers.items():
            if worker.item is not None or worker.seen.card in self._retired:
                continue
            chosen = self._next_for(worker.seen, now)
            if chosen is not None:
                worker.item, worker.heard, worker.spoke = chosen.item.key, now, False
                yield name, chosen.item.key, len(chosen.attempts)

    def ended(self, worker: str, answer: Answer, now: float) -> list[Told]:
        """A worker's answer on its problem, and what is told by that."""
        held = self._workers.get(worker)
        if held is None or held.item != answer.item:
            return []  # Of a worker that was given up: somebody else has the problem by now.
        held.item, held.heard = None, now
        return self._ended(held.seen, answer, now)

    def gone(self, worker: str, how: How, why: str, now: float, *, returns: bool) -> list[Told]:
        """A worker went, or was given up: `how` is lost or hung. One that went without a word had not begun."""
        held = self._workers.pop(worker, None)
        if held is None:
            return []
        if returns and held.seen.card not in self._retired:
            self._away[held.seen.card] = held.seen.model, now + self.rules.away_s
        if held.item is None or (how == "lost" and not held.spoke):
            return []
        return self._ended(held.seen, Answer(held.item, how, why), now)

    def dismiss(self, worker: str, why: str) -> None:
        """Give this worker's GPU no more problems."""
        held = self._workers.get(worker)
        if held is not None:
            self._retired.setdefault(held.seen.card, why)

    def silent(self, now: float) -> list[str]:
        """Workers that have a problem and said nothing for too long."""
        limit = self.rules.silent_s
        return [name for name, one in self._workers.items() if one.item is not None and now - one.heard > limit]

    def give_up(self, now: float) -> list[Told]:
        """Tell what nobody is there to do, and nobody is expected to come for."""
        told: list[Told] = []
        for key in list(self._order):
            held = self._open.get(key)
            if held is None or key in self.busy.values() or self._waits_for_group(held):
                continue
            if self._can_come(held, now):
                continue
            before = f"{held.attempts[-1].why}; and " if held.attempts else ""
            told.append(self._tell(held, None, f"{before}{self._why_nobody(held.item.model)}"))
        return told

    def forget(self, key: int, why: str) -> list[Told]:
        """Tell a problem that could not even be sent."""
        for worker in self._workers.values():
            if worker.item == key:
                worker.item = None
        held = self._open.get(key)
        return [] if held is None else [self._tell(held, None, why)]

    # How it is decided.

    def _ended(self, seen: Seen, answer: Answer, now: float) -> list[Told]:
        held = self._open[answer.item]
        held.attempts.append(Attempt(seen.card, seen.worker, answer.how, answer.why))
        held.home = None
        if answer.how == "done":
            self._strikes[seen.card] = 0
            return [self._tell(held, answer, answer.why)]
        if answer.how == "unfit":
            self._retired.setdefault(seen.card, answer.why)
            return []
        if answer.how == "lost":
            if held.deaths > self.rules.deaths:
                return [self._tell(held, answer, f"its process was lost {held.deaths} times; the last: {answer.why}")]
            held.home, held.home_until = seen.card, now + self.rules.away_s
            return []
        moves = held.moves <= self.rules.moves and self._can_come(held, now)
        # Where no other can be asked, nobody says whose fault it is; but each that hangs costs minutes.
        if moves or len(held.failed_on) > 1 or answer.how == "hung":
            self._strike(seen.card, answer.why)
        if moves:
            return []
        if len(held.failed_on) > 1:
            # Several GPUs say the same: it is the problem's doing, and held against none of them.
            for card in held.failed_on:
                self._forgive(card)
        return [self._tell(held, answer, answer.why)]

    def _strike(self, card: str, why: str) -> None:
        self._strikes[card] += 1
        lost = self._strikes[card]
        if lost >= self.rules.strikes:
            self._retired.setdefault(card, f"it lost {lost} problems one after another, the last: {why}")

    def _forgive(self, card: str) -> None:
        self._strikes[card] = max(0, self._strikes[card] - 1)
        if self._strikes[card] < self.rules.strikes and self._retired.get(card, "").startswith("it lost "):
            del self._retired[card]

    def _tell(self, held: _Open, answer: Answer | None, why: str) -> Told:
        del self._open[held.item.key]
        if held.item.group is not None:
            self._led.add(held.item.group)
        return Told(held.item, answer, why, tuple(held.attempts))

    def _next_for(self, seen: Seen, now: float) -> _Open | None:
        fit = [held for key in self._order if (held := self._open.get(key)) is not None and self._may(held, seen, now)]
        # What it was at when it went comes first: its journal has the half of it.
        return next((held for held in fit if held.home == seen.card), fit[0] if fit else None)

    def _may(self, held: _Open, seen: Seen, now: float) -> bool:
        if held.item.model != seen.model or held.item.key in self.busy.values() or self._waits_for_group(held):
            return False
        if held.home not in (None, seen.card) and now < held.home_until and self._is_expected(held.home):
            return False
        return seen.card not in held.failed_on

    def _is_expected(self, card: str) -> bool:
        return card in self._away or any(one.seen.card == card for one in self._workers.values())

    def _waits_for_group(self, held: _Open) -> bool:
        group = held.item.group
        if group is None or group in self._led:
            return False
        first = next(key for key in self._order if key in self._open and self._open[key].item.group == group)
        return first != held.item.key

    def _can_come(self, held: _Open, now: float) -> bool:
        """Whether a GPU is there, or expected, that has not failed on it."""
        there = {one.seen.card for one in self._workers.values() if one.seen.model == held.item.model}
        away = {card for card, (model, until) in self._away.items() if model == held.item.model and now < until}
        if (there | away) - held.failed_on - self._retired.keys():
            self._empty_since = None
            return True
        if there | away or held.failed_on:
            return False
        # Nobody at all: of a cluster, workers may come yet.
        self._empty_since = now if self._empty_since is None else self._empty_since
        return now - self._empty_since < self.rules.empty_s

    def _why_nobody(self, model: str) -> str:
        why = "; ".join(dict.fromkeys(self._retired.values()))
        return f"no {model} is left to ask{f' ({why})' if why else ''}"
