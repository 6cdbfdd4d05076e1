"""The pins of what was tuned of a program, for `fusetune gate --static`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusetune.cli.shown import echo
from fusetune.core.text import printable
from fusetune.errors import FusetuneError

if TYPE_CHECKING:
    from fusetune.compiler.processes import CompileProcesses
    from fusetune.gate.tuned import TunedEntry
    from fusetune.tune.program import Tuned


def pin_all(tuned: Sequence[Tuned], processes: CompileProcesses) -> None:
    """Pin every entry that was written, from its capture, and note those that could not be.

    Trouble in that is told and ends nothing: what was found out stands in the files already.
    """
    from fusetune.gate.tuned import TunedEntry, pin_tuned

    written: defaultdict[Path, list[TunedEntry]] = defaultdict(list)
    for one in tuned:
        if one.result is not None and one.result.file is not None and one.case.kept is not None:
            written[one.result.file].append(TunedEntry(one.result.entry, one.case.kept))
    told: list[str] = []
    for path, entries in written.items():
        try:
            told += pin_tuned(path, entries, processes)
        except (FusetuneError, OSError) as error:
            told.append(f"{path} has no new pins: {error or type(error).__name__}")
    for line in told:
        echo(printable(f"note: {line}"), err=True)
