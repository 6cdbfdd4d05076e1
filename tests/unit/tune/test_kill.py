"""`kill -9` at any moment of a sweep loses the measurement in flight, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusetune.store.journal import RunEnd, read_journal
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file
from tests.support.killable import BEGUN, FAST, PROBLEM, RTX4090, Taken
from tests.support.sample import FILE, OP

ROOT = Path(__file__).parents[3]
KILLS = 30
MOST_IN_A_FOLDER = 7
EARLIEST_S = 0.02
LATER = 0.6


class Sweeps:
    """Processes that sweep, one after another."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def finish(self, folder: Path) -> None:
        """Let it run to its end."""
        self._ask(folder)
        assert self._ask() == 0

    def killed(self, folder: Path, after_s: float) -> bool:
        """Whether the sweep still ran after so long; then it was killed there."""
        process = self._ask(folder)
        time.sleep(after_s)
        os.kill(process, signal.SIGKILL)  # Where it has ended, nobody else has its number yet.
        code = self._ask()
        assert code in {0, -signal.SIGKILL}
        return code != 0

    def _ask(self, what: Path | str = "") -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(what, file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


@pytest.fixture
def sweeps() -> Iterator[Sweeps]:
    command = [sys.executable, "-m", "tests.support.killable"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Sweeps(server)


def yaml_of(folder: Path) -> Path:
    return config_path(folder / "configs", RTX4090.name, OP)


def entry_of(folder: Path) -> Entry:
    (entry,) = read_config_file(yaml_of(folder)).entries
    return entry


def measured(folder: Path) -> int:
    """How many measurements the journals hold."""
    return sum(len(Taken(read_journal(path))) for path in (folder / "runs").glob("*.jsonl"))


def assert_nothing_was_lost(folder: Path, kills: int, unkilled: Taken) -> None:
    runs = [list(read_journal(path)) for path in (folder / "runs").glob("*.jsonl")]
    # A kill after its last line leaves a finished run, so that the same command begins another.
    assert all(isinstance(records[-1], RunEnd) for records in runs)
    taken = [Taken(records) for records in runs]
    assert all(one.blocks == unkilled.blocks for one in taken)
    assert sum((one.checks for one in taken), Counter()) == unkilled.checks
    samples = sum((Counter(one.candidates_samples) for one in taken), Counter())
    assert samples == unkilled.candidates_samples
    begun = (folder / BEGUN).read_bytes().count(b"\n")
    assert 0 <= begun - measured(folder) <= kills


@pytest.mark.timeout(240)
def test_thirty_kills_at_random_moments_lose_at_most_the_measurement_in_flight(tmp_path: Path, sweeps: Sweeps) -> None:
    sweeps.finish(tmp_path / "first")  # Behind which all is imported.
    began = time.monotonic()
    sweeps.finish(tmp_path / "unkilled")
    lasts_s = time.monotonic() - began
    (journal,) = (tmp_path / "unkilled" / "runs").glob("*.jsonl")
    unkilled, expected = Taken(read_journal(journal)), entry_of(tmp_path / "unkilled")
    assert (expected.config, expected.verdict) == (FAST, "keep")

    rng = random.Random(20)
    left, in_the_middle, folders = KILLS, 0, 0
    while left:
        folder = tmp_path / str(folders)
        folders += 1
        kills = 0
        # The first may come as late as the end; what goes on later is shorter.
        while sweeps.killed(folder, rng.uniform(EARLIEST_S, lasts_s * (LATER if kills else 1))):
            kills += 1
            in_the_middle += 0 < measured(folder) < len(unkilled)
            if yaml_of(folder).exists():
                assert entry_of(folder).config == FAST
            if kills == min(left, MOST_IN_A_FOLDER):
                sweeps.finish(folder)
                break
        left -= kills

        entry = entry_of(folder)
        found = (entry.problem, entry.config, entry.verdict, entry.reason)
        assert found == (PROBLEM, expected.config, expected.verdict, expected.reason)
        assert {path.name for path in yaml_of(folder).parent.iterdir()} == {FILE, ".locks"}
        assert_nothing_was_lost(folder, kills, unkilled)
    assert in_the_middle >= KILLS / 4
