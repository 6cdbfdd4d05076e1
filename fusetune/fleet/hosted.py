"""What runs in a Dask worker: it says which GPU it has, and passes problems on to a lane of its own.

The lane is a process beside the worker's, as on one machine: what breaks it breaks no worker, and a hang can be ended.
"""

from __future__ import annotations

import pickle
import threading
import time
from contextlib import ExitStack
from typing import Any, Final

import platformdirs
from msgspec import structs

from fusetune.errors import FusetuneError, NoUsableGpuError
from fusetune.fleet.gpus import gpus_here
from fusetune.fleet.holding import held_for_workers
from fusetune.fleet.lane import Begin
from fusetune.fleet.lanes import Lane, LostError
from fusetune.fleet.versions import seen_here
from fusetune.fleet.words import Answer, Seen, Work

FORGOTTEN_AFTER_S: Final = 600.0
"""A lane of another client that has been idle for so long is ended: its client is gone."""


class _Hosted:
    """One worker's GPU, held from the first question on until the worker ends, and its lanes by run."""

    def __init__(self, worker: str) -> None:
        found = gpus_here()
        if len(found) != 1:
            numbers = ", ".join(str(gpu.index) for gpu in found)
            raise NoUsableGpuError(
                f"it sees {len(found)} GPUs ({numbers}), and a worker has one: start it with `fusetune worker`, or "
                "give each its own CUDA_VISIBLE_DEVICES"
            )
        (gpu,) = found
        self._holding = ExitStack()
        self._holding.enter_context(held_for_workers([gpu.uuid]))
        self._lanes: dict[str, tuple[Lane, Begin, float]] = {}
        self.seen = seen_here(worker, gpu)

    def begin(self, run: str, begin: Begin) -> None:
        """Have a lane for a run, which begins to load."""
        now = time.monotonic()
        for other, (lane, _, used) in list(self._lanes.items()):
            if other == run or (not lane.is_busy and now - used > FORGOTTEN_AFTER_S):
                del self._lanes[other]
                lane.close()
        here = structs.replace(begin, runs=str(platformdirs.user_cache_path("fusetune") / "fleet-runs"))
        self._lanes[run] = Lane(self.seen.card, structs.replace(here, sends_journals=True)), begin, now

    def perform(self, run: str, work: Work, say: Any) -> Answer:
        """Pass a problem to the run's lane. One that is lost is begun again before that is told."""
        lane, begin, _ = self._lanes[run]
        lane.give(work)
        try:
            return lane.listen(say)
        except LostError as lost:
            if run in self._lanes:  # Else the run is over, and it was ended for that.
                self.begin(run, begin)
            return Answer(work.item, "lost", str(lost))
        finally:
            if run in self._lanes:
                self._lanes[run] = (*self._lanes[run][:2], time.monotonic())

    def kill(self, run: str) -> None:
        """End the run's lane, whatever it is at; whoever listens begins another."""
        if run in self._lanes:
            self._lanes[run][0].kill()

    def close(self) -> None:
        """End all lanes, and let go of the GPU."""
        for run in list(self._lanes):
            self.part(run)
        self._holding.close()

    def part(self, run: str) -> None:
        """End the run's lane for good."""
        held = self._lanes.pop(run, None)
        if held is not None:
            held[0].close()


def release() -> None:
    """Let go of all GPUs that this process holds, as its end would."""
    for held in _hosted.values():
        held.close()
    _hosted.clear()


_hosted: dict[str, _Hosted] = {}
"""By the address of the worker: several may be in one process, as in a LocalCluster of threads."""
_lock = threading.Lock()


def facts(run: str, begin: Begin) -> Seen | str:
    """Which GPU this worker has, with a lane for the run; or why none can be used, in a sentence."""
    from distributed import get_worker

    worker = get_worker()
    try:
        with _lock:
            if worker.address not in _hosted:
                _hosted[worker.address] = _Hosted(str(worker.name))
        hosted = _hosted[worker.address]
        hosted.begin(run, begin)
    except (FusetuneError, OSError) as error:
        return str(error)
    return hosted.seen


def perform(run: str, topic: str, sent: bytes) -> Answer:
    """Tune one problem on this worker's GPU; what is said meanwhile goes to the topic."""
    from distributed import get_worker

    worker = get_worker()
    hosted = _hosted[worker.address]

    def say(text: str, warning: bool) -> None:
        worker.log_event(topic, {"name": hosted.seen.worker, "text": text, "warning": warning})

    return hosted.perform(run, pickle.loads(sent), say)


def kill(run: str, dask_worker: Any = None) -> None:
    """End a lane that hangs. Called on the worker's event loop, since its thread is the one that waits."""
    hosted = _hosted.get(dask_worker.address)
    if hosted is not None:
        hosted.kill(run)


def part(run: str, dask_worker: Any = None) -> None:
    """End the lane of a run that is over."""
    hosted = _hosted.get(dask_worker.address)
    if hosted is not None:
        hosted.part(run)
