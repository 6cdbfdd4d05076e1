"""What git does on a machine that does not let it: one line, and nothing about a kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fusetune.errors import FusetuneError, MachineError, UsageError
from fusetune.gate import repository


@pytest.mark.parametrize(
    ("code", "said", "kind", "told"),
    [
        (-9, "", MachineError, "--against: git was ended by SIGKILL"),
        (
            128,
            "error: unable to write file a.py: No space left on device\nfatal: it failed",
            MachineError,
            "could not be checked out (error: unable to write file a.py: No space left on device)",
        ),
        (128, "fatal: not a tree", UsageError, "could not be checked out (fatal: not a tree)"),
    ],
)
def test_a_checkout_that_fails_is_the_machine_s_or_the_user_s(
    code: int, said: str, kind: type[FusetuneError], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], code, "", said)
    monkeypatch.setattr(repository.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(kind) as caught:
        repository.check_out(tmp_path, "c" * 40, tmp_path / "tree", "*.py")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_the_machine_s(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="Not a directory"):
        repository.check_out(tmp_path, "c" * 40, tmp_path / "file" / "x" / "tree", "*.py")
