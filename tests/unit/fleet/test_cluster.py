"""A Dask cluster whose workers die, hang, are slow, are noisy or have other versions: every problem comes to an end."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from fusetune.errors import MachineError
from fusetune.fleet import hosted, lanes
from fusetune.fleet.cluster import ClusterExecutor, connected
from fusetune.fleet.gpus import GpuHere
from fusetune.fleet.lane import Begin
from fusetune.fleet.nannies import serve_gpus
from fusetune.fleet.run import Fleet, Outcome, Task
from fusetune.fleet.schedule import Rules
from fusetune.fleet.words import Seen
from fusetune.store.journal import RunEnd, read_journal
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.request import SweepRequest
from tests.support import simulated_lane
from tests.support.fake_compiler import install
from tests.support.sample import FILE, SPEC, make_problem

pytest.importorskip("distributed", reason="needs Dask: pip install 'fusetune[fleet]'")

from tests.support.simulated_cluster import (
    GPU,
    GPUS,
    Cluster,
    Heard,
    Temper,
    counted,
    opened,
)

ANY = Seen("", "", "", "0.0")
FOLDERS = 50
"""The problems are spread over so many files, since each entry reads and writes the whole of its own."""


def tasks(folder: Path, count: int) -> list[Task]:
    def asked(number: int) -> Callable[[Seen], SweepRequest]:
        problem = make_problem(16 * (number + 4), 512, 1024, "float32")
        output = folder / f"configs{number % FOLDERS}"
        return lambda seen: SweepRequest(spec=SPEC, problem=problem, output=output, runs=folder / "runs", space="seed")

    return [Task(f"problem {number}", asked(number)) for number in range(count)]


def entries(folder: Path) -> int:
    return sum(len(read_config_file(path).entries) for path in folder.glob(f"configs*/*/{FILE}"))


@pytest.mark.timeout(240)
def test_of_eight_workers_two_die_one_hangs_one_is_slow_and_one_has_another_triton_and_every_problem_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    tempers = {
        "1": Temper(dies_at=4),
        "2": Temper(dies_at=9),
        "3": Temper(hangs_at=3),
        "4": Temper(slow_s=0.3),
        "5": Temper(triton="0.0.1"),
        "6": Temper(noisy=1),
    }
    cluster = Cluster(tmp_path, tempers, broken=frozenset({7}), every=25)
    told: list[Outcome] = []
    given = tasks(tmp_path, 200)
    cluster.sweep_once(structs.replace(given[50].request(ANY), output=tmp_path / "first", runs=tmp_path / "first"))
    with opened(cluster, 8, Rules(silent_s=8.0, away_s=0.0)) as (fleet, heard, _):
        outcomes = fleet.run(given, told.append)
    assert outcomes == told
    assert sorted(one.task for one in outcomes) == list(range(200))
    without = {one.task: str(one.error) for one in outcomes if one.result is None}
    assert without == {7: "an illegal address, wherever it is tried"}
    assert entries(tmp_path) == 199
    assert {one.result.entry.verdict for one in outcomes if one.result is not None} <= {"keep", "revert"}
    journals = Counter(
        record.message
        for path in (tmp_path / "runs").glob("*.jsonl")
        for record in read_journal(path)
        if isinstance(record, RunEnd) and record.entry is not None
    )
    assert journals.total() == 199

    assert "5" not in cluster.asked
    assert any("5 is not used: triton 0.0.1, here" in line for line in heard.lines)
    moved = {one.how for outcome in outcomes for one in outcome.moved}
    assert moved == {"lost", "hung", "noisy", "threw"}
    assert len(cluster.asked["4"]) < len(cluster.asked["0"]), "who is slow gets less"
    again = counted(cluster)
    assert again.pop(7) == 3, "twice to another, then told"
    assert sum(count - 1 for count in again.values()) == 4, "two that died, one that hung, one that was noisy"
    for name, items in cluster.asked.items():
        assert len(items) == len(set(items)), f"{name} was given a problem twice"
    assert set(cluster.parted) == {"0", "3", "4", "5", "6", "7"}


@pytest.mark.timeout(120)
def test_workers_come_and_go_during_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    cluster = Cluster(tmp_path, {"0": Temper(dies_at=2)})
    with opened(cluster, 1, Rules(silent_s=30.0, away_s=0.0, empty_s=30.0)) as (fleet, heard, local):
        scaled: list[Outcome] = []

        def told(outcome: Outcome) -> None:
            if not scaled:
                local.scale(3)
            scaled.append(outcome)

        outcomes = fleet.run(tasks(tmp_path, 8), told)
    assert all(one.result is not None for one in outcomes)
    assert {"0", "1"} < set(cluster.asked) | {"2"}
    assert any("its worker left the cluster" in line for line in heard.lines)


@pytest.mark.timeout(120)
def test_a_worker_with_another_model_or_source_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    cluster = Cluster(tmp_path, {"0": Temper(unfit=True)})
    with opened(cluster, 2, Rules(silent_s=30.0, away_s=0.0)) as (fleet, heard, local):
        cluster.tempers["2"] = Temper(gpu="NVIDIA H100")
        local.scale(3)
        outcomes = fleet.run(tasks(tmp_path, 6), lambda outcome: None)
        retired = fleet.retired
    assert all(one.result is not None and one.worker == "1" for one in outcomes)
    assert retired == {"0": "another source of the kernel is here"}
    lost = re.compile(r"0 loses problem \d \(unfit\): another source")  # Who joins first is given the first.
    assert any(lost.match(line) for line in heard.lines)
    assert "2" not in cluster.asked


@pytest.mark.timeout(240)
def test_a_worker_s_lane_that_is_killed_goes_on_where_it_stopped_and_its_journal_comes_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on workers is the real thing here, each with a process of its own; the GPU is simulated."""
    from distributed import LocalCluster

    card = f"GPU-hosted-{os.getpid()}"
    (tmp_path / "tempers.json").write_text(json.dumps({card: {"dies": 1}}))
    monkeypatch.setenv(simulated_lane.SIMULATED, str(tmp_path / "tempers.json"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setattr(lanes, "MODULE", "tests.support.simulated_lane")
    monkeypatch.setattr(hosted, "gpus_here", lambda: (GpuHere(0, card, GPU.name, GPU.capability),))
    monkeypatch.setattr(hosted.platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    heard = Heard()
    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 60}
    with LocalCluster(n_workers=2, resources=GPUS, worker_dashboard_address=None, **options) as local:
        executor = ClusterExecutor(connected(local.scheduler_address, None), Begin(""))
        try:
            fleet = Fleet(executor, heard, rules=Rules(silent_s=100.0))
            (seen,) = fleet.gather(executor.expected(), 60.0)
            outcomes = fleet.run(tasks(tmp_path, 2), lambda outcome: None)
        finally:
            executor.close()
    assert seen.card == card
    assert any("has a worker of fusetune already" in line for line in heard.lines), "two workers on one GPU"
    assert [one.result is not None for one in outcomes] == [True, True], [one.error for one in outcomes]
    assert [one.how for outcome in outcomes for one in outcome.attempts] == ["lost", "done", "done"]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        one.result.journal.name for one in outcomes if one.result
    }
    hosted.release()


@pytest.mark.timeout(60)
def test_workers_without_a_scheduler_end_with_one_line_and_no_log_of_dask_s(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpus = [GpuHere(number, f"GPU-alone-{os.getpid()}-{number}", "NVIDIA H200", "9.0") for number in range(2)]
    logger = logging.getLogger("distributed")
    before, passes = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = True
    try:
        with pytest.raises(MachineError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1: "):
            serve_gpus("tcp://127.0.0.1:1", gpus, lambda text: None, leave_after_s=1.0)
    finally:
        logger.propagate = passes
        logger.setLevel(before)
    assert [record.message for record in caplog.records if record.name.startswith("distributed")] == []
