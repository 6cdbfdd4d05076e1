"""How the command ends when its streams, its limits or a signal end it: quietly, and with the right exit code."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from fusetune.measure.nvml import gpu_present
from tests.support.sample import FILE, SIZES

pytestmark = pytest.mark.skipif(gpu_present(), reason="there is a GPU here; these tests say what happens without one")

COMMAND = (sys.executable, "-m", "fusetune")
SHIPPED = Path(__file__).parents[2] / "configs"
SWEEP = ("sweep", *SIZES, "--space", "seed", "--workers", "2")
PRINTING: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "help of a command": ("sweep", "--help"),
    "targets": ("targets",),
    "report": ("report", "--configs", str(SHIPPED)),
    "report as JSON": ("report", "--configs", str(SHIPPED), "--format", "json"),
    "gate": ("gate", "--on-mismatch", "skip", str(SHIPPED)),
    "export": ("export", *SIZES, "--configs", str(SHIPPED)),
}
"""Commands that print and change nothing."""


class Ended(NamedTuple):
    """How a process ended, and what it wrote to stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def environment(compiled: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FUSETUNE_", "GITHUB_"))}
    return {**kept, "TRITON_CACHE_DIR": str(compiled)}


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Ended]:
    """Runs the command behind a shell's redirections; `$@` is the command."""

    def run(script: str, *arguments: str, **more: str) -> Ended:
        done = subprocess.run(
            ["bash", "-c", script, "bash", *COMMAND, *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.parametrize("name", PRINTING)
def test_a_reader_that_goes_away_ends_a_command_quietly(shell: Callable[..., Ended], name: str) -> None:
    ended = shell('"$@" | true; exit ${PIPESTATUS[0]}', *PRINTING[name])
    assert ended.code in (0, 141), ended  # 0 where all was written before the reader had gone
    assert ended.err == ""


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_report_cut_by_head_is_the_exit_code_of_a_broken_pipe(shell: Callable[..., Ended], buffered: str) -> None:
    script = '"$@" | { read -r line; exec <&-; echo "$line"; }; exit ${PIPESTATUS[0]}'
    ended = shell(script, *PRINTING["report as JSON"], PYTHONUNBUFFERED=buffered)
    assert (ended.code, ended.out, ended.err) == (141, "{\n", "")


@pytest.mark.parametrize(("name", "buffered"), [*((name, "") for name in PRINTING), ("targets", "1"), ("report", "1")])
def test_a_full_output_is_one_line_that_names_it(shell: Callable[..., Ended], name: str, buffered: str) -> None:
    ended = shell('"$@" > /dev/full', *PRINTING[name], PYTHONUNBUFFERED=buffered)
    assert ended.code == 3, ended
    assert ended.err == "Error: stdout: No space left on device; make room there, or name another folder\n"


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-"])
@pytest.mark.parametrize("name", PRINTING)
def test_a_command_without_streams_ends_as_ever(shell: Callable[..., Ended], name: str, closed: str) -> None:
    ended = shell(f'"$@" {closed}', *PRINTING[name])
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-"])
def test_a_mistake_that_cannot_be_told_has_its_exit_code_all_the_same(shell: Callable[..., Ended], closed: str) -> None:
    assert shell(f'"$@" {closed}', "targets", "nosuch").code == 2


def test_a_sweep_without_streams_writes_its_files_and_nothing_else_into_them(
    shell: Callable[..., Ended], tmp_path: Path
) -> None:
    assert shell('"$@" >&- 2>&-', *SWEEP).code == 0
    (entries,) = (yaml.safe_load(path.read_text())["entries"] for path in tmp_path.rglob(FILE))
    assert len(entries) == 1
    (journal,) = tmp_path.rglob("*.jsonl")
    assert all(line.startswith("{") for line in journal.read_text().splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("name", ["report", "export"])
def test_letters_that_an_encoding_lacks_are_no_end_of_a_command(
    shell: Callable[..., Ended], name: str, encoding: str
) -> None:
    more = {"PYTHONIOENCODING": encoding, "TERM": "dumb", "COLUMNS": "1", "LC_ALL": "C"}
    ended = shell('"$@" | iconv -f latin1 -t utf8; exit ${PIPESTATUS[0]}', *PRINTING[name], **more)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("files", [8, 12, 16, 17, 18])
def test_too_few_open_files_are_one_line_on_the_machine(shell: Callable[..., Ended], files: int) -> None:
    ended = shell(f'ulimit -n {files}; "$@"', *SWEEP, "--fresh")
    assert "Traceback" not in ended.err
    errors = [line for line in ended.err.splitlines() if "rror" in line]
    # 3 where the command cannot even begin, 4 where its sweep has and nothing could be tuned.
    assert ended.code in (0, 3, 4), ended
    assert len(errors) == (1 if ended.code else 0), ended.err
    if files <= 12:
        assert ended.code
        assert "`ulimit -n`" in errors[0]


def test_too_little_memory_is_one_line_on_the_machine(shell: Callable[..., Ended]) -> None:
    ended = shell('ulimit -v 200000; OPENBLAS_NUM_THREADS=1 "$@"', "inspect", *SIZES)
    assert ended.code == 3, ended
    assert "Traceback" not in ended.err
    assert "memory" in ended.err.splitlines()[-1]


# --- signals


def started(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    # Not as in a shell's background, where it is ignored, and so by all that is started there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def signalled(process: subprocess.Popen[str], number: int, *, group: bool) -> str:
    (os.killpg if group else os.kill)(process.pid, number)
    try:
        return process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


_CHANCE = random.Random(38)
EARLIEST_S = 0.15
MOMENTS = [_CHANCE.uniform(EARLIEST_S, 1.6) for _ in range(2)]
LAST_WORDS = "to measure and verify.\n"


@pytest.mark.parametrize("moment", [EARLIEST_S, *MOMENTS])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_is_quiet_has_its_exit_code_and_leaves_nothing_half_written(
    tmp_path: Path, environment: dict[str, str], number: int, moment: float
) -> None:
    process = started(tmp_path, environment, *SWEEP, "--fresh")
    time.sleep(moment)
    if process.poll() is None:
        said = signalled(process, number, group=number == signal.SIGINT)
        # No signal changes the exit code of a process that the kernel is taking apart already: all was done by then.
        # One that Python had not begun with ends by the signal itself, which is the same code to a shell.
        early = moment == EARLIEST_S and process.returncode == -number and not said
        late = process.returncode == 0 and said.endswith(LAST_WORDS)
        assert process.returncode == 128 + number or early or late, said
    else:
        said = process.communicate()[0]
        assert process.returncode == 0
        assert said.endswith(LAST_WORDS)
    assert "Traceback" not in said
    assert "Error" not in said
    for path in tmp_path.rglob("*.yaml"):
        assert yaml.safe_load(path.read_text())["entries"]
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(shell: Callable[..., Ended]) -> None:
    ended = shell('trap "" HUP; "$@" & sleep 0.5; kill -HUP $!; wait $!', *SWEEP)
    assert ended.code == 0, ended
