"""What a case's run found out about the program's own configs: a wrong one in its list, a tile that spills."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fusetune.core.config import Config
from fusetune.store.journal import Candidate
from fusetune.tune.explained import candidates_of
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.units import format_bytes

_WRONG: Final = frozenset({"wrong_result", "nan"})
_CRASHED: Final = frozenset({"crash", "hang", "launch_error"})


def findings_of(request: SweepRequest, result: SweepResult) -> tuple[str, ...]:
    """Sentences on the program's own configs, by the run's journal; none where there is no journal."""
    if not result.journal.is_file():
        return ()
    records = candidates_of(result.journal)
    return (*_of_list(request, records), *_of_spills(request, result, records))


def _of_list(request: SweepRequest, records: dict[Config, Candidate]) -> Iterator[str]:
    """The configs of the program's own list that give a wrong result, or fail."""
    for config in request.spec.listed(request.problem):
        record = records.get(config)
        if record is None or record.status != "failed":
            continue
        detail = f": {record.detail}" if record.detail else ""
        if record.reason in _WRONG:
            yield f"its own list of configs holds one with which its result is wrong, {config.label()}{detail}"
        elif record.reason in _CRASHED:
            yield f"its own list of configs holds one that fails, {config.label()}{detail}"


def _of_spills(request: SweepRequest, result: SweepResult, records: dict[Config, Candidate]) -> Iterator[str]:
    """That what runs today spills, or stands for it, and whether what was chosen does, too."""
    before = records.get(request.reference)
    if before is None or before.resources is None or not before.resources.spills:
        return
    stack = format_bytes(before.resources.stack_bytes)
    # Without a GPU nobody knows what an autotuner chooses.
    is_assumed = result.entry.evidence == "predicted" and len(request.spec.listed(request.problem)) > 1
    which = "the first of its own list that compiles" if is_assumed else "what runs today"
    told = f"{which} spills: {request.reference.label()} keeps {stack} of each thread in local memory"
    chosen = records.get(result.entry.config)
    if result.entry.config != request.reference and chosen is not None and chosen.resources is not None:
        told += "; so does what was chosen" if chosen.resources.spills else "; what was chosen does not"
    yield told
