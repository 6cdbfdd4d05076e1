"""`fusetune export`, `compare`, and the newer options of `report`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fusetune.cli.main import cli
from fusetune.errors import FusetuneError, UsageError
from fusetune.store.journal import RunEnd, RunStart, read_journal
from fusetune.store.paths import config_path
from fusetune.store.yaml_files import write_entry
from tests.support.sample import OP, SIZES

ROOT = Path(__file__).parents[3]
JOURNALS = ROOT / "tests" / "support" / "journals"
RUN, PREDICTED = RUNS = ("20261123T062848-845c", "20261124T003101-fe8812")
MEASURED = f"tuned/nvidia-h200/{OP}.yaml"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # One file a GPU, each with the entry that a run decided on.
    for run_id in RUNS:
        records = list(read_journal(JOURNALS / f"{run_id}.jsonl.gz"))
        start = next(record for record in records if isinstance(record, RunStart))
        end = next(record for record in records if isinstance(record, RunEnd))
        assert end.entry is not None
        write_entry(config_path(tmp_path / "tuned", start.target.name, start.op), start.op, start.target, end.entry)
    monkeypatch.setenv("FUSETUNE_CONFIGS", str(tmp_path / "tuned"))
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: None)
    monkeypatch.setenv("FUSETUNE_RUNS", str(JOURNALS))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: False)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def told(*arguments: Any) -> str:
    error = run(*arguments).exception
    assert isinstance(error, FusetuneError), error
    assert isinstance(error, UsageError)
    return str(error)


def test_export_writes_to_a_file_or_to_stdout() -> None:
    shown = run("export", *SIZES)
    assert shown.exit_code == 0
    assert "class ModelNew(nn.Module):" in shown.output
    written = run("export", *SIZES, "-o", "optimized.py")
    assert (written.exit_code, written.output) == (0, "Wrote optimized.py\n")
    assert Path("optimized.py").read_text() == shown.output


def test_export_is_for_the_gpu_here_or_the_named_one() -> None:
    assert "NVIDIA GeForce RTX 4090" in run("export", *SIZES).output
    assert "NVIDIA H200" in run("export", *SIZES, "--target", "h200").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--op", "nothing"), "op 'nothing' is not known"),
        (("--target", "rtx9999"), "rtx9999"),
        (("--configs", "nowhere"), "--configs nowhere: there is no such folder"),
        (("--configs", __file__), "is a file; name the folder that it is in"),
        (("-o", "no/where/x.py"), "cannot write no/where/x.py"),
        (("--dtype", "float16", "--precision", "tf32"), "applies to float32 inputs only"),
    ],
)
def test_a_mistake_in_export_is_told_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    assert message in told("export", *SIZES, *arguments)
    assert [path.name for path in Path().iterdir()] == ["tuned"]


def test_an_op_that_names_nothing_that_writes_it_cannot_be_exported() -> None:
    op = ("--op", f"{ROOT / 'examples' / 'vector_add.py'}:SPEC", "--size", "n=4096")
    assert told("export", *op).startswith("op vector_add: nothing writes it as a standalone module")


OF_A_USER = """
from fusetune import KernelSpec

class Doubling(KernelSpec):
    name = "doubling"
    exported_by = "doubling:written"
    operands = launches = reference = lambda *_: ()

class Lost(Doubling):
    exported_by = "doubling:nothing_of_that_name"

def written(spec, problem, target, roots, *, autotune):
    return f"# {spec.name} {problem.n} {target.name} {autotune}\\n"

SPEC, LOST = Doubling(), Lost()
"""


def test_an_op_of_a_user_s_own_is_written_by_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("doubling.py").write_text(OF_A_USER)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    sized = ("--size", "n=4096", "--target", "rtx4090")
    assert run("export", "--op", "doubling:SPEC", *sized).output == "# doubling 4096 NVIDIA GeForce RTX 4090 False\n"
    assert "op doubling: cannot load doubling:nothing_of_that_name" in told("export", "--op", "doubling:LOST", *sized)


def test_compare_tells_two_files_and_two_runs() -> None:
    same = run("compare", MEASURED, MEASURED)
    assert same.exit_code == 0
    assert same.output.splitlines()[-1] == "compare: 1 equal"
    other = run("compare", RUN, PREDICTED, "--format", "json")
    body = json.loads(other.output)
    assert body["compare"] == 1
    assert {one["change"] for one in body["differences"]} == {"removed", "added"}
    assert "nothing is no .yaml file of configs" in told("compare", "nothing", MEASURED)


def test_report_of_one_run_draws_its_gains_against_the_minimum() -> None:
    shown = run("report", "--run", RUN)
    assert shown.exit_code == 0
    assert shown.output.startswith("1 problem: 1 keep")
    assert "Gains against the 2 % that are needed (|)" in shown.output
    assert "revalidate" in shown.output
    assert "there is no journal of the run nothing" in told("report", "--run", "nothing")


def test_report_writes_a_page() -> None:
    done = run("report", "--run", RUN, "--html", "report.html")
    assert (done.exit_code, done.output) == (0, "Wrote report.html\n")
    assert Path("report.html").read_text().startswith("<!doctype html>")


def test_report_in_other_tools_forms() -> None:
    assert json.loads(run("report", "--run", RUN, "--format", "t4").output)["schema_version"] == "1.0.0"
    assert json.loads(run("report", "--run", RUN, "--format", "cachefile").output)["kernel_name"] == OP
    assert run("report", "--format", "vllm", "-o", "vllm").exit_code == 0
    names = sorted(path.name for path in Path("vllm").iterdir())
    assert names == [f"op={OP},N=512,K=1024,device_name=NVIDIA_H200,dtype=float32,precision=tf32.json"]


def test_a_cache_file_is_written_with_the_call_that_simulates_on_it() -> None:
    told = run("report", "--run", RUN, "--format", "cachefile", "-o", "run.json").output
    assert told.startswith("kernel_tuner.tune_cache('run.json') simulates searches on it; tune_kernel(")
    assert "needs a restriction" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "t4"), "--format t4 reports one run, and there are 2; choose it with --run ID"),
        (("--format", "vllm"), "name a folder for them with -o"),
        (("--format", "json", "-o", "."), "-o . is a folder; name a file"),
        (("--html", "no/where/x.html", "--run", RUN), "cannot write no/where/x.html"),
        (("--format", "t4", "--run", PREDICTED), "the run was predicted; nothing was timed"),
    ],
)
def test_a_mistake_in_report_is_told_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    assert message in told("report", *arguments)
