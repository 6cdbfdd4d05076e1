"""What the processes that run a program, and whoever waits for them, have in common: the answer, and how one ended."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from fusetune.core.trouble import full_place, trouble_of_exit
from fusetune.errors import MachineError


def write_answer(answer: Path, found: msgspec.Struct) -> None:
    """Write a struct as JSON, whole or not at all."""
    temporary = answer.with_suffix(".part")
    temporary.write_bytes(msgspec.json.encode(found))
    os.replace(temporary, answer)  # noqa: PTH105


def how_it_ended(returncode: int) -> str:
    """`signal 9` or `exit code 1`: of a process, as subprocess gives it."""
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def refuse_machine_s(returncode: int, process: str) -> None:
    """Raise MachineError where it was the machine's doing that a process gave no answer."""
    ended, full = trouble_of_exit(returncode), full_place()
    if ended is not None:
        raise MachineError(f"{process} {ended.detail}")
    if full is not None:
        raise MachineError(f"what {process} came to could not be written down; is there room in {full}?")


def not_started(error: OSError) -> MachineError:
    """The error for a process that the machine does not start."""
    return MachineError(f"no process for the program could be started: {error.strerror or error}")
