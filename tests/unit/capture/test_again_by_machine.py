"""What keeps a program from being run again, and says nothing of it: the machine, not a wrong config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.capture import again, answers
from fusetune.capture.again import AgainRequest, FreshProcesses
from fusetune.capture.look import look
from fusetune.capture.programs import Program
from fusetune.errors import MachineError, ProgramError

READS = "import os, sys; request, answer = (sys.stdin.readline().strip() for _ in range(2)); "
ASKED = AgainRequest(Program("script", "a.py"), (), apply=True)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process runs in the place of a program."""
    code = [READS]

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "".join(code)], stdin=subprocess.PIPE)

    monkeypatch.setattr(again, "_started", started)
    return code


def run() -> again.Ran:
    with FreshProcesses() as processes:
        return processes.run(ASKED, 20.0)


def test_a_process_that_the_machine_ends_is_no_wrong_config(child: list[str]) -> None:
    child.append("os.kill(os.getpid(), 9)")
    with pytest.raises(MachineError, match="ended by SIGKILL"):
        run()
    assert "ended by SIGKILL" in str(again.gpu_time_of(ASKED.program, ())), "what was seen before stands"
    child[1] = "os.abort()"
    assert run().failed == "its process ended with signal 6", "its own fault"
    child[1] = "os._exit(1)"
    assert run().failed == "its process ended with exit code 1"


def test_an_answer_for_which_there_is_no_room_is_no_wrong_config(
    child: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "full_place", lambda: "the temporary files in /full")
    child.append("os._exit(1)")
    with pytest.raises(MachineError, match="is there room in the temporary files in /full"):
        run()


def test_what_a_program_raises_for_want_of_room_or_memory_is_the_machine_s(tmp_path: Path) -> None:
    from fusetune.capture.again_child import ran_of

    found = {}
    for told in ("OSError(28, 'No space left on device')", "MemoryError()", "ValueError('a wrong shape')"):
        file = tmp_path / "program.py"
        file.write_text(f"raise {told}\n", encoding="utf-8")
        ran = ran_of(AgainRequest(Program("script", str(file)), (), apply=True))
        assert ran.failed is not None
        found[told.partition("(")[0]] = ran.machine
    assert "No space left on device" in str(found["OSError"])
    assert "no memory left" in str(found["MemoryError"])
    assert found["ValueError"] is None


def test_why_the_machine_kept_a_program_from_running_is_raised(child: list[str]) -> None:
    child.append('open(answer, \'w\').write(\'{"failed": "MemoryError", "machine": "there is no memory left"}\')')
    with pytest.raises(MachineError, match="there is no memory left"):
        run()


def test_a_program_that_the_machine_ends_has_not_failed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program("script", "a.py")
    ends = tmp_path / "ends"
    ends.write_text("#!/bin/sh\nkill -KILL $$\n", encoding="utf-8")
    ends.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ends))
    with pytest.raises(MachineError, match="the program's process was ended by SIGKILL"):
        look(program, target="rtx4090")
    ends.write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    with pytest.raises(ProgramError, match="ended with exit code 7"):
        look(program, target="rtx4090")
