"""A process that waits when one set of runs is done serves the next, unless it was started in another environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusetune.capture import again
from fusetune.capture.again import AgainRequest, FreshProcesses
from fusetune.capture.programs import Program

ANSWERS = (
    "import sys; request, answer = (sys.stdin.readline().strip() for _ in range(2)); open(answer, 'w').write('{}')"
)
ASKED = AgainRequest(Program("script", "a.py"), (), apply=True)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were started, in their order."""
    found: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        found.append(subprocess.Popen([sys.executable, "-c", ANSWERS], stdin=subprocess.PIPE))
        return found[-1]

    monkeypatch.setattr(again, "_started", start)
    return found


def run() -> None:
    with FreshProcesses(ahead=True) as processes:
        assert processes.run(ASKED, 20.0).failed is None


def test_alone_each_set_of_runs_ends_the_process_that_waits(started: list[subprocess.Popen[bytes]]) -> None:
    run()
    run()
    assert len(started) == 4
    assert all(one.poll() is not None for one in started)


def test_it_is_handed_on_and_ended_at_last(started: list[subprocess.Popen[bytes]]) -> None:
    with FreshProcesses.handed_on():
        run()
        assert len(started) == 2
        assert started[1].poll() is None, "it waits"
        run()
        assert len(started) == 3
    assert all(one.poll() is not None for one in started)


def test_one_of_another_environment_serves_nobody(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FreshProcesses.handed_on():
        run()
        monkeypatch.setenv("FUSETUNE_CONFIGS", "/elsewhere")
        run()
        assert started[1].poll() is not None, "it did not see where configs are"
        assert len(started) == 4
