"""What lies in the folder of the runs never ends a sweep: it is passed over with a warning, and never waited for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusetune.core.progress import SilentProgress
from fusetune.errors import JournalError, MachineError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.lock import hold_gpu
from fusetune.store.journal import read_run
from fusetune.store.locks import lock_place
from fusetune.tune import ledger
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.bad_files import JOURNALS
from tests.support.killable import FAILURES, NOISE, RTX4090, TRUE_US, install_compiler, request_of

SECONDS = 60.0


class Heard(SilentProgress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def _sweep(request: SweepRequest) -> tuple[SweepResult, list[str]]:
    heard = Heard()
    measurer = FakeMeasurer(RTX4090, TRUE_US.__getitem__, noise=NOISE, failures=FAILURES)
    began = time.monotonic()
    result = sweep(request, measurer, heard)
    assert time.monotonic() - began < SECONDS
    return result, [text for text in heard.warned if "passed over" in text]


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    install_compiler(monkeypatch)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The journal of a sweep of the same question that ended well."""
    with pytest.MonkeyPatch.context() as patch:
        install_compiler(patch)
        result, warned = _sweep(request_of(tmp_path_factory.mktemp("good")))
    assert not warned
    assert result.entry is not None
    return result.journal.read_text()


@pytest.mark.parametrize("name", JOURNALS)
def test_a_bad_journal_is_passed_over_with_one_short_warning(tmp_path: Path, good: str, name: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    bad = runs / "20200101T000000-0000.jsonl"
    JOURNALS[name](bad, good)
    result, warned = _sweep(request_of(tmp_path))
    assert result.entry is not None
    (told,) = warned
    assert str(bad) in told
    assert len(told) < 1500
    assert told.isprintable()


def test_many_bad_journals_are_one_warning(tmp_path: Path, good: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for number in range(5):
        JOURNALS["no candidate lines"](runs / f"20200101T000000-000{number}.jsonl", good)
    _, warned = _sweep(request_of(tmp_path))
    (told,) = warned
    assert told.endswith("(and 4 more)")


def test_beside_a_bad_journal_a_good_one_is_taken_over(tmp_path: Path, good: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "20200101T000000-0000.jsonl").write_text(good)
    JOURNALS["JSON of 200,000 levels"](runs / "20200101T000001-0000.jsonl", good)
    result, warned = _sweep(request_of(tmp_path))
    assert len(warned) == 1
    assert any(getattr(record, "reused", False) for record in read_run(result.journal))


def _folder_with_something(path: Path) -> None:
    path.mkdir()
    (path / "kept").touch()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


IN_A_LOCK_S_PLACE: dict[str, Callable[[Path], None]] = {
    "a folder": _folder_with_something,
    "a link to a file of somebody's": lambda path: path.symlink_to("precious"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "a socket": _socket,
}


@pytest.mark.parametrize("name", IN_A_LOCK_S_PLACE)
def test_a_cut_off_run_that_cannot_be_locked_is_passed_over_and_nothing_is_written_through_the_lock(
    tmp_path: Path, good: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.chdir(runs)
    (runs / "precious").write_text("data")
    first, *rest = good.splitlines(keepends=True)
    run = first.split('"run":"')[1].split('"')[0]
    cut_off = runs / f"{run}.jsonl"
    cut_off.write_text(first + "".join(rest[:-1]))
    IN_A_LOCK_S_PLACE[name](lock_place(cut_off))
    result, warned = _sweep(request_of(tmp_path))
    assert result.run != run
    assert result.entry is not None
    (told,) = warned
    assert str(cut_off) in told
    assert (runs / "precious").read_text() == "data"


def test_a_new_run_that_cannot_be_locked_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, **options: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(ledger.FileLock, "acquire", refuse)
    with pytest.raises(JournalError, match=r"cannot lock the journal .*: No locks available; .*FUSETUNE_RUNS"):
        _sweep(request_of(tmp_path))


def test_a_folder_in_the_place_of_a_gpu_s_lock_is_the_machine_s_trouble(tmp_path: Path) -> None:
    _folder_with_something(tmp_path / "fusetune-GPU-1.lock")
    with pytest.raises(MachineError, match=r"cannot lock .*fusetune-GPU-1\.lock"), hold_gpu("GPU-1", print, tmp_path):
        pass
