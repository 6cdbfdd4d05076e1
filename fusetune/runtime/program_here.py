"""How a program is named to other commands: its file or its module, and its arguments."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fusetune.core.text import printable

UNKNOWN: Final = "PROGRAM"
_LONGEST: Final = 1000
"""Of what is told in a line."""


def named(words: Sequence[str]) -> str:
    """The words of a program for other commands, which are not to take its options for theirs."""
    own = 2 if words[0] == "-m" else 0
    has_options = any(word.startswith("-") for word in words[own:])
    return shlex.join([*words[:own], *(["--"] if has_options else []), *words[own:]])


def program_here() -> str:
    """The program that runs in this process, as `fusetune tune` takes it; UNKNOWN where that was no file."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        first = ["-m", spec.name.removesuffix(".__main__")]
    elif isinstance(file, str):
        path = Path(file)
        first = [str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)]
    else:
        return UNKNOWN
    text = printable(named([*first, *sys.argv[1:]]))
    return text if len(text) <= _LONGEST else UNKNOWN
