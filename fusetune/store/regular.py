"""Reading files that anybody may have put there: regular ones only, up to a size, and never a wait."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISDIR, errno.EISDIR, os.strerror(errno.EISDIR)),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, not a file"),
)


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises OSError, whose `strerror` says why in a few words, for anything else: a pipe that nobody writes to would be
    waited for, a device may have no end.
    """
    try:
        _refuse_special(path.stat().st_mode, path)  # before it is opened: opening a device may do something
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be one of a file ({error})") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _refuse_special(found.st_mode, path)
        # Read and not asked for: files of /proc have a size of nothing, and others grow.
        data = file.read(most + 1) if found.st_size <= most else b""
        if found.st_size > most or len(data) > most:
            raise OSError(errno.EFBIG, f"it has more than the {_size(most)} that are read of such a file")
        return data


def is_there(path: Path) -> bool:
    """Whether something has this name. Raises OSError where that cannot be found out, as in a closed folder."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be one of a file ({error})") from error
    return True


def is_regular(path: Path) -> bool:
    """Whether a regular file has this name; no where that cannot be found out, unlike Path.is_file, which may raise."""
    return _has(path, stat.S_ISREG)


def is_plain(path: Path) -> bool:
    """Whether this very name is that of a regular file, and not of a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder has this name; no where that cannot be found out, unlike Path.is_dir, which may raise."""
    return _has(path, stat.S_ISDIR)


def _has(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def reason(error: OSError) -> str:
    """Why, in the file system's words."""
    return error.strerror or str(error)


def _refuse_special(mode: int, path: Path) -> None:
    for is_kind, number, text in _KINDS:
        if is_kind(mode):
            raise OSError(number, text, os.fspath(path))


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
