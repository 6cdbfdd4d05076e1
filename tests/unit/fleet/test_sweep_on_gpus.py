"""`fusetune sweep --shapes --gpus`: processes and journals are real, the GPUs and the compiler are simulated."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fusetune.cli.commands import cli
from fusetune.fleet import gpus, lanes
from fusetune.fleet.holding import held_for_workers
from fusetune.store.journal import Candidate, RunEnd, read_journal
from fusetune.store.yaml_files import read_config_file
from tests.support import simulated_lane
from tests.support.sample import FILE, SIZES

ROWS = (64, 128, 256, 512, 1024, 2048)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs. The second is killed at its first problem, and noisy at the next."""
    here = tuple(
        gpus.GpuHere(number, uuid, simulated_lane.GPU.name, simulated_lane.GPU.capability)
        for number, uuid in enumerate((f"GPU-a-{os.getpid()}", f"GPU-b-{os.getpid()}"))
    )
    monkeypatch.setattr(gpus, "gpus_here", lambda: here)
    monkeypatch.setattr(lanes, "MODULE", "tests.support.simulated_lane")
    tempers = {here[1].uuid: {"dies": 1, "noisy": 2}}
    (tmp_path / "tempers.json").write_text(json.dumps(tempers))
    monkeypatch.setenv(simulated_lane.SIMULATED, str(tmp_path / "tempers.json"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)
    names = [option.removeprefix("--") for option in SIZES[::2]]
    lines = [",".join(names)] + [",".join(str(rows if name == names[0] else 512) for name in names) for rows in ROWS]
    Path("list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def swept(*options: str) -> Result:
    return CliRunner().invoke(cli, ["sweep", "--shapes", "list.csv", "--space", "seed", "--runs", "runs", *options])


@pytest.mark.timeout(240)
def test_a_gpu_that_dies_and_is_noisy_costs_nothing_and_every_entry_is_in_one_file(machine: Path) -> None:
    done = swept("--gpus", "all")
    assert done.exit_code == 0, done.output
    (path,) = machine.glob(f"configs/*/{FILE}")
    entries = read_config_file(path).entries
    assert len(entries) == len(ROWS)
    assert {entry.verdict for entry in entries} == {"keep"}
    assert f"{len(ROWS)} of {len(ROWS)} problems of list.csv done" in done.output
    assert re.search(r"was taken from GPU 1 \(lost\): its process was ended by SIGKILL", done.output)
    assert re.search(r"was taken from GPU 1 \(noisy\): ", done.output)
    ended: Counter[str] = Counter()
    for journal in machine.glob("runs/*.jsonl"):
        records = list(read_journal(journal))
        checks = Counter(one.id for one in records if isinstance(one, Candidate) and one.status == "checked")
        assert set(checks.values()) <= {1}
        ended += Counter(one.message for one in records if isinstance(one, RunEnd) and one.entry is not None)
    assert ended == {"keep": len(ROWS)}, "one journal a problem"


def test_a_gpu_with_a_worker_gets_no_second_one(machine: Path) -> None:
    with held_for_workers([gpus.gpus_here()[1].uuid]):
        done = swept("--gpus", "0,1")
    assert done.exit_code != 0
    assert "has a worker of fusetune already" in str(done.exception)
    assert not list(machine.glob("runs/*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpus", "all", "--target", "h200"], "--gpus: GPUs measure, and --target predicts"),
        (["--gpus", "all", "--scheduler", "tcp://h:1"], "--gpus and --scheduler: give one of them"),
        (["--gpus", "5"], "there is no GPU 5 here; there are 0, 1"),
    ],
)
def test_options_that_cannot_be_are_told_before_anything_begins(machine: Path, options: list[str], told: str) -> None:
    done = swept(*options)
    assert told in str(done.exception)
    assert not list(machine.glob("runs/*"))
