"""One worker a GPU: whoever serves one holds it by name, and a second one is told who does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from fusetune.core.trouble import why_not_written
from fusetune.errors import MachineError, NoUsableGpuError

HELD: Final = "FUSETUNE_FLEET_HOLDS"
"""What the environment of a worker says its parent holds: it need not ask, and could not get it."""


@contextmanager
def held_for_workers(uuids: Sequence[str], folder: Path | None = None) -> Iterator[None]:
    """Hold GPUs, by their UUIDs, against workers of other processes of this machine.

    It is no lock on measuring: a sweep that is no worker still waits for its turn. The kernel lets go of what a killed
    process held. Raises NoUsableGpuError where another worker has one of them, MachineError where no lock can be made.
    """
    held_above = os.environ.get(HELD, "").split(",")
    with ExitStack() as stack:
        for uuid in uuids:
            if uuid not in held_above:
                _hold(stack, uuid, folder or Path(tempfile.gettempdir()))
        yield


def _hold(stack: ExitStack, uuid: str, folder: Path) -> None:
    path = folder / f"fusetune-worker-{uuid}.lock"
    lock = FileLock(path, mode=0o666)  # Whose process it is does not matter to the other.
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise NoUsableGpuError(
            f"the GPU {uuid} has a worker of fusetune already{_who(path)}; two on one GPU would be each other's noise. "
            "Name others with --gpus, or wait for it to end"
        ) from None
    except (OSError, NotImplementedError) as error:
        otherwise = "remove it, or set TMPDIR to another folder"
        told = why_not_written(error, otherwise) if isinstance(error, OSError) else f"{error}; {otherwise}"
        raise MachineError(f"cannot lock {path}, by which workers tell that a GPU is theirs: {told}") from error
    stack.callback(lock.release)
    with suppress(OSError):  # It is for people.
        _note(path.with_suffix(".pid"))


def _note(path: Path) -> None:
    """Write this process's number, and through no link that somebody put in its place: all users write here."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o666), "w") as file:
        file.write(f"{os.getpid()}\n")
        os.fchmod(file.fileno(), 0o666)


def _who(path: Path) -> str:
    try:
        return f", process {int(path.with_suffix('.pid').read_text()[:20])}"
    except (OSError, ValueError):
        return ""
