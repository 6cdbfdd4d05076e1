"""The process that owns the GPU, with tasks that need none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusetune.errors import UsageError
from fusetune.measure.fork_server import ForkServer
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
def server() -> Iterator[ForkServer]:
    started = ForkServer()
    yield started
    started.close()


@pytest.fixture
def worker(server: ForkServer) -> Iterator[Worker]:
    started = Worker(server)
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


def load_slowly() -> None:
    time.sleep(1.0)


def test_closing_one_that_is_not_there_yet_does_not_wait_for_its_server() -> None:
    server = ForkServer(load_slowly)
    try:
        early = Worker(server)
        began = time.monotonic()
        early.close()
        assert time.monotonic() - began < 0.5
        assert Worker(server).call(double, 4, limit_s=LIMIT_S) == 8
        assert gone(early.pid)
    finally:
        server.close()


def test_ctrl_c_does_not_reach_the_worker(worker: Worker) -> None:
    worker.call(process, limit_s=LIMIT_S)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert worker.call(double, 3, limit_s=LIMIT_S) == 6


def modules() -> set[str]:
    return set(sys.modules)


def test_a_worker_imports_nothing_of_the_command_line_and_not_the_main_module(worker: Worker) -> None:
    loaded = worker.call(modules, limit_s=LIMIT_S)
    assert "fusetune.measure.worker" in loaded
    assert not loaded & {"click", "fusetune.cli", "pytest.__main__", "torch", "triton"}


def test_a_module_that_only_the_path_of_the_caller_finds_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_own.py").write_text("def answer(): return 42")
    monkeypatch.syspath_prepend(tmp_path)
    import users_own  # type: ignore[import-not-found]

    server = ForkServer()
    try:
        assert Worker(server).call(users_own.answer, limit_s=LIMIT_S) == 42
    finally:
        server.close()


def test_modules_of_the_folder_it_starts_in_do_not_replace_those_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("signal", "socket", "fusetune"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    server = ForkServer()
    try:
        assert Worker(server).call(double, 21, limit_s=LIMIT_S) == 42
    finally:
        server.close()


def test_killing_does_not_wait_and_closing_afterwards_does(worker: Worker) -> None:
    worker.call(process, limit_s=LIMIT_S)
    worker.kill()
    worker.close()
    assert not alive(worker.pid)
    with pytest.raises(WorkerLostError, match="killed: the worker was ended by SIGKILL"):
        worker.call(double, 1, limit_s=LIMIT_S)


# --- a caller of its own


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts a caller's main module."""

    def start(text: str) -> subprocess.Popen[str]:
        path = tmp_path / "caller.py"
        path.write_text(textwrap.dedent(text))
        return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)

    return start


def gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while alive(pid) and not zombie(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def zombie(pid: int) -> bool:
    """Dead, and not yet taken note of by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_what_the_main_module_defines_is_found_and_its_main_part_is_not_run_again(
    script: Callable[[str], subprocess.Popen[str]],
) -> None:
    caller = script(
        """
        from fusetune.measure.fork_server import ForkServer
        from fusetune.measure.worker import Worker

        class Spec:
            def answer(self):
                return 42

        def ask(spec):
            return spec.answer()

        if __name__ == "__main__":
            print("main", flush=True)
            worker = Worker(ForkServer())
            print([worker.call(ask, Spec(), limit_s=60) for _ in range(2)])
            worker.close()
        """
    )
    assert caller.communicate()[0] == "main\n[42, 42]\n"
    assert caller.returncode == 0


@pytest.mark.parametrize("task", ["time.sleep, 0", "time.sleep, 600"])
@pytest.mark.parametrize("end", ["returns", "fails"])
def test_a_worker_ends_with_its_caller_whatever_it_is_doing(
    script: Callable[[str], subprocess.Popen[str]], task: str, end: str
) -> None:
    caller = script(
        f"""
        import os, time
        from fusetune.measure.fork_server import ForkServer
        from fusetune.measure.worker import Worker
        worker = Worker(ForkServer())
        worker.call(os.getpid, limit_s=60)
        worker.begin({task})
        print(worker.pid, flush=True)
        {"raise SystemExit(3)" if end == "fails" else ""}
        """
    )
    pid = int(caller.communicate()[0])
    assert caller.returncode == (3 if end == "fails" else 0)
    assert gone(pid)


def test_a_resting_worker_ends_when_its_caller_is_killed(script: Callable[[str], subprocess.Popen[str]]) -> None:
    caller = script(
        """
        import os, time
        from fusetune.measure.fork_server import ForkServer
        from fusetune.measure.worker import Worker
        worker = Worker(ForkServer())
        print(worker.call(os.getpid, limit_s=60), flush=True)
        time.sleep(600)
        """
    )
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    assert alive(pid)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert gone(pid)


def test_two_workers_do_not_keep_each_other_alive(script: Callable[[str], subprocess.Popen[str]]) -> None:
    caller = script(
        """
        import os, time
        from fusetune.measure.fork_server import ForkServer
        from fusetune.measure.worker import Worker
        server = ForkServer()
        workers = [Worker(server), Worker(server)]
        print(*(worker.call(os.getpid, limit_s=60) for worker in workers), flush=True)
        time.sleep(600)
        """
    )
    assert caller.stdout is not None
    pids = [int(word) for word in caller.stdout.readline().split()]
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert all(gone(pid) for pid in pids)
