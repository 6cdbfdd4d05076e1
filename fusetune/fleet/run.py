"""One run of a fleet: from a list of tasks, through whatever happens to workers, to an outcome for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import structs

from fusetune.core.progress import Progress
from fusetune.core.text import slugify
from fusetune.errors import FusetuneError, NothingTunedError, NoUsableGpuError
from fusetune.fleet.collect import kept_here
from fusetune.fleet.schedule import RULES, Attempt, Item, Rules, Schedule, Told
from fusetune.fleet.sending import Files, work_of
from fusetune.fleet.versions import differences, versions_here, why_unlike
from fusetune.fleet.view import View
from fusetune.fleet.words import SUSPECT, Ended, Event, Joined, Left, Refused, Said, Seen, Work
from fusetune.tune.request import SweepRequest, SweepResult, new_run_id

LOOK_EVERY_S: Final = 1.0
MOST_AT_ONCE: Final = 200
CANDIDATE_LIMIT_S: Final = 20.0


class Executor(Protocol):
    """What has workers. `same_disk`: they read and write where the client does."""

    @property
    def same_disk(self) -> bool:
        """See above."""

    def event(self, limit_s: float) -> Event | None:
        """The next thing that happens; None where nothing does for so long."""

    def begin(self, worker: str, work: Work) -> None:
        """Give a worker a problem."""

    def end(self, worker: str) -> bool:
        """End a worker that hangs; whether another one is expected in its place."""

    def close(self) -> None:
        """End what was begun."""


class Task(msgspec.Struct, frozen=True):
    """One problem. `name` says what it is to people; those of a `group` wait for the first of it.

    `request` is asked when a GPU is free for it, and says what to tune there; it may raise FusetuneError.
    """

    name: str
    request: Callable[[Seen], SweepRequest]
    group: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a task on one model of GPU: a result, or the error that ended it.

    `worker` had it last, `attempts` are all that had it, and `seconds` what the last one took.
    """

    task: int
    model: str
    worker: str | None
    request: SweepRequest | None
    result: SweepResult | None = None
    error: FusetuneError | None = None
    attempts: tuple[Attempt, ...] = ()
    seconds: float = 0.0

    @property
    def moved(self) -> tuple[Attempt, ...]:
        """The attempts that cost a GPU, or a process, its problem."""
        return tuple(one for one in self.attempts if one.how != "done")


class Fleet:
    """Workers, and what the user hears of them. `limit_s` is for one candidate; `workers` compile at once on a host."""

    def __init__(
        self,
        executor: Executor,
        progress: Progress,
        *,
        rules: Rules = RULES,
        limit_s: float = CANDIDATE_LIMIT_S,
        workers: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor, self._progress, self._rules, self._clock = executor, progress, rules, clock
        self._limit_s, self._workers = limit_s, workers
        self._ours = versions_here()
        self._since = new_run_id()[: len("20261123T101500-")]  # Of all that begin from this second on.
        self._there: dict[str, Seen] = {}
        self._where: dict[str, str] = {}
        self._tasks: Sequence[Task] = ()
        self._items: dict[int, tuple[int, Item]] = {}
        self._requests: dict[int, SweepRequest] = {}
        self._errors: dict[int, FusetuneError] = {}
        self._schedule = Schedule(())
        self._files = Files()

    def gather(self, count: int, limit_s: float) -> tuple[Seen, ...]:
        """Wait until so many workers have joined or been refused, at least one, or so long; those that joined.

        Raises NoUsableGpuError where none did, with why.
        """
        until, answered = self._clock() + limit_s, 0
        refused: list[str] = []
        while (answered < count or not (self._there or refused)) and (left := until - self._clock()) > 0:
            event = self._executor.event(min(left, LOOK_EVERY_S))
            if isinstance(event, Joined):
                answered += 1
                why = why_unlike(event.seen, self._ours)
                if why is None:
                    self._join_early(event.seen)
                else:
                    refused.append(self._refuse(event.seen.worker, why))
            elif isinstance(event, Refused):
                told = self._refuse(event.worker, event.why)
                if event.has_gpu:
                    answered += 1
                    refused.append(told)
            elif isinstance(event, Left):
                self._there.pop(event.worker, None)
        if not self._there:
            why = f": {'; '.join(refused)}" if refused else f" within {limit_s:.0f} s"
            raise NoUsableGpuError(f"no worker could be used{why}")
        return tuple(self._there.values())

    def run(self, tasks: Sequence[Task], told: Callable[[Outcome], None], gpu: str | None = None) -> list[Outcome]:
        """Tune each task once for each model of GPU that was gathered; `told` hears of each as it ends.

        With `gpu` only for the model of that name. Raises NoUsableGpuError where nobody has one.
        """
        self._tasks = tasks
        there = self._there.values()
        models = list(dict.fromkeys(seen.model for seen in there if gpu is None or slugify(seen.gpu) == slugify(gpu)))
        if not models:
            others = ", ".join(dict.fromkeys(seen.gpu for seen in there))
            raise NoUsableGpuError(f"this is to be tuned on a {gpu}, and the workers have {others}")
        pairs = [(task, model) for model in models for task in range(len(tasks))]
        self._items = {
            key: (task, Item(key, model, _group(tasks[task], model))) for key, (task, model) in enumerate(pairs)
        }
        self._schedule = Schedule((item for _, item in self._items.values()), self._rules)
        for seen in self._there.values():
            self._join(seen, models)
        outcomes: list[Outcome] = []
        count = len(self._schedule.workers)
        title = f"{len(pairs)} problems on {count} GPU{'s' if count != 1 else ''}"
        with self._progress.phase(title, len(pairs)) as phase, View(self._progress, phase) as view:
            for end in self._ends(models, view):
                outcome = self._outcome(end)
                outcomes.append(outcome)
                phase.advance()
                told(outcome)
        return outcomes

    def say(self, text: str) -> None:
        """A line for the user, beside what is shown of the run."""
        self._progress.say(text)

    def close(self) -> None:
        """End the workers; what they are at is dropped."""
        self._executor.close()

    @property
    def retired(self) -> dict[str, str]:
        """GPUs that got no more problems, by their workers' names, and why."""
        names = {seen.card: seen.worker for seen in self._there.values()}
        return {names.get(card, card): why for card, why in self._schedule.retired.items()}

    # What happens.

    def _ends(self, models: Sequence[str], view: View) -> Iterator[Told]:
        yield from self._hand_out()
        while self._schedule.left:
            ends = list(self._all_that_happened(models))
            now = self._clock()
            for worker in self._schedule.silent(now):
                last = self._where.get(worker, "nothing")
                why = f"{worker} said nothing for {self._rules.silent_s:.0f} s; the last was: {last}"
                self._progress.warn(f"{why}. It is ended")
                returns = self._executor.end(worker)
                ends += self._schedule.gone(worker, "hung", why, now, returns=returns)
            ends += self._schedule.give_up(now)
            ends += self._hand_out()  # Before what ended is written: no GPU waits for that.
            view.show(self._at())
            yield from ends

    def _all_that_happened(self, models: Sequence[str]) -> Iterator[Told]:
        """Until nothing waits any more: who is silent can be said only when all is heard."""
        event, limit = self._executor.event(LOOK_EVERY_S), MOST_AT_ONCE
        while event is not None and limit:
            yield from self._happened(event, models, self._clock())
            event, limit = self._executor.event(0.0), limit - 1

    def _hand_out(self) -> Iterator[Told]:
        for worker, key, begun in list(self._schedule.assign(self._clock())):
            seen = self._schedule.seen(worker)
            assert seen is not None, "it was assigned to just now"
            task, _ = self._items[key]
            try:
                request = self._tasks[task].request(seen)
                self._requests[key] = request
                sent = structs.replace(request, workers=self._share(seen))
                if begun and request.fresh:  # What this run measured before its process was lost is not old.
                    sent = structs.replace(sent, fresh=False, since=self._since)
                work = work_of(key, sent, seen, self._files, limit_s=self._limit_s, same_disk=self._executor.same_disk)
            except FusetuneError as error:
                self._errors[key] = error
                yield from self._schedule.forget(key, str(error))
                continue
            self._where[worker] = "begins"
            self._executor.begin(worker, work)

    def _happened(self, event: Event, models: Sequence[str], now: float) -> Iterator[Told]:
        if isinstance(event, Joined):
            self._join(event.seen, models)
        elif isinstance(event, Refused):
            self._refuse(event.worker, event.why)
        elif isinstance(event, Said):
            self._said(event, now)
        elif isinstance(event, Left):
            if not event.returns or event.worker in self._schedule.busy:
                self._progress.say(f"{event.worker}: {event.why}{'; it is begun again' if event.returns else ''}")
            yield from self._schedule.gone(event.worker, "lost", event.why, now, returns=event.returns)
        else:
            yield from self._answered(event, now)

    def _answered(self, event: Ended, now: float) -> Iterator[Told]:
        answer = event.answer
        held = self._schedule.busy.get(event.worker) == answer.item
        if held and answer.how in SUSPECT | {"unfit"}:
            self._progress.warn(f"{event.worker} loses {self._name(answer.item)} ({answer.how}): {answer.why}")
        yield from self._schedule.ended(event.worker, answer, now)

    def _said(self, event: Said, now: float) -> None:
        self._schedule.heard(event.worker, now)
        if event.warning:
            item = self._schedule.busy.get(event.worker)
            of = "" if item is None else f", {self._name(item)}"
            self._progress.warn(f"{event.worker}{of}: {event.text}")
        else:
            self._where[event.worker] = event.text

    def _join_early(self, seen: Seen) -> None:
        for told in differences(seen, tuple(self._there.values()), self._ours):
            self._progress.warn(f"{seen.worker} is used, and has {told}")
        self._there[seen.worker] = seen

    def _join(self, seen: Seen, models: Sequence[str]) -> None:
        why = why_unlike(seen, self._ours)
        if why is None and seen.model not in models:
            why = f"it has a {seen.model}, and this run began without one; run the command again for it"
        if why is None:
            if seen.worker not in self._there:
                self._join_early(seen)
            why = self._schedule.join(seen, self._clock())
        if why is not None:
            self._refuse(seen.worker, why)

    def _refuse(self, worker: str, why: str) -> str:
        told = f"{worker} is not used: {why}"
        self._progress.warn(told)
        return told

    # What comes of it.

    def _outcome(self, told: Told) -> Outcome:
        task, item = self._items[told.item.key]
        answer, request = told.answer, self._requests.get(item.key)
        last = told.attempts[-1] if told.attempts else None
        outcome = Outcome(
            task=task,
            model=item.model,
            worker=None if last is None else last.worker,
            request=request,
            attempts=told.attempts,
            seconds=0.0 if answer is None else answer.seconds,
        )
        if answer is not None and answer.result is not None and request is not None:
            try:
                return structs.replace(outcome, result=kept_here(request, answer))
            except FusetuneError as error:
                return structs.replace(outcome, error=error)
        return structs.replace(outcome, error=self._error_of(told))

    def _error_of(self, told: Told) -> FusetuneError:
        if told.item.key in self._errors:
            return self._errors[told.item.key]
        if told.answer is not None and isinstance(told.answer.error, FusetuneError):
            return told.answer.error
        return NothingTunedError(told.why)

    def _share(self, seen: Seen) -> int:
        """The processes of its host that may compile for it, among the GPUs that have something to do."""
        there = sum(one.host == seen.host for one in self._schedule.workers)
        return compiling_for_each(min(there, self._schedule.left), seen.cores, self._workers)

    def _name(self, key: int) -> str:
        return self._tasks[self._items[key][0]].name

    def _at(self) -> dict[str, tuple[str, str]]:
        """Each worker that has a problem, with which, and where it is with it."""
        at = self._schedule.busy
        return {worker: (self._name(key), self._where.get(worker, "")) for worker, key in at.items()}


def compiling_for_each(gpus: int, cores: int, workers: int | None) -> int:
    """How many may compile at once for each of so many GPUs of a machine: an equal part of its cores, or of `workers`.

    Each GPU keeps a core for what times on it.
    """
    gpus = max(1, gpus)
    return max(1, (cores - gpus if workers is None else workers) // gpus)


def _group(task: Task, model: str) -> str | None:
    return None if task.group is None else f"{model} {task.group}"
