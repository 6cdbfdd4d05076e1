"""A run's lock keeps others from its journal, and git never sees it."""

from __future__ import annotations

import multiprocessing
import subprocess
from pathlib import Path

import pytest

from fusetune.core.progress import SilentProgress
from fusetune.measure.fake import FakeMeasurer
from fusetune.store.locks import lock_place
from fusetune.tune.ledger import lock_journal
from fusetune.tune.sweep import sweep
from tests.support.killable import FAILURES, NOISE, RTX4090, TRUE_US, install_compiler, request_of


def seen_by_git(folder: Path) -> set[str]:
    done = subprocess.run(
        ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=all", "--ignored=no"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line[3:] for line in done.stdout.splitlines()}


def test_git_sees_the_journal_and_the_configs_of_a_run_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a .gitignore of nobody's: journals are committed beside the configs that they are the evidence of."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    install_compiler(monkeypatch)
    result = sweep(
        request_of(tmp_path),
        FakeMeasurer(RTX4090, TRUE_US.__getitem__, noise=NOISE, failures=FAILURES),
        SilentProgress(),
    )
    files = {str(file.relative_to(tmp_path)) for file in (result.journal, result.file)}
    assert seen_by_git(tmp_path) == files
    assert [path.name for path in result.journal.parent.iterdir() if path != result.journal] == [".locks"]


def test_what_held_a_lock_leaves_it_for_exactly_one_other(tmp_path: Path) -> None:
    """The file stays: were it removed, one who had opened it and one who made it anew would both hold it."""
    journal = tmp_path / "20261123T101500-3f9a21.jsonl"
    journal.touch()
    first = lock_journal(journal)
    assert first is not None
    assert lock_journal(journal) is None
    first.release()
    assert lock_place(journal).is_file()
    second = lock_journal(journal)
    assert second is not None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_can_be_had, (journal,)) is False
        second.release()
        assert pool.apply(_can_be_had, (journal,)) is True


def _can_be_had(journal: Path) -> bool:
    lock = lock_journal(journal)
    if lock is not None:
        lock.release()
    return lock is not None
