"""Where a user's own ops are, as this user named them: what a file says of it is imported only if it stands here.

A command that is given `--op FILE.py:attribute` or `--op module:attribute` writes it down, in the user's state folder.
A YAML file names the same place, so that its op is found again from any folder; that alone imports nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import platformdirs

from fusetune.core.text import OP_NAME

VERSION: Final = 1
_MOST_BYTES: Final = 4 << 20
Place = str
"""`/folder/file.py:attribute` or `module:attribute`."""


class Approved(msgspec.Struct, frozen=True):
    """One op that the user named.

    `folder` joins Python's search path for a module, None for a file. `own_types`: its problems and configs are of
    types of its own. `plain`: they are not, and nothing of its own says which configs cannot be launched. `sources` are
    the files that its kernels stand in, each with the SHA-256 of its bytes, and `source_hash` is that of the kernels;
    None where configs may differ in it.
    """

    name: Annotated[str, msgspec.Meta(pattern=OP_NAME)]
    folder: str | None = None
    own_types: bool = False
    plain: bool = False
    source_hash: str | None = None
    sources: dict[str, str] = {}

    def unchanged_hash(self) -> str | None:
        """The hash of its kernels, where the files are what they were; None where that is not known."""
        known = self.source_hash if self.sources else None
        return known if all(digest_of(path) == digest for path, digest in self.sources.items()) else None


class _Book(msgspec.Struct, frozen=True):
    version: int
    ops: dict[Place, Approved]


def book_path() -> Path:
    """The file that holds them."""
    return platformdirs.user_state_path("fusetune") / "ops.json"


def approved_ops() -> Mapping[Place, Approved]:
    """All that this user named, by place; none where the file is not there, or is not one of ours."""
    try:
        path = book_path()
        key = path.stat()
        if key.st_size > _MOST_BYTES:
            return {}
        stamp = (os.fspath(path), key.st_mtime_ns, key.st_size, key.st_ino)
        if stamp not in _read:
            _read.clear()
            _read[stamp] = msgspec.json.decode(path.read_bytes(), type=_Book).ops
        return _read[stamp]
    except (OSError, RuntimeError, ValueError, msgspec.DecodeError):
        return {}


_read: dict[tuple[str, int, int, int], Mapping[Place, Approved]] = {}


def approve(place: Place, op: Approved) -> str | None:
    """Write down that the user named an op there. Why it could not be, in half a line; None where it is written."""
    known = dict(approved_ops())
    if known.get(place) == op:
        return None
    book = _Book(VERSION, {**known, place: op})
    try:
        path = book_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".ops-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(book), indent=1))
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
    except (OSError, RuntimeError) as error:
        return f"{getattr(error, 'strerror', None) or error}"
    return None


def approved_as(name: str) -> tuple[Place, Approved] | None:
    """The one op of this name that the user named; None where there are none, or several."""
    found = [(place, op) for place, op in approved_ops().items() if op.name == name]
    return found[0] if len(found) == 1 else None


_named_in_files: dict[str, Place] = {}


def note_place(op: str, place: Place) -> None:
    """Take note of where a file of configs says that its op is. Nothing is imported for that."""
    _named_in_files[op] = place


def noted_place(op: str) -> Place | None:
    """Where the file of configs that was read last for an op says that it is."""
    return _named_in_files.get(op)


def approved(op: str) -> tuple[Place, Approved] | None:
    """Where this user named an op of this name: the place that a file names, or where none does the only one."""
    named = _named_in_files.get(op)
    if named is None:
        return approved_as(op)
    known = approved_ops().get(named)
    return (named, known) if known is not None and known.name == op else None


def digest_of(path: str) -> str | None:
    """SHA-256 of a file's bytes in hexadecimal; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def place_in_file(place: Place, file: Path) -> str:
    """How a YAML file, `<root>/<gpu>/<op>.yaml`, names a place: relative to the folder of `<root>`, if it lies there.

    So a repository that is cloned elsewhere still names its own file.
    """
    source, _, attribute = place.rpartition(":")
    with contextlib.suppress(ValueError):
        if source.endswith(".py"):
            return f"{Path(source).relative_to(_base(file)).as_posix()}:{attribute}"
    return place


def file_from_file(named: str, file: Path) -> str:
    """The path that a YAML file names: likewise, and no link in it is followed."""
    return os.path.normpath(_base(file) / named)


def file_in_file(source: str, file: Path) -> str:
    """How a YAML file names another file: likewise."""
    with contextlib.suppress(ValueError):
        return Path(source).relative_to(_base(file)).as_posix()
    return source


def place_from_file(named: str, file: Path) -> Place:
    """The place that a YAML file names."""
    source, _, attribute = named.rpartition(":")
    return f"{os.path.normpath(_base(file) / source)}:{attribute}" if source.endswith(".py") else named


def _base(file: Path) -> Path:
    above = file.resolve().parents
    return above[min(2, len(above) - 1)]
