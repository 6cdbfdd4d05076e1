"""The command: what it refuses, what it prints, its exit code, and the file that it writes as it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from fusetune.cli import doctor as command
from fusetune.cli.doctor import doctor
from fusetune.doctor.software import Host
from fusetune.doctor.visit import Here
from fusetune.errors import UsageError
from fusetune.measure.condition import condition_of
from fusetune.measure.nvml import Monitor
from fusetune.report.doctor import WITHOUT_GPU
from fusetune.store.doctor_file import read_doctor_file
from tests.support.sick_machines import UUID, Bench, compiled_at_once, machine, nvml_of_one_gpu

OWN = "tests.support.doubled:SPEC"
FILE = "doctor-nvidia-geforce-rtx-4090.json"


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A folder of the test's own, and a simulated machine whose parts the test may change."""
    parts: dict[str, Any] = {"bench": Bench(), "has_gpu": True, "machine": machine()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml_of_one_gpu())
    for module in ("visit", "rounds"):
        monkeypatch.setattr(f"fusetune.doctor.{module}.compile_jobs", compiled_at_once)
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: False)  # Nobody starts a process for it.

    def here(server: Any, processes: Any) -> Here:
        return Here(
            parts["machine"],
            Host("/usr/bin/gcc", True, 8, 0.0),
            parts["has_gpu"],
            parts["bench"],
            lambda facts: condition_of(Monitor(UUID), lambda seconds: None),
        )

    monkeypatch.setattr(command, "_here", here)
    return parts


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, arguments)


@pytest.mark.parametrize("arguments", [("--op", OWN), ("-o", "x.json")])
def test_what_belongs_to_kernels_is_refused_without_them(arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert isinstance(outcome.exception, UsageError)
    assert "belongs to --kernels" in str(outcome.exception)


def test_a_file_that_could_not_be_written_is_refused_before_anything_is_done(simulated: dict[str, Any]) -> None:
    outcome = run("--kernels", "-o", "no/such/folder/x.json")
    assert isinstance(outcome.exception, UsageError)
    assert "-o no/such/folder/x.json" in str(outcome.exception)
    assert simulated["bench"].asked == []


def test_an_op_that_there_is_not_is_refused() -> None:
    outcome = run("--kernels", "--op", "no_such_op")
    assert isinstance(outcome.exception, UsageError)
    assert "no_such_op" in str(outcome.exception)


def test_a_fit_machine_is_exit_code_0_and_writes_nothing(tmp_path: Path) -> None:
    outcome = run()
    assert outcome.exit_code == 0
    assert outcome.output.endswith("This machine is fit to tune on.\n")
    assert "/usr/bin/gcc" in outcome.output  # On this user's own screen.
    assert list(tmp_path.iterdir()) == []


def test_a_noisy_machine_is_exit_code_3(simulated: dict[str, Any]) -> None:
    simulated["bench"] = Bench(noise=0.2)
    outcome = run()
    assert outcome.exit_code == 3
    assert "UNFIT  A/A, short" in outcome.output
    assert "not fit to tune on" in outcome.output


def test_without_a_gpu_it_is_exit_code_4_and_says_what_can_be_done(simulated: dict[str, Any], tmp_path: Path) -> None:
    simulated |= {"has_gpu": False, "machine": machine(no_gpu="NVML: Driver Not Loaded", gpus=(), driver=None)}
    outcome = run("--kernels")
    assert outcome.exit_code == 4
    assert WITHOUT_GPU in outcome.output
    assert "No file was written" in outcome.output
    assert list(tmp_path.iterdir()) == []


def test_json_holds_the_findings_without_what_is_private() -> None:
    outcome = run("--json")
    told = json.loads(outcome.output)
    assert told["complete"]
    assert {one["check"] for one in told["findings"]} >= {"driver", "torch", "triton", "A/A, short", "timer", "power"}
    assert "/usr/bin/gcc" not in outcome.output


def test_kernels_writes_a_file_that_report_reads(tmp_path: Path) -> None:
    outcome = run("--kernels", "--op", OWN)
    assert outcome.exit_code == 0
    assert f"Wrote {FILE}: `fusetune report --doctor {FILE}` shows it" in outcome.output
    file = read_doctor_file(tmp_path / FILE)
    assert file.complete
    assert [one.op for one in file.kernels] == ["doubled"] * 3
    assert "Held against float64" in outcome.output


def test_with_json_too_stdout_is_json_alone(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(doctor, ["--kernels", "--op", OWN, "--json", "-o", "mine.json"])
    assert json.loads(outcome.stdout)["kernels"]
    assert read_doctor_file(tmp_path / "mine.json").complete


def test_whenever_it_is_stopped_the_file_is_whole_and_says_what_is_missing(
    simulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stops(Bench):
        def __call__(self, spec: Any, problem: Any) -> Any:
            if len(self.asked) == 4:
                raise KeyboardInterrupt
            return super().__call__(spec, problem)

    simulated["bench"] = Stops()
    with pytest.raises(click.Abort):  # Which click makes of Ctrl-C.
        doctor.main(["--kernels", "--op", OWN], standalone_mode=False)
    assert f"What was measured until now is in {FILE}." in capsys.readouterr().err
    file = read_doctor_file(tmp_path / FILE)
    assert not file.complete
    assert len(file.kernels) + len(file.not_reached) == 3
    assert len(file.kernels) == 1
    assert all(gpu.closed for gpu in simulated["bench"].made)


def test_the_help_names_the_exit_codes() -> None:
    text = CliRunner().invoke(doctor, ["--help"]).output
    for words in ("Exit code 0: fit", "4: no usable GPU", "5: a kernel"):
        assert words in " ".join(text.split())
    assert isinstance(doctor, click.Command)
