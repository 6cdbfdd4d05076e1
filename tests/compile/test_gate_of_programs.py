"""The gate of a repository of somebody's kernels: `fusetune tune` pins them, and `gate --static` holds them to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import yaml

from fusetune.capture.from_source import KernelPlace, KernelSource
from fusetune.compiler.tools import nvidia_tool
from fusetune.core.target import find_target
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, UsageError
from fusetune.gate.drift import METRICS
from fusetune.gate.pins import pins_path, read_pins
from fusetune.gate.source_revision import kernels_at
from fusetune.gate.sources import launches_of_captures
from fusetune.store.yaml_files import read_config_file
from tests.support.sample_repository import CONFIGS, KERNELS, Repository

ADA = find_target("rtx4090")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("sample") / "repository")
    done = repository.fusetune("tune", "bench.py", "--target", "rtx4090", "--keep")
    assert done.returncode == EXIT_OK, done.stderr
    assert ", with pins; " in done.stdout
    return repository


@pytest.fixture
def repository(tuned: Repository) -> Iterator[Repository]:
    configs = tuned.folder / "configs"
    held = tuned.folder.parent / "held"
    shutil.copytree(configs, held)
    yield tuned
    shutil.rmtree(configs)
    held.rename(configs)
    for name in KERNELS:
        tuned.restore(name)


def findings(text: str) -> dict[str, tuple[str, str]]:
    """The sign and the sentence of each finding, by the kernel's name."""
    lines = re.findall(r"^([A-Za-z -]+?) +\S*/norms_(\w+)_\w+\.yaml  (.*)$", text, re.MULTILINE)
    return {name: (sign, rest) for sign, name, rest in lines}


def test_a_clone_without_gpu_and_capture_holds_its_kernels_to_the_pins_and_finds_each_planted_regression(
    repository: Repository,
) -> None:
    """As in CI: no capture is kept, and the program is not run."""
    for name in ("scaled", "copies"):
        repository.keep(name)
    repository.plant("copies", "    at =", "    # where it stands\n\n    at  =")  # no other code
    elsewhere = {"XDG_STATE_HOME": str(repository.folder.parent / "nobody")}
    first = repository.fusetune("gate", "--static", "configs", "--kernels", "norms", **elsewhere)
    assert first.returncode == EXIT_OK, first.stdout + first.stderr
    assert {sign for sign, _ in findings(first.stdout).values()} == {"ok"}
    assert all("as pinned" in rest for _, rest in findings(first.stdout).values())

    crossed = "x * tl.sum(x, 1)[:, None] + tl.trans(tl.exp(x)) * tl.max(x, 0)[None, :]"
    repository.plant("wide", "x * 2", crossed)  # spills, and takes shared memory
    repository.plant("sums", "+ 1", "+ no_such_name")
    repository.plant("scaled", "y_ptr + at, twice", "at + y_ptr, twice")  # no worse, and tuned for another source
    repository.file("copies").unlink()
    repository.plant("grown", "n, BLOCK: tl.constexpr", "n, eps, BLOCK: tl.constexpr")
    repository.plant("imports", "import triton\n", "import triton\nfrom no_such_package import *\n")
    repository.forget("lost")
    done = repository.fusetune(
        "gate",
        "--static",
        "configs",
        "--kernels",
        ".",
        "--junit",
        "gate.xml",
        **elsewhere,
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(repository.folder / "summary.md"),
    )
    assert done.returncode == EXIT_REGRESSION, done.stdout + done.stderr
    found = findings(done.stdout)
    assert {name for name, (sign, _) in found.items() if sign == "REGRESSION"} == {"copies", "wide", "sums", "scaled"}
    assert "norms/copies.py is not there any more, so that nothing uses this entry" in found["copies"][1]
    assert re.search(r"stack 0 B -> \d+ B.*shared 0 B -> \d", found["wide"][1])
    assert "does not compile: " in found["sums"][1]
    assert "no_such_name" in found["sums"][1]
    assert "source has changed since it was tuned, so that nothing uses this entry: tune again" in found["scaled"][1]
    # What cannot be compared is neither a pass nor a regression.
    assert found["imports"][0] == "INCONCLUSIVE"
    assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in found["imports"][1]
    assert found["grown"][0] == found["lost"][0] == "NOT PINNED"
    assert "the kernel has a parameter eps by now, which nothing gives" in found["grown"][1]
    assert "no pin says how norms_lost_lost is launched" in found["lost"][1]
    # In GitHub's form.
    annotations = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert len(annotations) == len(found)
    page = ElementTree.parse(repository.folder / "gate.xml")
    assert (len(page.findall(".//failure")), len(page.findall(".//error"))) == (4, 3)
    assert "4 REGRESSION" in (repository.folder / "summary.md").read_text(encoding="utf-8")


def test_what_a_file_names_is_imported_only_where_the_command_names_it(repository: Repository) -> None:
    (repository.folder / "elsewhere").mkdir()
    (repository.folder / "norms" / "copies.py").write_text("raise SystemExit('it ran')\n")
    for words in ((), ("--kernels", "elsewhere")):
        done = repository.fusetune("gate", "--static", str(repository.yaml("copies")), *words)
        assert done.returncode == EXIT_USAGE
        assert done.stderr.count("\n") == 1
        assert "is imported only where you name it yourself" in done.stderr
        assert "--kernels norms/copies.py" in done.stderr
    missing = repository.fusetune("gate", "--static", "--kernels", "no/such")
    assert (missing.returncode, missing.stderr.count("\n")) == (EXIT_USAGE, 1)
    assert "--kernels no/such: there is no such file or folder" in missing.stderr


@pytest.mark.parametrize("trouble", ["killed", "no cache", "interpreter"])
def test_trouble_of_the_machine_is_one_line_and_no_regression_of_a_program_s_kernel(
    tuned: Repository, tmp_path: Path, trouble: str
) -> None:
    ptxas = tmp_path / "ptxas"
    ptxas.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {nvidia_tool("ptxas")} --version\nkill -9 $$\n')
    ptxas.chmod(0o755)
    empty = {"TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment, code, told = {
        "killed": ({**empty, "TRITON_PTXAS_PATH": str(ptxas)}, EXIT_INCONCLUSIVE, "ptxas was ended by SIGKILL"),
        "no cache": ({"TRITON_CACHE_DIR": str(ptxas)}, EXIT_USAGE, "mend TRITON_CACHE_DIR"),
        "interpreter": ({"TRITON_INTERPRET": "1"}, EXIT_USAGE, "TRITON_INTERPRET is set"),
    }[trouble]
    pins = pins_path(tuned.yaml("sums"))
    before = pins.read_bytes()
    for word in ("--static", "--pin"):
        done = tuned.fusetune("gate", word, str(tuned.yaml("sums")), "--kernels", "norms", **environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert "REGRESSION" not in done.stdout
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert told in error
        assert "Traceback" not in done.stderr
    assert pins.read_bytes() == before


def test_pins_hold_no_data_and_no_place_of_this_machine(tuned: Repository) -> None:
    for path in (tuned.folder / CONFIGS).rglob("*.yaml"):
        assert str(Path.home()) not in path.read_text()
        assert str(tuned.folder) not in path.read_text()
    (pin,) = yaml.safe_load((tuned.folder / CONFIGS / "pins" / "norms_wide_wide.yaml").read_text())["entries"]
    assert pin["launch"]["arguments"] == {
        "x_ptr": {"tensor": "float32"},
        "y_ptr": {"tensor": "float32"},
        "n": 4096,
        "BLOCK": 1024,
    }
    assert pin["before"]["num_warps"] == 1


def test_a_kept_capture_says_how_an_entry_is_launched_that_nothing_pinned(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(repository.folder.parent / "state"))
    path = repository.yaml("lost")
    file, pins = read_config_file(path), read_pins(pins_path(path), METRICS)
    assert pins is not None
    (pin,) = pins.entries
    found = launches_of_captures(file, file.entries, ADA)
    assert found == {(pin.problem, pin.config): pin.launch}
    other = msgspec.structs.replace(file, op="norms_other")
    assert launches_of_captures(other, other.entries, ADA) == {}


def test_another_revision_s_kernels_are_those_of_its_commit_and_the_repository_learns_nothing(
    repository: Repository, tmp_path: Path
) -> None:
    place = KernelPlace("norms.scaled:scaled", str(repository.file("scaled")))
    with pytest.raises(UsageError, match="is in no git repository"):
        kernels_at("HEAD", {Path("a"): place}, ADA, tmp_path)
    for words in (
        ("init", "-q"),
        ("add", "norms"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"),
    ):
        subprocess.run(["git", "-C", str(repository.folder), *words], check=True)
    try:
        helpers = repository.folder / "norms" / "helpers.py"
        held = helpers.read_text(encoding="utf-8")
        helpers.write_text(held.replace("2 * x", "3 * x"), encoding="utf-8")
        status = subprocess.run(["git", "-C", str(repository.folder), "status", "-s"], capture_output=True, check=True)
        (entry,) = read_config_file(repository.yaml("scaled")).entries
        name, there = kernels_at("HEAD", {Path("a"): place}, ADA, tmp_path / "there")
        assert re.fullmatch(r"HEAD \([0-9a-f]{12}\)", name)
        then = there[Path("a")]
        assert isinstance(then, KernelSource)
        assert "2 * x" in texts_of(then), "as it was then, and not as this tree has it"
        assert then.source_hash == entry.environment.kernel_hash
        with pytest.raises(UsageError, match="has no revision 'nowhere'"):
            kernels_at("nowhere", {Path("a"): place}, ADA, tmp_path / "none")
        after = subprocess.run(["git", "-C", str(repository.folder), "status", "-s"], capture_output=True, check=True)
        assert after.stdout == status.stdout
    finally:
        helpers.write_text(held, encoding="utf-8")
        shutil.rmtree(repository.folder / ".git")


def texts_of(kernel: KernelSource) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in Path(kernel.folder).rglob("*.py"))
