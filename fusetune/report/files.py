"""Writing a report: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from fusetune.errors import UsageError
from fusetune.store import whole


def write_whole(path: Path, text: str) -> bool:
    """Write a file whole, or into what is no file, as `store.whole` does. Whether the text is in a file now.

    Raises UsageError, which names the file, where it cannot be written; a reader that has left is no such case.
    """
    try:
        return whole.write_whole(path, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a file in a folder that you may write to"
        ) from error
