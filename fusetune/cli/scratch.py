"""A temporary folder of a command: what a killed one left, the next one takes away."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

_LOCK: Final = ".lock"
_YOUNG_S: Final = 60.0
"""A folder younger than this may be about to be locked."""


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
