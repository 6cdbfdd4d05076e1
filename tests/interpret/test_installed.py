"""`fusetune.install` in a process's own code: launches take tuned configs until `uninstall`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
from triton.runtime.autotuner import Autotuner
from triton.runtime.interpreter import InterpretedFunction

import fusetune
from fusetune.capture.serving import process
from fusetune.capture.serving.settings import Settings
from fusetune.core.config import NamedConfig
from fusetune.errors import ConfigFileError, MissingConfigError, UsageError
from fusetune.runtime import configs as process_configs
from tests.support.launch_cases import launches_of
from tests.support.launch_entries import alone, write_tuned
from tests.support.programs import served as program

DOUBLE = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "grid_0": 8}
TUNED = NamedConfig(BLOCK=64, num_warps=1, num_stages=2)


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    program.BENCHED.clear()
    program.add.cache.clear()
    folder = alone(tmp_path, monkeypatch)
    write_tuned(folder, program.double, DOUBLE, TUNED, before=NamedConfig(BLOCK=512, num_warps=4, num_stages=3))
    yield folder
    fusetune.uninstall()
    fusetune.load()


def blocks(run) -> list[int]:
    return [named["BLOCK"] for _, _, named, _ in launches_of(run)[1]]


def test_launches_take_their_entries_until_it_is_undone_and_the_report_is_written_then(tmp_path):
    held = InterpretedFunction.run, Autotuner.run
    before = dict(os.environ)

    def run() -> None:
        fusetune.install(report="served.json")
        program.doubled(4096)
        program.added(300)
        assert {kernel.name: kernel.launches for kernel in fusetune.served().kernels} == {"double": 1, "add": 1}
        fusetune.uninstall()
        program.doubled(4096)

    assert blocks(run) == [64, 256, 512]
    assert program.BENCHED == []
    assert held == (InterpretedFunction.run, Autotuner.run)
    assert dict(os.environ) == before
    report = json.loads((tmp_path / "served.json").read_text(encoding="utf-8"))
    assert [kernel["name"] for kernel in report["kernels"]] == ["double", "add"]
    assert fusetune.served().kernels == ()


def test_nothing_is_left_of_one_that_is_undone():
    held = len(process_configs._dependents)
    for _ in range(3):
        fusetune.install()
        fusetune.uninstall()
    assert len(process_configs._dependents) == held


def test_a_folder_that_is_named_is_looked_in_and_a_second_call_takes_the_place_of_the_first(configs, tmp_path):
    configs.rename(tmp_path / "elsewhere")
    held = InterpretedFunction.run

    def run() -> None:
        fusetune.install()
        program.doubled(4096)
        fusetune.install(tmp_path / "elsewhere", on_miss="error")
        program.doubled(4096)
        with pytest.raises(MissingConfigError):
            program.added(300)
        fusetune.uninstall()

    assert blocks(run) == [512, 64]
    assert InterpretedFunction.run is held
    assert blocks(lambda: program.doubled(4096)) == [512]


def test_children_inherit_it_unless_they_are_not_to():
    text = "import json, os; print('FUSETUNE_RUN' in os.environ)"
    found = []
    for children in (True, False):
        fusetune.install(children=children)
        found.append(subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout)
        fusetune.uninstall()
    assert found == ["True\n", "False\n"]


def test_what_a_program_has_put_into_its_environment_since_stays(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    fusetune.install()
    os.environ["PYTHONPATH"] += os.pathsep + "/more"
    os.environ["FUSETUNE_RUN"] = "theirs"
    fusetune.uninstall()
    assert os.environ["PYTHONPATH"] == os.pathsep.join(["/mine", "/more"])
    assert os.environ.pop("FUSETUNE_RUN") == "theirs"


def test_a_report_that_cannot_be_written_is_told_when_all_is_as_it_was(tmp_path):
    held = InterpretedFunction.run
    fusetune.install(report=tmp_path / "no" / "served.json")
    assert InterpretedFunction.run is not held
    with pytest.raises(FileNotFoundError):
        fusetune.uninstall()
    assert InterpretedFunction.run is held
    assert "FUSETUNE_RUN" not in os.environ


def test_what_a_process_served_before_it_installs_is_told_to_who_started_it(tmp_path):
    above = process.begin(Settings(folder=str(tmp_path)))
    program.doubled(4096)
    fusetune.install()
    program.doubled(4096)
    assert [one.launches for one in fusetune.served().kernels] == [1]
    fusetune.uninstall()
    assert process.current() is None
    assert [one.launches for one in process.read_served(tmp_path).kernels] == [1]
    assert process.read_served(tmp_path) == above.served()


def test_a_forked_process_tells_its_own_launches_to_its_parent():
    fusetune.install()
    program.doubled(4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own of a fork beside threads
        child = os.fork()
        if not child:
            program.doubled(4096)
            program.added(300)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    found = fusetune.served()
    assert {one.name: one.launches for one in found.kernels} == {"double": 2, "add": 1}
    assert found.processes == 2


def test_mistakes_are_told_at_once():
    with pytest.raises(UsageError, match="did you mean default"):
        fusetune.install(on_miss="defualt")  # type: ignore[arg-type]
    with pytest.raises(ConfigFileError, match="nowhere"):
        fusetune.install("nowhere")
    assert "FUSETUNE_RUN" not in os.environ


def test_neither_torch_nor_triton_is_loaded_by_it():
    text = "import fusetune, sys; fusetune.install(); print({'torch', 'triton', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
