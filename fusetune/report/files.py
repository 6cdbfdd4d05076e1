"""Writing a report: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fusetune.errors import UsageError


def write_whole(path: Path, text: str) -> None:
    """Write beside the file, then rename: at no moment is half a report to be seen.

    Raises UsageError, which names the file, where it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as handle:
                handle.write(text)
            temporary.chmod(_mode(path))
            temporary.replace(path.resolve())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to"
        ) from error


def _mode(path: Path) -> int:
    """The mode of the file that is replaced, or what a new file would get; a temporary file is private instead."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
