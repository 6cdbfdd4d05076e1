"""Writing what somebody asked for: a file whole or not at all, and into what is there where that is no file."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

_OWN_DESCRIPTOR: Final = re.compile(r"/(?:dev/fd|proc/(?:self|thread-self|(?P<pid>\d+))/fd)/(?P<number>\d+)")
_MOST_LINKS: Final = 40
"""Symbolic links in a row that Linux follows."""


def write_whole(path: Path, text: str) -> bool:
    """Write beside a file, then rename: at no moment is half of the text to be seen. Whether it is in a file now.

    A symbolic link stays one, and a file that is replaced keeps its mode, and its owner where that may be given away.
    What is no regular file, a device, a pipe or a terminal, is written into as it is, and so is what this process has
    open already, as /dev/stdout. Raises OSError where that fails, closing included.
    """
    own = _own_descriptor(path)
    if own is not None:
        sys.stdout.flush()  # What was printed before comes before.
        _write_into(os.dup(own), text)
        return False
    there = _status(path)
    if there is not None and not stat.S_ISREG(there.st_mode):
        # Neither made nor emptied: it is there, and has no length.
        _write_into(os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0)), text)
        return False
    _replace(path.resolve(), there, text)
    return True


def _write_into(descriptor: int, text: str) -> None:
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)


def _replace(real: Path, there: os.stat_result | None, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name[:40]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        _write_into(descriptor, text)
        if there is not None:
            with contextlib.suppress(OSError, AttributeError):
                os.chown(temporary, there.st_uid, there.st_gid)
        temporary.chmod(_new_mode() if there is None else there.st_mode & 0o777)
        temporary.replace(real)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _status(path: Path) -> os.stat_result | None:
    """What the path leads to, through all links; None where there is nothing yet."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _own_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as /dev/stdout stands for.

    Opened once more it would be written from its beginning, over what `>> log` has in it.
    """
    name = os.path.abspath(path)  # noqa: PTH100 - links are followed one by one below
    for _ in range(_MOST_LINKS):
        found = _OWN_DESCRIPTOR.fullmatch(name)
        if found is not None:
            return int(found["number"]) if found["pid"] in {None, str(os.getpid())} else None
        try:
            link = os.readlink(name)  # noqa: PTH115
        except OSError:
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), link))  # noqa: PTH118, PTH120
    return None


def _new_mode() -> int:
    """What a new file would get; a temporary file is private instead."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
