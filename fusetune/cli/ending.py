"""A command that is told to end takes away what it has made first; what a killed one left, the next one takes away."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from filelock import FileLock, Timeout

_LOCK: Final = ".lock"
_YOUNG_S: Final = 60.0
"""A folder younger than this may be about to be locked."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise SystemExit(128 + number), so that everything is closed as after an error.

    A second one is not heeded meanwhile. What is ignored stays so, as under nohup; outside of the main thread, where
    Python lets nobody set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]

    def end(number: int, _: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def scratch_folder(purpose: str, root: Path | None = None) -> Iterator[Path]:
    """A temporary folder, removed at the end; first those are removed that killed processes left for this purpose.

    Its lock is the kernel's, which lets go of it with the process that holds it.
    """
    root = root or Path(tempfile.gettempdir())
    for left in root.glob(f"fusetune-{purpose}-*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=f"fusetune-{purpose}-", dir=root) as name:
        folder = Path(name)
        with FileLock(folder / _LOCK):
            inside = folder / "made"
            inside.mkdir()
            yield inside


def _remove_if_left(folder: Path) -> None:
    lock = folder / _LOCK
    # Another user's, or one that cannot be looked at, is not ours to remove.
    with contextlib.suppress(OSError, Timeout):
        if folder.is_symlink() or not lock.is_file() or time.time() - lock.stat().st_mtime < _YOUNG_S:
            return
        with FileLock(lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
