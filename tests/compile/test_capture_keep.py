"""`fusetune capture --keep` without a GPU: what lies on disk afterwards, is listed, and is removed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fusetune.capture.kept import read_kept
from fusetune.capture.restore import load_kept_kernel
from tests.support.warm import warm_python

PROGRAMS = Path(__file__).parents[1] / "support" / "programs"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def capture(tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [warm_python(), "-m", "fusetune", "capture", *words]
        environment = {**os.environ, "COLUMNS": "140", "XDG_STATE_HOME": str(tmp_path)}
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240, env=environment
        )

    return run


def test_cases_are_kept_listed_and_removed(capture, tmp_path):
    done = capture("--keep", "--json", "--target", "rtx4090", str(PROGRAMS / "autotuned_add.py"), "5000")
    assert done.returncode == 0, done.stderr
    looked = json.loads(done.stdout)
    (case,) = looked["cases"]
    folder = Path(case["kept"])
    assert folder.parent == Path(looked["kept"])
    assert folder.is_relative_to(tmp_path / "fusetune" / "captures")
    kept = read_kept(folder)
    assert load_kept_kernel(kept, folder).__name__ == "add"
    assert kept.case.kernel.source_hash == case["kernel"]["source_hash"]
    assert [one["BLOCK"] for one in kept.proposals] == [256, 1024]
    own = kept.constants()["BLOCK"]
    assert kept.at({"BLOCK": own * 2}).grid == (-(-5000 // (own * 2)),)
    assert kept.storages[0].how == "nothing"

    (run,) = json.loads(capture("--list", "--json").stdout)
    assert (run["run"], run["cases"]) == (folder.parent.name, 1)
    assert "autotuned_add.py 5000" in run["program"]
    assert folder.parent.name in capture("--list").stdout
    assert capture("--remove", folder.parent.name).returncode == 0
    assert not folder.parent.exists()
    assert "no case is kept" in capture("--list").stdout
    assert capture("--remove", "all").returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--exact", "a.py"), "--exact belongs to --keep"),
        (("--quota", "1GiB", "a.py"), "--quota belongs to --keep"),
        (("--keep", "--quota", "much", "a.py"), "is no size; write it as 4GiB or 500MB"),
        (("--list", "a.py"), "stand alone"),
        (("--remove", "../.."), "no run ../.. is kept"),
    ],
)
def test_what_cannot_be_is_told(capture, words, told):
    done = capture(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
