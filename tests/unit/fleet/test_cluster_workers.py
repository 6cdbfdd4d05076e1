"""What a client makes of a cluster's workers in trouble. The client of Dask is a stub, and none of it needs Dask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fusetune.fleet import cluster as cluster_module
from fusetune.fleet.cluster import ClusterExecutor, Hosted
from fusetune.fleet.lane import Begin
from fusetune.fleet.lanes import SILENT_ENDS
from fusetune.fleet.words import Answer, Ended, Event, Joined, Left, Said, Seen, Work

SEEN = Seen("w", "GPU-1", "NVIDIA H200", "9.0")
WORK = Work(7, None, b"", "NVIDIA H200")


class Future:
    """What a worker will say."""

    def __init__(self) -> None:
        self._called: list[Callable[[Any], None]] = []
        self._said: Any = None

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self._called.append(call)

    def ends(self, said: Any) -> None:
        self._said = said
        for call in self._called:
            call(self)

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return self._said is not None

    def exception(self) -> Exception | None:
        return self._said if isinstance(self._said, Exception) else None

    def result(self) -> Any:
        return self._said


class Client:
    """A cluster of one worker, which says what a test says."""

    scheduler = type("Scheduler", (), {"identity": None})

    def __init__(self) -> None:
        self.futures: list[Future] = []
        self.stands_still = threading.Event()
        self.closed = False

    def sync(self, _: Any) -> Any:
        return {"workers": {"tcp://w": {"name": "w", "resources": {"GPU": 1}}}}

    def subscribe_topic(self, _: str, heard: Callable[[Any], None]) -> None:
        self.heard = heard

    def unsubscribe_topic(self, _: str) -> None:
        pass

    def cancel(self, _: Any) -> None:
        pass

    def submit(self, *_: Any, **__: Any) -> Future:
        self.futures.append(Future())
        return self.futures[-1]

    def scatter(self, *_: Any, **__: Any) -> Any:
        raise TimeoutError("No valid workers found")

    def run(self, *_: Any, **__: Any) -> None:
        if self.stands_still.is_set():
            time.sleep(60)

    def close(self, timeout: float) -> None:
        self.closed = True

    def says(self, text: str) -> None:
        self.heard((0, {"name": "w", "text": text, "warning": False}))


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def executor(client: Client) -> ClusterExecutor:
    made = ClusterExecutor(client, Begin(""), Hosted(*[print] * 4))
    made.expected()
    client.futures[0].ends(SEEN)
    assert made.event(0.0) == Joined(SEEN)
    return made


def events(executor: ClusterExecutor) -> list[Event]:
    found = []
    while (event := executor.event(0.0)) is not None:
        found.append(event)
    return found


def test_a_worker_whose_lane_ends_before_a_word_each_time_is_not_asked_for_ever(
    client: Client, executor: ClusterExecutor
) -> None:
    for number in range(SILENT_ENDS):
        executor.begin("w", WORK)
        client.futures[-1].ends(Answer(7, "lost", "exit code 1"))
        last = number == SILENT_ENDS - 1
        assert events(executor) == [Left("w", "exit code 1", returns=not last), *([] if last else [Joined(SEEN)])]


def test_a_worker_whose_lane_is_killed_at_its_work_goes_on(client: Client, executor: ClusterExecutor) -> None:
    for _ in range(2 * SILENT_ENDS):
        executor.begin("w", WORK)
        client.says("Loading")
        client.futures[-1].ends(Answer(7, "lost", "by SIGKILL"))
        assert events(executor) == [Said("w", "Loading"), Left("w", "by SIGKILL", returns=True), Joined(SEEN)]


def test_a_worker_that_answers_as_it_is_given_up_joins_again(client: Client, executor: ClusterExecutor) -> None:
    executor.begin("w", WORK)
    executor.end("w")
    client.futures[-1].ends(Answer(7, "done"))
    assert events(executor)[-1] == Joined(SEEN)
    executor.begin("w", WORK)
    client.futures[-1].ends(Answer(7, "done"))
    assert events(executor) == [Ended("w", Answer(7, "done"))]


def test_a_worker_that_goes_while_a_large_problem_is_sent_to_it_has_left(
    executor: ClusterExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "SCATTERED_BYTES", 1)
    executor.begin("w", WORK)
    (left,) = events(executor)
    assert isinstance(left, Left)
    assert "No valid workers found" in left.why


@pytest.mark.timeout(20)
def test_a_worker_that_stands_still_does_not_keep_the_command_from_its_end(
    client: Client, executor: ClusterExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CLOSE_LIMIT_S", 0.1)
    client.stands_still.set()
    executor.close()
    assert client.closed
