"""Imported by the server from which compiling processes are forked, before anything else: none of them prints.

What went wrong in one is told by whoever waits for its result; a compiler's last words, or the traceback of a process
that was ended, would stand in the middle of a progress bar. `--debug` lets them speak.
"""

from __future__ import annotations

import os

from fusetune.core.processes import DEBUG_VARIABLE


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


if not os.environ.get(DEBUG_VARIABLE):
    _silence()
