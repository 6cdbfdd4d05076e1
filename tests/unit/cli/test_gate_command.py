"""`fusetune gate` as it is typed: modes, files, exit codes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fusetune.cli.commands import cli
from fusetune.cli.gate import gate
from fusetune.cli.signals import Signals
from fusetune.errors import FusetuneError, NoUsableGpuError, UsageError
from fusetune.gate import static
from fusetune.gate.pins import Toolchain, pins_path
from fusetune.measure.fake import FakeMeasurer
from fusetune.store.yaml_files import dump_config_file
from tests.support.fake_compiler import install
from tests.support.sample import BASELINE, FILE, OP
from tests.unit.gate.test_gate import RTX4090, WINNER, file_of, kept
from tests.unit.gate.test_pins import RECORD

JOURNALS = Path(__file__).parents[2] / "support" / "journals"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "FUSETUNE_CONFIGS", "FUSETUNE_RUNS"):
        monkeypatch.delenv(name, raising=False)
    install(monkeypatch)
    monkeypatch.setattr(static, "kernel_records", lambda *_: (RECORD,))
    monkeypatch.setattr(static, "toolchain_for", lambda _: Toolchain("3.7.1", "12.9.86"))
    path = tmp_path / "configs" / "nvidia-geforce-rtx-4090" / FILE
    path.parent.mkdir(parents=True)
    path.write_text(dump_config_file(file_of(kept())))
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[object, float]:
    times: dict[object, float] = {BASELINE: 20.0, WINNER: 10.0}
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: True)
    monkeypatch.setattr(
        "fusetune.measure.cuda.CudaMeasurer", lambda spec, problem: FakeMeasurer(RTX4090, times.__getitem__)
    )
    return times


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gate, arguments)


def failing(*arguments: str) -> FusetuneError:
    error = run(*arguments).exception
    assert isinstance(error, FusetuneError), error
    return error


def test_pin_writes_the_record_and_the_static_gate_holds_to_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = run("--pin")
    assert pinned.exit_code == 0
    assert f"Pinned 1 config in configs/nvidia-geforce-rtx-4090/pins/{OP}.yaml" in pinned.output
    assert pins_path(workplace).exists()
    held = run("--static")
    assert (held.exit_code, held.output.splitlines()[-1]) == (0, "gate: 1 ok (compiled, nothing was timed)")


def test_pins_are_told_as_json_and_quietly_so() -> None:
    told = CliRunner().invoke(cli, ["-q", "gate", "--pin", "--json"])
    assert told.stderr == ""
    (pinned,) = json.loads(told.stdout)["pins"]
    assert (pinned["path"], pinned["pinned"], pinned["refused"]) == (
        f"configs/nvidia-geforce-rtx-4090/pins/{OP}.yaml",
        1,
        [],
    )


def test_a_live_regression_exits_1_and_every_output_says_so(
    gpu: dict[object, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu[WINNER] = 21.0
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = run("--live", "--json", "--junit", "gate.xml", "--markdown", "gate.md")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("::error file=configs/")
    assert json.loads(done.stdout)["exit_code"] == 1
    assert '<failure message="gain' in Path("gate.xml").read_text()
    assert Path("gate.md").read_text() == Path("summary.md").read_text()


def test_a_live_gate_leaves_a_journal_that_from_decides_again(gpu: dict[object, float]) -> None:
    assert run().exit_code == 0
    (journal,) = Path(".fusetune/runs/gates").glob("gate-*.jsonl")
    for named in (str(journal), journal.stem):
        again = run("--from", named)
        assert again.exit_code == 0
        assert again.output.splitlines()[-1] == "gate: 1 ok"


def test_from_takes_a_committed_journal() -> None:
    done = run("--from", str(JOURNALS / "20261123T062848-845c.jsonl.gz"))
    assert done.exit_code == 0
    assert "gain +77.3 %" in done.output


def test_without_a_gpu_a_live_gate_fails_compiles_or_skips_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: False)
    assert isinstance(failing(), NoUsableGpuError)
    compiled = run("--on-mismatch", "static")
    assert compiled.exit_code == 0
    assert "compiled, nothing was timed" in compiled.output
    skipped = run("--on-mismatch", "skip")
    assert (skipped.exit_code, skipped.output.splitlines()[-1]) == (0, "gate: 1 not gated")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--static", "--pin"), "--static and --pin are different gates; give one of them"),
        (("--static", "--against", "HEAD"), "--against is for a live gate; leave it out beside --static"),
        (("--pin", "--budget", "5"), "--budget is for a live gate"),
        (("--from", "nowhere"), "--from nowhere: there is no such journal, and no such run in .fusetune/runs"),
        (("--from", "x", "configs"), "--from decides from the run alone; leave out configs"),
        (("--static", "--junit", "no/where/gate.xml"), "cannot write no/where/gate.xml"),
        (("--static", "--json", "gate.json"), "--json writes to stdout and takes no file: write `--json > gate.json`"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments: tuple[str, ...], told: str) -> None:
    error = failing(*arguments)
    assert isinstance(error, UsageError)
    assert told in str(error)


def test_a_revision_that_there_is_not_is_told(gpu: dict[object, float]) -> None:
    assert "no revision 'no-such-branch'" in str(failing("--against", "no-such-branch"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_another_revision_is_measured_closes_it_first(
    number: int, gpu: dict[object, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen: list[str] = []

    class Revision:
        def __init__(self, revision: str, folder: Path) -> None:
            (folder / "tree").mkdir()

        def __enter__(self) -> None:
            seen.append("opened")

        def __exit__(self, *_: object) -> None:
            seen.append("closed")

    monkeypatch.setattr("fusetune.gate.against.Revision", Revision)
    monkeypatch.setattr("fusetune.gate.live.live_gate", lambda *_: signal.raise_signal(number))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    Signals().install()  # as `main` does
    try:
        done = run("--against", "HEAD")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert done.exit_code == 128 + number
    assert seen == ["opened", "closed"]
    assert list((tmp_path / "temporary").iterdir()) == []
