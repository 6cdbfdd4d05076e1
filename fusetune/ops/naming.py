"""What somebody's kernel, its arguments and its constants are called in files."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from typing import Final

from fusetune.core.config import OPTIONS, NamedConfig
from fusetune.core.problem import NamedProblem

_MOST: Final = 90
_SCRIPT: Final = "__main__"


def kernel_place(module: str, qualname: str, file: str) -> str:
    """`module:qualname`; the module of a script is called as its file."""
    return f"{PurePath(file).stem if module == _SCRIPT else module}:{qualname}"


def op_name(module: str, qualname: str, file: str) -> str:
    """The name of a captured kernel as an op: of `module:qualname`, with nothing but what a file's name may have.

    What the spelling loses is made up for by a few digits of its hash, so that two kernels have two names.
    """
    place = kernel_place(module, qualname, file)
    plain = re.sub(r"[^a-z0-9]+", "_", place.lower()).strip("_")
    lossless = plain == re.sub(r"[.:_]+", "_", place).strip("_") and "<" not in place
    if lossless and len(plain) <= _MOST and plain[:1].isalpha():
        return plain
    digits = hashlib.sha256(place.encode()).hexdigest()[:6]
    return f"k_{plain}"[:_MOST].rstrip("_") + f"_{digits}" if not plain[:1].isalpha() else f"{plain[:_MOST]}_{digits}"


def value_name(name: str) -> str:
    """The name of a parameter as one of a problem's or a config's values: these may not begin with an underscore."""
    plain = name.lstrip("_") or "value"
    taken = (hasattr(NamedConfig, plain) and plain not in OPTIONS) or hasattr(NamedProblem, plain)
    return f"{plain}_" if taken or plain != name else plain
