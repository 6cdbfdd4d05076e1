"""`fusetune gate` of captured kernels as it is typed: programs that it runs again, kept captures, another revision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fusetune.capture.cases import Looked
from fusetune.capture.from_source import KernelPlace, KernelSource
from fusetune.capture.programs import Program
from fusetune.capture.spec import CapturedSpec
from fusetune.cli.gate import gate
from fusetune.core.config import Config
from fusetune.core.target import Target
from fusetune.errors import FusetuneError, NoUsableGpuError, ProgramError, UsageError
from fusetune.measure.fake import FakeMeasurer
from fusetune.store.schema import ConfigFile
from fusetune.store.yaml_files import dump_config_file
from tests.unit.gate.test_replays import BEFORE, CHOSEN, HASH, HERE, RTX4090, capture, entry_of

FILE = Path("configs", "nvidia-geforce-rtx-4090", "norms_add.yaml")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Config, float]:
    """A repository with a kept entry of `norms:add`, and a GPU with these times."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "FUSETUNE_CONFIGS", "FUSETUNE_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = ConfigFile(schema=2, op="norms_add", kernel="norms:add", file="norms.py", target=HERE, entries=(entry_of(),))
    FILE.parent.mkdir(parents=True)
    FILE.write_text(dump_config_file(file))
    for name in ("norms.py", "bench.py"):
        Path(name).write_text("")
    times: dict[Config, float] = {BEFORE: 20.0, CHOSEN: 10.0, CHOSEN.elsewhere(): 9.0}
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: True)
    monkeypatch.setattr(
        "fusetune.measure.cuda.CudaMeasurer", lambda spec, problem: FakeMeasurer(RTX4090, times.__getitem__)
    )
    return times


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The programs that were run again; each makes the entry's launch."""
    ran: list[Program] = []

    def look(program: Program, *, keep: Path) -> Looked:
        ran.append(program)
        kept = capture(keep / "01-add")
        return Looked((CapturedSpec(kept).kept.case,), kept=str(keep))

    monkeypatch.setattr("fusetune.capture.look.look", look)
    return ran


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[KernelPlace]:
    """What was imported; the kernel is what it was when it was tuned."""
    places: list[KernelPlace] = []

    def found(wanted: Any, folder: Path, target: Target) -> Mapping[KernelPlace, KernelSource]:
        places.extend(wanted)
        return {one: KernelSource(str(folder), "norms", "add", HASH) for one in wanted}

    monkeypatch.setattr("fusetune.gate.sources.kernels_from_source", found)
    monkeypatch.setattr("fusetune.gate.source_revision.kernels_from_source", found)
    return places


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gate, arguments)


def failing(*arguments: str) -> FusetuneError:
    error = run(*arguments).exception
    assert isinstance(error, FusetuneError), error
    return error


def test_a_program_is_run_again_and_its_captures_are_gone_afterwards(
    programs: list[Program], workplace: dict[Config, float], tmp_path: Path
) -> None:
    held = run("--program", "bench.py 8 -v")
    assert held.exit_code == 0, held.output
    assert held.output.splitlines()[-1] == "gate: 1 ok"
    assert programs == [Program("script", "bench.py", ("8", "-v"))]
    assert list((tmp_path / "state").rglob("*.json")) == []
    workplace[CHOSEN] = 21.0
    assert run("--program", "bench.py").exit_code == 1


def test_a_program_that_fails_by_itself_is_exit_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.capture.look.look", lambda *_, **__: Looked((), failed="ValueError: mine"))
    error = failing("--program", "bench.py")
    assert isinstance(error, ProgramError)
    assert (error.exit_code, str(error)) == (6, "bench.py failed by itself: ValueError: mine")


def test_kept_captures_are_launched_again_by_the_kernel_of_the_source_that_was_named(
    imported: list[KernelPlace], tmp_path: Path
) -> None:
    run_folder = tmp_path / "state" / "fusetune" / "captures" / "20261129T070000-0123"
    capture(run_folder / "01-add")
    refused = failing()
    assert isinstance(refused, UsageError)
    assert "is imported only where you name it yourself" in str(refused)
    assert imported == []
    held = run("--kernels", ".")
    assert held.exit_code == 0, held.output
    assert imported == [KernelPlace("norms:add", str(tmp_path / "norms.py"))]
    assert run_folder.exists()


def test_against_a_revision_the_file_of_that_commit_is_asked(
    programs: list[Program], imported: list[KernelPlace], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fusetune.gate.source_revision.repository_of", lambda _: tmp_path)
    monkeypatch.setattr("fusetune.gate.source_revision.commit_of", lambda *_: "c" * 40)
    monkeypatch.setattr("fusetune.gate.source_revision.check_out", lambda *_: None)
    done = run("--program", "bench.py", "--against", "main")
    assert done.exit_code == 1, done.output
    assert "slower than at main (cccccccccccc)" in done.output
    (place,) = imported
    assert place.kernel == "norms:add"
    assert place.file.endswith("tree-0/norms.py")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--static", "--program", "bench.py"), "--program is for a live gate; leave it out beside --static"),
        (("--program", "nowhere.py"), "there is no file nowhere.py"),
        (("--program", "'bench.py"), '--program "\'bench.py": No closing quotation'),
        (("--program", "bench.py --reference"), "Option '--reference' requires an argument"),
    ],
)
def test_a_mistake_in_a_program_is_one_sentence(arguments: tuple[str, ...], told: str) -> None:
    error = failing(*arguments)
    assert isinstance(error, UsageError)
    assert told in str(error)
    assert "\n" not in str(error)


def test_a_program_without_files_for_kernels_is_a_mistake() -> None:
    FILE.write_text(FILE.read_text().replace("kernel: norms:add\nfile: norms.py\n", ""))
    assert "no file is for a kernel of a program" in str(failing("--program", "bench.py"))


@pytest.mark.parametrize("seen", [None, ("NVIDIA GeForce RTX 4090", "8.9")])
def test_files_for_another_gpu_are_skipped_or_refused_before_anything_is_run_or_imported(
    seen: tuple[str, str] | None, programs: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusetune.measure.nvml.visible_gpu", lambda: seen)
    text = FILE.read_text()
    for other in ("NVIDIA GeForce RTX 4090 D", "NVIDIA H200"):
        FILE.write_text(text.replace(f"name: {HERE.name}", f"name: {other}"))
        skipped = run("--program", "bench.py", "--on-mismatch", "skip")
        assert (skipped.exit_code, skipped.output.splitlines()[-1]) == (0, "gate: 1 not gated"), skipped.output
        error = failing()
        assert isinstance(error, NoUsableGpuError)
        assert f"it is for {other}, this GPU is NVIDIA GeForce RTX 4090" in str(error)
    assert programs == []
