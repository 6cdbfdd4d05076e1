"""A Dask cluster in one process whose GPUs are simulated, each with a temper by the name of its worker."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

from fusetune.core.progress import SilentProgress
from fusetune.fleet.cluster import ClusterExecutor, Hosted
from fusetune.fleet.lane import Begin, Lane
from fusetune.fleet.run import Fleet
from fusetune.fleet.schedule import Rules
from fusetune.fleet.versions import versions_here
from fusetune.fleet.words import Answer, Seen, Work
from fusetune.ops.spec import KernelSpec
from fusetune.store.yaml_files import dump_config_file
from fusetune.store.yaml_reader import parse_config_file
from fusetune.tune.request import SweepRequest, new_run_id
from fusetune.tune.sweep import sweep
from tests.support.simulated_lane import GPU, Simulated

GPUS = {"GPU": 1}


class Temper:
    """What is wrong with a worker: from its problem of this number on, it dies or hangs; `noisy` are so many."""

    def __init__(
        self,
        *,
        dies_at: int | None = None,
        hangs_at: int | None = None,
        noisy: int = 0,
        slow_s: float = 0.0,
        unfit: bool = False,
        **seen: Any,
    ) -> None:
        self.dies_at, self.hangs_at, self.noisy, self.slow_s, self.unfit = dies_at, hangs_at, noisy, slow_s, unfit
        self.seen = seen


class Cluster:
    """What the workers of a test are, and what each was asked; `released` lets go of threads that hang.

    One problem of `every` so many is swept, on the simulated GPU; of others the last sweep's outcome is given.
    """

    def __init__(
        self, folder: Path, tempers: dict[str, Temper], broken: frozenset[int] = frozenset(), every: int = 1
    ) -> None:
        self.folder, self.tempers, self.broken, self.every = folder, tempers, broken, every
        self.swept: Answer | None = None
        self.released = threading.Event()
        self.asked: defaultdict[str, list[int]] = defaultdict(list)
        self.parted: list[str] = []

    def sweep_once(self, request: SweepRequest) -> None:
        """Load in one thread what sweeps need: of eight at once each would wait for the others."""
        sweep(request, Simulated(request.problem, "GPU-first", {}), SilentProgress())

    def temper(self, name: str) -> Temper:
        return self.tempers.setdefault(name, Temper())


now: Cluster
"""Of the test that runs: what is called on a worker finds it here, since all are in one process."""


def facts(run: str, begin: Begin) -> Seen | str:
    from distributed import get_worker

    name = str(get_worker().name)
    seen = Seen(name, f"GPU-{name}", GPU.name, GPU.capability, host=f"host{name}", cores=4, **versions_here())
    return structs.replace(seen, **now.temper(name).seen)


def perform(run: str, topic: str, sent: bytes) -> Answer:
    from distributed import get_worker

    worker = get_worker()
    work: Work = pickle.loads(sent)
    name, temper = str(worker.name), now.temper(str(worker.name))
    now.asked[name].append(work.item)
    number = len(now.asked[name])

    def say(text: str, warning: bool) -> None:
        worker.log_event(topic, {"name": name, "text": text, "warning": warning})

    if temper.unfit:
        return Answer(work.item, "unfit", "another source of the kernel is here")
    if work.item in now.broken:
        return Answer(work.item, "threw", "an illegal address, wherever it is tried")
    if temper.dies_at is not None and number >= temper.dies_at:
        say("Loading", False)
        time.sleep(0.5)  # So that it is heard: who goes before a word had not begun.
        worker.loop.add_callback(worker.close, nanny=False)
        now.released.wait(60)
    if temper.hangs_at is not None and number >= temper.hangs_at:
        now.released.wait(60)
    time.sleep(temper.slow_s)
    noisy = temper.noisy > 0
    temper.noisy -= noisy
    if now.swept is not None and not noisy and work.item % now.every:
        say("Loading", False)
        return as_swept(now.swept, work)

    def measuring(spec: KernelSpec, request: SweepRequest, limit_s: float) -> Simulated:
        return Simulated(request.problem, f"GPU-{name}", {"noisy": noisy}, seed=work.item)

    folder = now.folder / "workers" / name
    lane = Lane(Begin(str(folder / "runs"), str(folder), sends_journals=True), say, measuring)
    answer = lane.perform(work)
    lane.close()
    now.swept = answer if answer.result is not None else now.swept
    return answer


def as_swept(answer: Answer, work: Work) -> Answer:
    """What another problem's sweep gave, as if it were of this one: the same verdict, under a name of its own."""
    run, request = new_run_id(), pickle.loads(work.payload)["request"]
    entry = structs.replace(answer.result.entry, problem=request["problem"], run=run)
    text = parse_config_file(answer.file or "", Path("swept.yaml"))
    file = dump_config_file(structs.replace(text, entries=(entry,)))
    assert answer.journal is not None, "journals are sent"
    result = structs.replace(answer.result, entry=entry, run=run)
    return structs.replace(
        answer, item=work.item, result=result, file=file, journal=(f"{run}.jsonl", answer.journal[1])
    )


def kill(run: str, dask_worker: Any = None) -> None:
    """A hang that no signal ends."""


def part(run: str, dask_worker: Any = None) -> None:
    now.parted.append(str(dask_worker.name))


class Heard(SilentProgress):
    """What the user would hear."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def opened(cluster: Cluster, count: int, rules: Rules) -> Iterator[tuple[Fleet, Heard, Any]]:
    """A fleet on a LocalCluster of so many workers, named 0, 1 and so on, and what is heard of it."""
    import dask
    from distributed import Client, LocalCluster

    global now  # noqa: PLW0603 - the workers are threads of this process
    now = cluster
    heard = Heard()
    quiet = {"distributed.admin.log-length": 1000, "logging": {"distributed": "critical"}}
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=False,
            resources=GPUS,
            dashboard_address=None,
            worker_dashboard_address=None,
            silence_logs=60,
        ) as local,
    ):
        client = Client(local, set_as_default=False)
        executor = ClusterExecutor(client, Begin(""), Hosted(facts, perform, kill, part))
        try:
            fleet = Fleet(executor, heard, rules=rules)
            fleet.gather(executor.expected(), 30.0)
            yield fleet, heard, local
        finally:
            cluster.released.set()
            executor.close()


def counted(cluster: Cluster) -> Counter[int]:
    """How often each problem was given to a worker."""
    return Counter(item for items in cluster.asked.values() for item in items)
