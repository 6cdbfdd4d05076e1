"""One sweep a GPU: a second one waits, since each would be the other's noise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from fusetune.core.progress import Progress
from fusetune.core.trouble import why_not_written
from fusetune.errors import MachineError
from fusetune.measure.protocol import GpuFacts


def hold_gpu_of(facts: GpuFacts, progress: Progress, limit_s: float | None = None) -> AbstractContextManager[None]:
    """Hold the GPU that these facts are of, telling the user where it has to be waited for; a simulated one is free."""
    if facts.uuid is None:
        return nullcontext()

    def on_wait() -> None:
        progress.say("Another fusetune measures on this GPU; waiting for it to end")

    return hold_gpu(facts.uuid, on_wait, limit_s=limit_s)


@contextmanager
def hold_gpu(
    uuid: str, on_wait: Callable[[], None], folder: Path | None = None, *, limit_s: float | None = None
) -> Iterator[None]:
    """Hold the GPU with this UUID against other fusetune processes of this machine.

    `on_wait` is called once where another one holds it and is waited for, `limit_s` seconds at most, however long
    without. The lock is the kernel's: a killed holder lets go of it. Raises MachineError where it cannot be locked, as
    on a full disk or with a folder in its place, and where the other one has not ended by then.
    """
    path = (folder or Path(tempfile.gettempdir())) / f"fusetune-{uuid}.lock"
    # Anybody may wait for anybody: the file is shared by all users of the machine.
    lock = FileLock(path, mode=0o666)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if limit_s == 0:
                raise MachineError("another fusetune measures on this GPU; wait until it has ended") from None
            on_wait()
            try:
                lock.acquire(timeout=-1 if limit_s is None else limit_s)
            except Timeout:
                told = f"another fusetune measures on this GPU, and has not ended in {limit_s:g} s; try again later"
                raise MachineError(told) from None
    except (OSError, NotImplementedError) as error:
        otherwise = "remove it, or set TMPDIR to another folder"
        told = why_not_written(error, otherwise) if isinstance(error, OSError) else f"{error}; {otherwise}"
        raise MachineError(f"cannot lock {path}, by which sweeps wait for each other: {told}") from error
    try:
        yield
    finally:
        lock.release()
