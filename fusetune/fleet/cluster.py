"""The GPUs of a Dask cluster: workers that come and go, each asked what it is before it is given anything.

Only this module, `hosted` and `nannies` know Dask, and they import it in functions: it is an extra of the package.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

import yaml

from fusetune.core.extras import install_line
from fusetune.errors import MachineError, MissingPackageError, UsageError
from fusetune.fleet import hosted
from fusetune.fleet.lane import Begin
from fusetune.fleet.lanes import SILENT_ENDS
from fusetune.fleet.words import Answer, Ended, Event, Joined, Left, Refused, Said, Seen, Work
from fusetune.tune.request import new_run_id

CONNECT_LIMIT_S: Final = 20.0
LOOK_EVERY_S: Final = 0.5
KILL_LIMIT_S: Final = 15.0
CLOSE_LIMIT_S: Final = 15.0
SCATTERED_BYTES: Final = 1 << 20
"""What is larger goes to the worker's memory first, since a task is to be small."""
GPU: Final = {"GPU": 1}


class Hosted(NamedTuple):
    """What is called on a worker; another one in tests."""

    facts: Callable[..., Any] = hosted.facts
    perform: Callable[..., Any] = hosted.perform
    kill: Callable[..., Any] = hosted.kill
    part: Callable[..., Any] = hosted.part


class _There:
    """A worker that the scheduler knows."""

    def __init__(self, address: str, name: str, *, has_nanny: bool) -> None:
        self.address, self.name, self.has_nanny = address, name, has_nanny
        self.seen: Seen | None = None
        self.future: Any = None
        self.item: int | None = None
        self.spoke = self.is_ended = False
        self.silent_ends = 0


class ClusterExecutor:
    """Workers of the cluster that a client is connected to; those without a GPU among their resources are not used."""

    same_disk: Final = False

    def __init__(self, client: Any, begin: Begin, calls: Hosted = Hosted()) -> None:  # noqa: B008 - it is immutable
        self._client, self._begin, self._calls = client, begin, calls
        self._run = new_run_id()
        self._topic = f"fusetune-{self._run}"
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._there: dict[str, _There] = {}
        self._told: set[str] = set()
        self._looked = float("-inf")
        client.subscribe_topic(self._topic, self._heard)

    def expected(self) -> int:
        """How many workers with a GPU the scheduler knows now."""
        self._look()
        return len(self._there)

    def event(self, limit_s: float) -> Event | None:
        """The next thing that happens; None where nothing does for so long."""
        until = time.monotonic() + limit_s
        while True:
            self._look()
            left = until - time.monotonic()
            try:
                return self._events.get(timeout=max(0.0, min(left, LOOK_EVERY_S)))
            except Empty:
                if left <= 0:
                    return None

    def begin(self, worker: str, work: Work) -> None:
        """Give a worker a problem."""
        there = self._named(worker)
        if there is None:
            self._events.put(Left(worker, "its worker left the cluster", returns=False))
            return
        sent: Any = pickle.dumps(work)
        if len(sent) > SCATTERED_BYTES:
            try:
                sent = self._client.scatter(sent, workers=[there.address], hash=False)
            except Exception as error:  # noqa: BLE001 - the scheduler passes on whatever a worker that goes raises
                why = f"it could not be sent to: {type(error).__name__}: {error}"
                self._events.put(Left(worker, why, returns=False))
                return
        there.item, there.spoke, there.is_ended = work.item, False, False
        there.future = self._submit(there, self._calls.perform, self._run, self._topic, sent)
        there.future.add_done_callback(lambda future: self._ended(there, work.item, future))

    def end(self, worker: str) -> bool:
        """End a worker that hangs: its lane, or if that does not help its process, where it has a nanny."""
        there = self._named(worker)
        if there is not None:
            there.is_ended = True
            threading.Thread(target=self._end, args=(there,), daemon=True).start()
        return True

    def close(self) -> None:
        """End what was begun on the workers, and leave the cluster as it was."""
        there = dict(self._there)
        # Dask has no limit for this, and a worker that stands still would never answer.
        tidying = threading.Thread(target=self._tidy, args=(there,), daemon=True)
        tidying.start()
        tidying.join(CLOSE_LIMIT_S)
        with contextlib.suppress(asyncio.TimeoutError):
            self._client.close(timeout=CLOSE_LIMIT_S)

    def _tidy(self, there: Mapping[str, _There]) -> None:
        futures = [one.future for one in there.values() if one.future is not None]
        with contextlib.suppress(Exception):  # The cluster may be gone; there is nothing left to be tidied then.
            self._client.unsubscribe_topic(self._topic)
            self._client.cancel(futures)
            self._client.run(self._calls.part, self._run, workers=list(there), on_error="ignore")

    # Who is there.

    def _look(self) -> None:
        """Ask the scheduler who is there, unless it was asked a moment ago. Raises MachineError without an answer."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            # Not `scheduler_info`: a periodic one of the client, which lists none, may come between.
            known: Mapping[str, Any] = self._client.sync(self._client.scheduler.identity)["workers"]
        except OSError as error:
            raise MachineError(
                f"the scheduler does not answer any more ({error}); what was kept is written, the same command goes on"
            ) from error
        for address, about in known.items():
            if address not in self._there:
                self._came(address, about)
        for address in [one for one in self._there if one not in known]:
            self._went(address)

    def _came(self, address: str, about: Mapping[str, Any]) -> None:
        name = str(about.get("name", address))
        if not about.get("resources", {}).get("GPU"):
            if address not in self._told:
                self._told.add(address)
                why = "it has no GPU among its resources: start it with `fusetune worker`, or with --resources GPU=1"
                self._events.put(Refused(name, why, has_gpu=False))
            return
        there = self._there[address] = _There(address, name, has_nanny=bool(about.get("nanny")))
        there.future = self._submit(there, self._calls.facts, self._run, self._begin)
        there.future.add_done_callback(lambda future: self._introduced(there, future))

    def _went(self, address: str) -> None:
        there = self._there.pop(address)
        if there.future is not None:
            self._client.cancel([there.future])
        why = "its worker left the cluster"
        if there.seen is not None:
            self._events.put(Left(there.name, why, returns=there.has_nanny))
        else:
            self._events.put(Refused(there.name, why))

    def _named(self, worker: str) -> _There | None:
        # Of a copy: a thread of the client asks, too.
        return next((one for one in list(self._there.values()) if one.name == worker and one.seen is not None), None)

    # What comes back. These run in threads of the client.

    def _submit(self, there: _There, call: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(
            call, *arguments, workers=[there.address], allow_other_workers=False, resources=GPU, pure=False, retries=0
        )

    def _introduced(self, there: _There, future: Any) -> None:
        if future.cancelled():
            return
        error = future.exception()
        found = f"what it is cannot be asked: {type(error).__name__}: {error}" if error else future.result()
        if isinstance(found, Seen):
            there.seen, there.name = found, found.worker
            self._events.put(Joined(found))
        else:
            self._events.put(Refused(there.name, str(found)))

    def _ended(self, there: _There, item: int, future: Any) -> None:
        if future.cancelled() or there.future is not future:
            return
        there.item = None
        error = future.exception()
        answer: Answer = future.result() if error is None else _not_done(item, error)
        if answer.how != "lost" and not there.is_ended:
            there.silent_ends = 0
            self._events.put(Ended(there.name, answer))
            return
        # Its lane was lost, and another one is there already; or it was given up, and answers after all.
        there.silent_ends = 0 if there.spoke or there.is_ended else there.silent_ends + 1
        again = there.silent_ends < SILENT_ENDS
        self._events.put(Left(there.name, answer.why, returns=again))
        assert there.seen is not None, "it was given something"
        if again:
            self._events.put(Joined(there.seen))

    def _heard(self, event: Any) -> None:
        told = event[1]  # What Dask adds to it is the worker's address.
        there = self._named(told["name"])
        if there is not None:
            there.spoke = True
        self._events.put(Said(told["name"], told["text"], bool(told["warning"])))

    def _end(self, there: _There) -> None:
        future = there.future
        with contextlib.suppress(Exception):  # A worker that does not even answer is restarted below.
            self._client.run(self._calls.kill, self._run, workers=[there.address], on_error="ignore")
        until = time.monotonic() + KILL_LIMIT_S
        while time.monotonic() < until:
            if future is None or future.done():
                return
            time.sleep(0.1)
        if there.has_nanny:
            with contextlib.suppress(Exception):  # Who does not come back is missed by `_look`.
                self._client.restart_workers([there.address], timeout=KILL_LIMIT_S, raise_for_error=False)


def _not_done(item: int, error: BaseException) -> Answer:
    return Answer(item, "threw", f"its worker could not do it: {type(error).__name__}: {error}")


def connected(scheduler: str | None, dask_config: Path | None) -> Any:
    """A client of the cluster at this address, or where a file of Dask's configuration says.

    Raises MissingPackageError without Dask, UsageError for a file or an address that is none, MachineError where nobody
    answers.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError(f"a cluster needs Dask ({error}): {install_line('fleet')}") from error
    if dask_config is not None:
        dask.config.update(dask.config.config, _configuration(dask_config))
        scheduler = dask.config.get("scheduler-address", None)
        if not scheduler:
            raise UsageError(f"{dask_config} says no scheduler: add scheduler-address: tcp://HOST:PORT")
    try:
        return Client(scheduler, timeout=CONNECT_LIMIT_S, set_as_default=False)
    except (OSError, asyncio.TimeoutError) as error:  # Of Python 3.10 the second is none of the first.
        raise MachineError(
            f"no scheduler answers at {scheduler}: {error or type(error).__name__}; start one with `dask scheduler`"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: it asks for TLS, and the address is tcp://.
        raise UsageError(f"--scheduler {scheduler}: {error}; write tcp://HOST:PORT") from error


def _configuration(path: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict):
        raise UsageError(f"{path} is no configuration of Dask: a mapping, as in scheduler-address: tcp://HOST:PORT")
    return told
