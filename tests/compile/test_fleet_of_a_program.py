"""The cases of a program on a fleet: how a capture travels, and in which order its cases go out and come back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.cases import Case
from fusetune.capture.kept import read_kept
from fusetune.capture.spec import CapturedSpec
from fusetune.cli.explaining import Explainer
from fusetune.cli.fleet_cases import tune_on_fleet
from fusetune.errors import MachineError, NoUsableGpuError
from fusetune.fleet.run import Outcome
from fusetune.fleet.sending import CapturedOp, Files, UnlikeError, received_request, received_spec, work_of
from fusetune.fleet.words import Seen
from fusetune.tune.program import Tuned
from fusetune.tune.request import SweepRequest
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "programs" / "autotuned_add.py"
SEEN = Seen("GPU 0", "GPU-a", "NVIDIA H200", "9.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("kept")
    environment = {**os.environ, "XDG_STATE_HOME": str(here / "state"), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", "capture", "--keep", "--json", str(PROGRAM), "5000"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["cases"][0]["kept"])


def request_of(spec: CapturedSpec, folder: Path) -> SweepRequest:
    return SweepRequest(
        spec=spec, problem=spec.captured_problem(), output=folder / "configs", runs=folder / "runs", budget_s=4.0
    )


def test_a_capture_travels_whole_and_is_the_same_op_elsewhere(folder: Path, tmp_path: Path) -> None:
    spec = CapturedSpec(folder, more=frozenset({"maxnreg"}))
    work = work_of(3, request_of(spec, tmp_path), SEEN, Files(), limit_s=5.0, same_disk=False)
    there = received_spec(work.op, tmp_path / "there")
    assert isinstance(there, CapturedSpec)
    assert there.folder.is_relative_to(tmp_path / "there")
    fields, limit_s = received_request(work, there)
    assert limit_s == 5.0
    assert fields["spec"] is there
    assert fields["problem"] == there.captured_problem() == spec.captured_problem()
    assert fields["budget_s"] == 4.0
    assert there.more == {"maxnreg"}
    assert there.source_hash() == spec.source_hash()
    assert there.before(fields["problem"]) == spec.before(fields["problem"])


def test_a_capture_that_came_with_other_bytes_is_refused(folder: Path, tmp_path: Path) -> None:
    work = work_of(0, request_of(CapturedSpec(folder), tmp_path), SEEN, Files(), limit_s=5.0, same_disk=False)
    op: CapturedOp = work.op
    assert op.files is not None
    damaged = structs.replace(op, files={name: data + b" " for name, data in op.files.items()})
    with pytest.raises(UnlikeError, match="came here with other bytes"):
        received_spec(damaged, tmp_path / "there")


class Fleet:
    """Ends every task at once, the last first, with an error; `asked` is what was asked for."""

    def __init__(self, error: Exception) -> None:
        self.error, self.retired = error, dict[str, str]()
        self.asked: list[SweepRequest] = []
        self.groups: list[str | None] = []
        self.said: list[str] = []
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def say(self, text: str) -> None:
        self.said.append(text)

    def run(self, tasks: Any, told: Any, gpu: str | None) -> list[Outcome]:
        self.groups = [task.group for task in tasks]
        outcomes = []
        for number, task in reversed(list(enumerate(tasks))):
            self.asked.append(task.request(SEEN))
            assert task.request(SEEN) is self.asked[-1], "a second GPU is given the same"
            outcomes.append(Outcome(number, SEEN.model, "GPU 0", None, error=self.error, seconds=1.5))
            told(outcomes[-1])
        return outcomes


@pytest.mark.parametrize("error", [MachineError("a full disk"), NoUsableGpuError("it fell off the bus")])
def test_cases_come_back_in_their_order_and_what_ends_one_does_not_end_the_command(
    folder: Path, tmp_path: Path, error: Exception
) -> None:
    kept = read_kept(folder).case
    lost = structs.replace(kept, kept=None, findings=("x holds pointers",))
    cases: list[Case] = [structs.replace(kept, kept=str(folder)), lost, structs.replace(kept, kept=str(folder))]
    tuned: list[Tuned] = []
    fleet = Fleet(error)

    def request(spec: CapturedSpec) -> SweepRequest:
        assert len(tuned) == len(fleet.asked), "what was kept so far is known"
        return request_of(spec, tmp_path)

    tune_on_fleet(fleet, cases, tuned, request, Explainer(None, None), "NVIDIA H200")  # type: ignore[arg-type]
    assert [one.case for one in tuned] == cases
    assert [one.end for one in tuned] == ["failed", "skipped", "failed"]
    assert tuned[0].why == str(error)
    assert tuned[0].ended_by == "machine"
    assert [one.seconds for one in tuned] == [1.5, tuned[1].seconds, 1.5]
    assert fleet.closed
    assert [line.split()[0] for line in fleet.said] == ["[1/3]", "[2/3]"]
    assert len(set(fleet.groups)) == 1, "the cases of one kernel are one group"
