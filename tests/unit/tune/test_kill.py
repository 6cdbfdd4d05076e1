"""`kill -9` at any moment of a sweep loses the measurement in flight, and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
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
EARLIEST_S = 0.2
LATER = 0.6


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.killable", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def finish(folder: Path) -> None:
    """Let it run to its end."""
    with start(folder) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def killed(folder: Path, after_s: float) -> bool:
    """Whether the sweep still ran after so long; then it was killed there."""
    with start(folder) as process:
        try:
            _, errors = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    assert process.returncode == 0, errors.decode()
    return False


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
def test_thirty_kills_at_random_moments_lose_at_most_the_measurement_in_flight(tmp_path: Path) -> None:
    began = time.monotonic()
    finish(tmp_path / "unkilled")
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
        while killed(folder, rng.uniform(EARLIEST_S, lasts_s * (LATER if kills else 1))):
            kills += 1
            in_the_middle += 0 < measured(folder) < len(unkilled)
            if yaml_of(folder).exists():
                assert entry_of(folder).config == FAST
            if kills == min(left, MOST_IN_A_FOLDER):
                finish(folder)
                break
        left -= kills

        entry = entry_of(folder)
        found = (entry.problem, entry.config, entry.verdict, entry.reason)
        assert found == (PROBLEM, expected.config, expected.verdict, expected.reason)
        assert {path.name for path in yaml_of(folder).parent.iterdir()} == {FILE, ".locks"}
        assert_nothing_was_lost(folder, kills, unkilled)
    assert in_the_middle >= KILLS / 4
