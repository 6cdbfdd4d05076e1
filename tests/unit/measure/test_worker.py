"""The process that owns the GPU, with tasks that need none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusetune.errors import UsageError
from fusetune.measure.worker import Worker, WorkerLostError

LIMIT_S = 60.0
EXIT_CODE = 86


def double(number: int) -> int:
    return 2 * number


def process() -> int:
    return os.getpid()


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def read(path: Path) -> str:
    return path.read_text()


def refuse(text: str) -> None:
    raise UsageError(text)


class AwkwardError(Exception):
    """Pickles, and cannot be made again from what was pickled."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def raise_awkward() -> None:
    raise AwkwardError("one", "other")


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.close()


def alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_tasks_are_done_in_another_process_and_always_the_same(worker: Worker) -> None:
    assert worker.call(double, 21, limit_s=LIMIT_S) == 42
    pids = {worker.call(process, limit_s=LIMIT_S) for _ in range(2)}
    assert pids == {worker.pid}
    assert worker.pid != os.getpid()


def test_what_was_begun_is_done_before_what_is_called_next(worker: Worker, tmp_path: Path) -> None:
    for text in "abc":
        worker.begin(note, tmp_path / "notes", text)
    assert worker.call(read, tmp_path / "notes", limit_s=LIMIT_S) == "abc"


def test_beginning_does_not_wait_and_waiting_does(worker: Worker, tmp_path: Path) -> None:
    worker.call(process, limit_s=LIMIT_S)
    began = time.monotonic()
    worker.begin(time.sleep, 0.5)
    worker.begin(note, tmp_path / "notes", "done")
    assert time.monotonic() - began < 0.4
    worker.wait(LIMIT_S)
    assert time.monotonic() - began >= 0.5
    assert (tmp_path / "notes").read_text() == "done"


def test_what_a_begun_task_raises_is_dropped_and_the_next_one_answers_for_itself(worker: Worker) -> None:
    worker.begin(refuse, "early")
    assert worker.call(double, 1, limit_s=LIMIT_S) == 2
    with pytest.raises(UsageError, match="late"):
        worker.call(refuse, "late", limit_s=LIMIT_S)


def test_an_error_comes_back_as_itself_with_the_place_where_it_was_raised(worker: Worker) -> None:
    with pytest.raises(UsageError, match="no such thing") as caught:
        worker.call(refuse, "no such thing", limit_s=LIMIT_S)
    assert "in refuse" in str(caught.value.__cause__)
    assert worker.call(double, 2, limit_s=LIMIT_S) == 4


def test_an_error_that_cannot_travel_is_told_by_its_name(worker: Worker) -> None:
    with pytest.raises(RuntimeError, match="AwkwardError: oneother"):
        worker.call(raise_awkward, limit_s=LIMIT_S)


def test_a_task_that_hangs_costs_the_process(worker: Worker) -> None:
    worker.call(process, limit_s=LIMIT_S)
    began = time.monotonic()
    with pytest.raises(WorkerLostError) as caught:
        worker.call(time.sleep, 600, limit_s=0.3)
    assert 0.3 <= time.monotonic() - began < 10
    assert (caught.value.failure.reason, caught.value.failure.detail) == ("hang", "not done after 0 s")
    assert not alive(worker.pid)


def test_a_task_that_kills_its_process_is_a_crash_with_the_exit_code(worker: Worker) -> None:
    with pytest.raises(WorkerLostError) as caught:
        worker.call(os._exit, EXIT_CODE, limit_s=LIMIT_S)
    assert caught.value.failure.reason == "crash"
    assert caught.value.failure.detail == f"the worker died with exit code {EXIT_CODE}"


def test_a_crash_of_what_was_begun_is_told_by_the_next_call(worker: Worker) -> None:
    worker.begin(os._exit, EXIT_CODE)
    with pytest.raises(WorkerLostError, match=f"crash: the worker died with exit code {EXIT_CODE}"):
        worker.call(double, 1, limit_s=LIMIT_S)
    with pytest.raises(WorkerLostError, match="crash"):
        worker.call(double, 1, limit_s=LIMIT_S)


def test_a_closed_worker_is_gone_whatever_it_was_doing(worker: Worker) -> None:
    worker.call(process, limit_s=LIMIT_S)
    worker.begin(time.sleep, 600)
    began = time.monotonic()
    worker.close()
    assert not alive(worker.pid)
    assert time.monotonic() - began < 5
    worker.close()  # Again does no harm.


def test_ctrl_c_does_not_reach_the_worker(worker: Worker) -> None:
    worker.call(process, limit_s=LIMIT_S)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert worker.call(double, 3, limit_s=LIMIT_S) == 6
