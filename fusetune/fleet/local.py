"""The GPUs of this machine: a lane for each, begun again where it was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, Queue
from typing import Final

from fusetune.fleet.gpus import GpuHere
from fusetune.fleet.lane import Begin
from fusetune.fleet.lanes import SILENT_ENDS, Lane, LostError
from fusetune.fleet.versions import seen_here
from fusetune.fleet.words import Ended, Event, Joined, Left, Said, Seen, Work

PART_LIMIT_S: Final = 20.0
"""So long a lane that is idle may take to end, as while it still loads; then it is killed."""


class LocalExecutor:
    """Lanes of GPUs here. Journals lie in the user's folder, `begin.runs`, where a lane begun once more finds them."""

    same_disk: Final = True

    def __init__(self, gpus: Sequence[GpuHere], begin: Begin) -> None:
        # Each with its lane: what is given to a worker is for the process that joined, and not for one after it.
        self._events: Queue[tuple[Event, Lane]] = Queue()
        self._begin = begin
        self._closing = threading.Event()
        self._joined: dict[str, Lane] = {}
        self._latest = {gpu.uuid: Lane(gpu.uuid, begin) for gpu in gpus}
        seen = [seen_here(f"GPU {gpu.index}", gpu) for gpu in gpus]
        self._threads = [threading.Thread(target=self._serve, args=(one,), daemon=True) for one in seen]
        for thread in self._threads:
            thread.start()

    def event(self, limit_s: float) -> Event | None:
        """The next thing that happens; None where nothing does for so long."""
        try:
            event, lane = self._events.get(timeout=limit_s)
        except Empty:
            return None
        if isinstance(event, Joined):
            self._joined[event.seen.worker] = lane
        return event

    def begin(self, worker: str, work: Work) -> None:
        """Give a worker a problem."""
        self._joined[worker].give(work)

    def end(self, worker: str) -> bool:
        """End a worker that hangs; whether another one is begun in its place, which then joins."""
        self._joined[worker].kill()
        return True

    def close(self) -> None:
        """End all lanes, at once where they are at something."""
        self._closing.set()
        for lane in list(self._latest.values()):
            lane.kill() if lane.is_busy else lane.part()
        until = time.monotonic() + PART_LIMIT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for lane in list(self._latest.values()):
            lane.kill()
        for thread in self._threads:
            thread.join()

    def _serve(self, seen: Seen) -> None:
        silent = 0
        while True:
            lane = self._latest[seen.card]
            if self._closing.is_set():
                lane.kill()
            self._events.put((Joined(seen), lane))
            why, spoke = self._listened(lane, seen.worker)
            lane.close()
            silent = 0 if spoke else silent + 1
            if self._closing.is_set():
                return
            again = None
            if silent < SILENT_ENDS:
                try:
                    again = self._latest[seen.card] = Lane(seen.card, self._begin)
                except OSError as error:  # No memory for a process, or no room: the other GPUs go on.
                    why = f"{why}; it cannot be begun again: {error}"
            self._events.put((Left(seen.worker, why, returns=again is not None), lane))
            if again is None:
                return

    def _listened(self, lane: Lane, worker: str) -> tuple[str, bool]:
        """Pass on what a lane says until it is lost; why it was, and whether it said anything."""
        spoke = False

        def say(text: str, warning: bool) -> None:
            nonlocal spoke
            spoke = True
            self._events.put((Said(worker, text, warning), lane))

        try:
            while True:
                self._events.put((Ended(worker, lane.listen(say)), lane))
        except LostError as lost:
            return str(lost), spoke
