"""What `fusetune env` says of a machine: every fact, ~ for the home, and no library that takes long to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fusetune
from fusetune.cli.env import env
from fusetune.compiler.tools import FoundTool
from fusetune.measure.gpus import SeenGpu, SeenGpus
from fusetune.report import machine as machine_module
from fusetune.report.machine import Machine, lines_of, machine_here

H200 = SeenGpu("NVIDIA H200", "9.0", 132, 143771 << 20)


@pytest.fixture(autouse=True)
def machine_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and settings of the test's own, no GPU, and one ptxas in that home."""
    for name in [name for name in os.environ if name.startswith(("FUSETUNE_", "TRITON_", "CUDA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(machine_module, "every_gpu", lambda: SeenGpus(why_none="NVML: no library"))
    tools = [FoundTool("ptxas", f"{tmp_path}/bin/ptxas", "12.8.93")]
    monkeypatch.setattr(machine_module, "found_tools", lambda: tools)


def told() -> str:
    return "\n".join(lines_of(machine_here()))


def folder(machine: Machine, what: str) -> tuple[str, str]:
    found = next(one for one in machine.folders if one.what == what)
    return found.path, found.state()


def test_versions_and_the_reason_for_no_gpu_are_told() -> None:
    text = told()
    assert f"fusetune         {fusetune.__version__}\n" in text
    assert "torch            2." in text
    assert "ptxas            12.8.93  ~/bin/ptxas\n" in text
    assert "GPU              none: NVML: no library\n" in text


def test_gpus_are_told_with_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    partly = SeenGpu("NVIDIA X", mig=True)
    monkeypatch.setattr(machine_module, "every_gpu", lambda: SeenGpus("580.82.07", "13.0", (H200, partly)))
    text = told()
    assert "driver           580.82.07, runs CUDA up to 13.0\n" in text
    assert "GPU 0            NVIDIA H200, compute capability 9.0, 132 SMs, 140.4 GiB\n" in text
    assert "GPU 1            NVIDIA X, compute capability ?, ? SMs, in MIG mode\n" in text
    assert "none:" not in text


def test_folders_are_told_with_what_can_be_done_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSETUNE_RUNS", str(tmp_path / "file" / "runs"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    found = machine_here()
    assert folder(found, "configs") == ("configs", "writable")
    assert folder(found, "runs") == ("~/file/runs", "not there, cannot be made")
    assert folder(found, "captures") == ("~/.local/state/fusetune/captures", "not there, can be made")
    assert folder(found, "Triton's cache") == ("~/cache", "not there, can be made")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "work" / "configs").chmod(0o500)
    assert folder(machine_here(), "configs") == ("configs", "read only")


def test_a_folder_that_a_variable_cannot_name_is_told_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_RUNS", "~nobody-of-this-name/runs")
    found = machine_here()
    assert any(trouble.startswith("runs: FUSETUNE_RUNS: ") for trouble in found.troubles)
    assert folder(found, "captures")[1]
    assert "  runs: FUSETUNE_RUNS: " in "\n".join(lines_of(found))


def test_only_settings_of_ours_are_told_and_the_home_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_CONFIGS", f"{tmp_path}/a:{tmp_path}-other/b")
    monkeypatch.setenv("TRITON_DEBUG", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SECRET", "not ours")
    assert machine_here().variables == {
        "CUDA_VISIBLE_DEVICES": "",
        "FUSETUNE_CONFIGS": f"~/a:{tmp_path}-other/b",
        "TRITON_DEBUG": "1",
    }
    text = told()
    assert "not ours" not in text
    assert f"{tmp_path}/" not in text


def test_without_torch_and_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_version", lambda package: None)
    text = told()
    assert "torch            not installed\n" in text
    assert "triton           not installed\n" in text


def test_the_command_gives_the_same_as_json_and_as_one_screen() -> None:
    body = json.loads(CliRunner().invoke(env, ["--json"]).stdout)
    assert body["machine"] == 1
    assert body["fusetune"] == fusetune.__version__
    assert body["ptxas"] == [{"name": "ptxas", "path": "~/bin/ptxas", "release": "12.8.93", "trouble": None}]
    assert body["no_gpu"] == "NVML: no library"
    shown = CliRunner().invoke(env, []).stdout.splitlines()
    assert shown == lines_of(machine_here())
    assert len(shown) < 40


def test_neither_torch_nor_triton_is_loaded() -> None:
    program = (
        "import sys\nfrom fusetune.report.machine import lines_of, machine_here\nlines_of(machine_here())\n"
        "assert not {'torch', 'triton', 'rich', 'numpy', 'scipy'} & {*sys.modules}, sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
