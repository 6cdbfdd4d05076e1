"""What the Tab key shows: commands, options, and the values that are known here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from fusetune.cli.commands import COMMANDS, cli
from fusetune.ops.approved import Approved, approve
from fusetune.ops.built_in import named_values
from tests.support.sample import EVALUATION, FILE, OP, OP_WITH_MODES, TRAINING

RUNS = ("20261122T080000-0a1b2c", "20261123T101500-3f9a21")


def completed(*words: str) -> list[str]:
    """What stands for the last word."""
    shell = ShellComplete(cli, {}, "fusetune", "_FUSETUNE_COMPLETE")
    return [item.value for item in shell.get_completions([*words[:-1]], words[-1])]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two journals and one file of configs, and a user without any."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FUSETUNE_CONFIGS", "FUSETUNE_RUNS"):
        monkeypatch.delenv(name, raising=False)
    runs = Path(".fusetune/runs")
    runs.mkdir(parents=True)
    for run in RUNS:
        (runs / f"{run}.jsonl").touch()
    own = Path("configs/acme-x1")
    own.mkdir(parents=True)
    (own / "model_norm.yaml").touch()
    (own / FILE).touch()
    return tmp_path


def test_commands_are_completed_without_loading_any() -> None:
    assert completed("") == list(COMMANDS)
    assert completed("co") == ["compare"]


def test_options_are_completed() -> None:
    assert completed("report", "--ver") == ["--verdict", "--verbose"]


@pytest.mark.parametrize(
    "words",
    [("sweep", "--target"), ("tune", "--target"), ("inspect", "--target"), ("export", "--target"), ("targets",)],
)
def test_a_gpu_of_the_table_is_completed(words: tuple[str, ...]) -> None:
    assert completed(*words, "rtx40") == ["rtx4090", "rtx4080"]
    assert "a100" in completed(*words, "A1")


def test_an_op_is_one_that_comes_with_fusetune_or_that_the_user_named() -> None:
    approve("/home/ada/own.py:SPEC", Approved("vector_add"))
    assert completed("sweep", "--op", "") == [OP, OP_WITH_MODES, "vector_add"]


def test_the_words_that_an_op_takes_are_completed() -> None:
    assert completed("sweep", "--dtype", "bf") == ["bfloat16", "bf16"]
    assert completed("sweep", "--mode", "") == [TRAINING, EVALUATION]


def test_each_word_that_is_completed_is_one_that_the_op_takes() -> None:
    from fusetune.ops.types import types_of

    sizes = {value.name: 64 for value in named_values() if value.is_size}
    for value in named_values():
        for choice in value.choices:
            mode = {} if value.name == "mode" else {"mode": EVALUATION}
            types_of(OP_WITH_MODES).make({**sizes, **mode, value.name: choice})


def test_a_report_completes_what_the_files_of_configs_hold() -> None:
    assert {*completed("report", "--configs", "configs", "--op", "")} == {OP, "model_norm"}
    assert "acme-x1" in completed("report", "--gpu", "")
    assert "h200" in completed("report", "--gpu", "h"), "it comes with fusetune"
    assert completed("report", "--dtype", "bfl") == ["bfloat16"]
    assert completed("report", "--verdict", "k") == ["keep"]


def test_a_value_that_is_given_already_is_not_offered_again() -> None:
    assert completed("report", "--dtype", "bfloat16", "--dtype", "bfl") == []


@pytest.mark.parametrize("words", [("report", "--run"), ("gate", "--from"), ("compare",), ("compare", RUNS[0])])
def test_runs_are_completed_the_newest_first(words: tuple[str, ...]) -> None:
    assert completed(*words, "") == ["latest", RUNS[1], RUNS[0]]
    assert completed(*words, "20261122") == [RUNS[0]]


def test_runs_are_those_of_the_folder_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "20250101T000000-aaaaaa.jsonl.gz").touch()
    assert completed("report", "--runs", "others", "--run", "2") == ["20250101T000000-aaaaaa"]


def test_a_program_is_completed_as_a_file() -> None:
    shell = ShellComplete(cli, {}, "fusetune", "_FUSETUNE_COMPLETE")
    for command in ("tune", "run", "capture", "compare"):
        assert [item.type for item in shell.get_completions([command], "tr")] == ["file"]


def test_what_cannot_be_looked_into_completes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_RUNS", "~nobody-of-this-name/runs")
    monkeypatch.setenv("FUSETUNE_CONFIGS", "~nobody-of-this-name/configs")
    assert completed("report", "--run", "") == []
    assert completed("report", "--gpu", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_answers_a_shell_and_gives_it_its_script(here: Path, shell: str) -> None:
    words = "fusetune report --run 20261122"
    asked = {"COMP_WORDS": words, "COMP_CWORD": "20261122" if shell == "fish" else "3"}
    command = [sys.executable, "-m", "fusetune"]

    def told(**more: str) -> str:
        done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert RUNS[0] in told(_FUSETUNE_COMPLETE=f"{shell}_complete", **asked)
    if shell != "bash":  # Of bash click asks the version first.
        assert "_FUSETUNE_COMPLETE" in told(_FUSETUNE_COMPLETE=f"{shell}_source")


def test_completing_loads_nothing_heavy() -> None:
    script = (
        "import sys, fusetune.cli.main, fusetune.cli.commands as c; from click.shell_completion import ShellComplete\n"
    )
    script += "ShellComplete(c.cli, {}, 'fusetune', 'X').get_completions(['sweep', '--target'], 'a')\n"
    script += "print({'torch', 'triton', 'scipy', 'numpy', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
