"""One command a file: parse, wire, print, exit."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own would load more than all that is needed before `main` has its net in place.
if TYPE_CHECKING:
    from types import TracebackType


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C in the first moments, while modules are loaded: no traceback, and the exit code of an interrupt."""
    if issubclass(kind, KeyboardInterrupt):
        os._exit(130)
    sys.__excepthook__(kind, error, trace)


if sys.argv and sys.argv[0].endswith((f"{os.sep}fusetune", f"fusetune{os.sep}__main__.py")):
    sys.excepthook = _end_quietly  # This process is the command, and not one that imports it.
