"""The cases of a program while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from msgspec import structs

from fusetune.capture.above import Turn
from fusetune.capture.alike import MOST_ALIKE, Differing, Identity
from fusetune.capture.cases import Case

MOST_CASES: Final = 2000
BENCHMARKED: Final = "it is launched for this where triton.testing times it, and nowhere else"


class Seen:
    """A case, how often it was launched, and the events around its first launches.

    `benchmarked` counts the calls of triton.testing that timed it; see `settle_benchmarks`.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.launches, self.benchmarked = case, 0, 0
        self.events: list[tuple[Any, Any]] = []
        self.differing = Differing()

    def told(self) -> Case:
        """The case as it is by now. Events must have been reached."""
        us = self.case.us
        if self.events:
            mean_ms = sum(start.elapsed_time(end) for start, end in self.events) / len(self.events)
            us = round(mean_ms * 1e3 * self.launches, 3)
        findings = (*self.case.findings, *self.differing.told())
        names = self.differing.names()
        return structs.replace(self.case, launches=self.launches, us=us, findings=findings, differing=names)


class SeenCases:
    """All cases so far. `forget` is told the folders of those that turned out to be another's."""

    def __init__(self, forget: Callable[[str], None]) -> None:
        self._forget = forget
        self._by_identity: dict[Any, Seen] = {}
        self._alike: dict[Any, list[Seen]] = {}
        self._exact: set[Any] = set()

    def __iter__(self) -> Iterator[Seen]:
        return iter(dict.fromkeys(self._by_identity.values()))

    def knows(self, identity: Identity) -> bool:
        """Whether a launch of these arguments was seen before, with whatever config."""
        return identity.exact in self._exact

    def is_another(self, identity: Identity) -> bool:
        """Whether a launch that was not seen before belongs to a case all the same."""
        return len(self._alike.get(identity.but_numbers, ())) >= MOST_ALIKE

    def find(self, identity: Identity, before: Mapping[str, Any]) -> Seen | None:
        """The case of a launch; None for a new one. The first that is too many makes one of those it is like."""
        found = self._by_identity.get((identity.exact, repr(before)))
        if found is not None or not self.is_another(identity):
            return found
        first, *others = self._alike[identity.but_numbers]
        if others[0] is not first:
            self._fold(first, others)
            self._alike[identity.but_numbers] = [first] * MOST_ALIKE
        return first

    def add(self, identity: Identity, case: Case) -> Seen | None:
        """A new case; None where there are too many."""
        if len(self._by_identity) >= MOST_CASES:
            return None
        seen = self._by_identity[identity.exact, repr(case.before)] = Seen(case)
        self._exact.add(identity.exact)
        self._alike.setdefault(identity.but_numbers, []).append(seen)
        return seen

    def remove(self, seen: Seen) -> None:
        """Forget a case that was none of the program's."""
        self._by_identity = {key: one for key, one in self._by_identity.items() if one is not seen}
        self._alike = {key: [one for one in some if one is not seen] for key, some in self._alike.items()}
        if seen.case.kept is not None:
            self._forget(seen.case.kept)

    def settle_benchmarks(self) -> int:
        """Count what was benchmarked as launches, but where a kernel is launched for the same without: how often.

        That only timed it: other constants and options for what the program does, to compare them.
        """
        launched = {_work(one.case) for one in self if one.launches}
        timed = 0
        for one in list(self):
            count, one.benchmarked = one.benchmarked, 0
            if count and _work(one.case) not in launched:
                one.launches = count
                one.case = structs.replace(one.case, findings=(*one.case.findings, BENCHMARKED))
                continue
            timed += count
            if not one.launches:
                self.remove(one)
        return timed

    def _fold(self, first: Seen, others: list[Seen]) -> None:
        for one in others:
            first.launches += one.launches
            first.benchmarked += one.benchmarked
            first.events += one.events
            first.differing.add(one.differing)
            if one.case.kept is not None:
                self._forget(one.case.kept)
        folded = set(map(id, others))
        self._by_identity = {key: first if id(one) in folded else one for key, one in self._by_identity.items()}


def _work(case: Case) -> tuple[str, ...]:
    """A kernel and what it is given to compute: all but its constants and options."""
    return case.kernel.file, case.kernel.name, repr(case.tensors), repr(case.values)


def trials_of(turn: Turn) -> list[tuple[Seen, Any]]:
    """The launches of a tuner's turn that only timed: all but the last, where they tried configs of its list.

    What differs in anything else than that list's names, and launches of one config, are the program's.
    """
    names = {name for config in turn.tuner.configs if hasattr(config, "all_kwargs") for name in config.all_kwargs()}
    alike: dict[str, list[tuple[Seen, Any]]] = {}
    configs: dict[str, set[str]] = {}
    for seen, events in turn.launches:
        case = seen.case
        rest = {name: value for name, value in case.constants.items() if name not in names}
        key = repr((case.kernel, case.tensors, case.values, rest))
        tried = {name: one for name, one in {**case.constants, **case.before, **case.options}.items() if name in names}
        alike.setdefault(key, []).append((seen, events))
        configs.setdefault(key, set()).add(repr(sorted(tried.items())))
    return [one for key, some in alike.items() if len(configs[key]) > 1 for one in some[:-1]]
