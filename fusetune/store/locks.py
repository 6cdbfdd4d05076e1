"""Where the lock of a file lies: where git does not see it, since what lies beside a file is meant to be committed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

LOCKS_FOLDER: Final = ".locks"


def lock_place(real: Path) -> Path:
    """The lock of a file, in the folder `.locks` beside it: on one file system with it, whoever the processes are.

    A lock of the user's own folder would let another user, or a container that shares the file, write at the same
    time. The lock stays there: whoever removed it would let a third process lock a name that a second still waits on.

    Makes that folder. Raises OSError where it cannot be made.
    """
    folder = real.with_name(LOCKS_FOLDER)
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError), (folder / ".gitignore").open("x", encoding="utf-8") as ignore:
        ignore.write("*\n")
    return folder / f"{real.name}.lock"
