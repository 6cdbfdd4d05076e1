"""Where a user's own op is imported from: a module, or a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fusetune.errors import UsageError


def make_importable(op: str) -> str:
    """`module:attribute` of an op that was typed, whose module Python finds from here on, as processes begun later do.

    Of a file it is the folder that joins Python's search path, first; of a module the current folder, last. What has no
    module stays as it is. Raises UsageError where there is no such file, or where its name is not a module's.
    """
    place, colon, attribute = op.rpartition(":")
    if not colon or not place.endswith(".py"):
        if colon and "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109 - as Python writes it
            sys.path.append(os.getcwd())  # noqa: PTH109
        return op
    path = Path(place)
    if not path.is_file():
        raise UsageError(f"op {op!r}: there is no file {place}; write --op FILE.py:SPEC or --op module:SPEC")
    path = path.resolve()
    if not path.stem.isidentifier():
        raise UsageError(f"op {op!r}: {path.name} cannot be imported by that name; use letters, digits and _")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    loaded = sys.modules.get(path.stem)
    held = getattr(loaded, "__file__", None)
    if loaded is not None and (held is None or Path(held).resolve() != path):
        raise UsageError(f"op {op!r}: a module {path.stem} is loaded already, from {held}; give the file another name")
    return f"{path.stem}:{attribute}"


def absolute_place(op: str) -> str:
    """The place of an op that was typed, as it is the same from any folder: a file by its whole path."""
    place, colon, attribute = op.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}" if colon and place.endswith(".py") else op
