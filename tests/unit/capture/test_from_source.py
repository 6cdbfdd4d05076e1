"""A process that imports kernels, and how it may end: by the machine, by what it imports, or with an answer."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fusetune.capture import from_source
from fusetune.capture.from_source import (
    KernelPlace,
    KernelSource,
    NoKernel,
    SourceAnswer,
    SourceRequest,
    kernels_from_source,
)
from fusetune.core.target import find_target
from fusetune.errors import EXIT_INCONCLUSIVE, FusetuneError, MachineError, UsageError

TARGET = find_target("rtx4090")
WANTED = KernelPlace("norms:rms", "/src/norms.py")
Ran = Callable[..., "subprocess.CompletedProcess[str]"]


def ending(code: int) -> Ran:
    return lambda *_, **__: subprocess.CompletedProcess([], code)


def late(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
    raise subprocess.TimeoutExpired("python", 300)


def no_process(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize(
    ("run", "full", "kind", "told"),
    [
        (ending(-9), None, MachineError, "imported /src/norms.py was ended by SIGKILL"),
        (ending(-15), None, MachineError, "was ended by SIGTERM"),
        (ending(1), "the temporary files in /tmp", MachineError, "is there room in the temporary files in /tmp"),
        (ending(EXIT_INCONCLUSIVE), None, MachineError, "could not be written down"),
        (late, None, MachineError, "could not be imported within 300 s; is this machine busy"),
        (no_process, None, MachineError, "no process for the program could be started"),
        (ending(1), None, UsageError, "importing /src/norms.py ended its process with exit code 1"),
        (ending(-11), None, UsageError, "ended its process with signal 11"),
    ],
)
def test_a_process_that_gives_no_answer_is_the_machine_s_or_its_file_s_and_one_line(
    run: Ran, full: str | None, kind: type[FusetuneError], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(from_source.subprocess, "run", run)
    monkeypatch.setattr(from_source, "full_place", lambda: full)
    with pytest.raises(kind, match=told) as caught:
        kernels_from_source([WANTED], tmp_path, TARGET)
    assert "\n" not in str(caught.value)


def test_no_room_for_the_request_is_the_machine_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/fusetune-source-x")

    monkeypatch.setattr(from_source.tempfile, "TemporaryDirectory", full)
    with pytest.raises(MachineError, match=r"No space left on device; make room there"):
        kernels_from_source([WANTED], tmp_path, TARGET)


def test_what_the_process_met_of_the_machine_is_raised_and_each_kernel_has_its_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = KernelPlace("norms:layer", "/src/norms.py")
    found = KernelSource("/made/000", "norms", "rms", "0" * 16)
    answers = [
        SourceAnswer(machine="/made cannot be written: No space left on device"),
        SourceAnswer(usage="torch is not installed; a capture needs torch and triton"),
        SourceAnswer((found, None), (None, NoKernel("gone", gone=True))),
    ]

    def answered(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        request = msgspec.json.decode(Path(command[-2]).read_bytes(), type=SourceRequest)
        assert request == SourceRequest((WANTED, other), str(tmp_path), TARGET.name)
        Path(command[-1]).write_bytes(msgspec.json.encode(answers.pop(0)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(from_source.subprocess, "run", answered)
    with pytest.raises(MachineError, match="No space left"):
        kernels_from_source([WANTED, other, WANTED], tmp_path, TARGET)
    with pytest.raises(UsageError, match="torch is not installed"):
        kernels_from_source([WANTED, other, WANTED], tmp_path, TARGET)
    made = kernels_from_source([WANTED, other, WANTED], tmp_path, TARGET)
    assert made == {WANTED: found, other: NoKernel("gone", gone=True)}


def test_the_interpreter_left_on_is_a_setting_and_no_process_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(from_source.subprocess, "run", None)
    with pytest.raises(UsageError, match="TRITON_INTERPRET is set"):
        kernels_from_source([WANTED], tmp_path, TARGET)
