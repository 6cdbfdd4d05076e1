"""A sweep in which nothing is left beside BASELINE: it says so and why, and writes no entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from fusetune.core.config import Config
from fusetune.errors import NoCandidateError
from fusetune.store.journal import Candidate, RunEnd, read_run
from fusetune.tune.log import RunLog, journal_path
from fusetune.tune.request import SweepRequest

_REASONS_TOLD: Final = 3


def end_if_alone(request: SweepRequest, log: RunLog, left: Collection[Config], asked: Collection[Config]) -> None:
    """Raise NoCandidateError where candidates were `asked` for beside BASELINE, and only BASELINE is `left` of them.

    The journal then ends with that, and says what became of each. A space that holds nothing but BASELINE, as where the
    conditional rules propose nothing else, is no such case: nothing was rejected, and BASELINE is the answer.
    """
    others = set(asked) - {request.baseline}
    if not others or set(left) - {request.baseline}:
        return
    journal = journal_path(request, log)
    last = {one.config: one for one in read_run(journal) if isinstance(one, Candidate) and one.config in others}
    counts = Counter(one.reason or one.status for one in last.values()).most_common()
    told = ", ".join(f"{count} {reason}" for reason, count in counts[:_REASONS_TOLD])
    more = f" and {len(counts) - _REASONS_TOLD} other reasons" if len(counts) > _REASONS_TOLD else ""
    example = next((one for one in last.values() if one.detail and one.reason == counts[0][0]), None)
    first = f" (such as {example.config.label()}: {example.detail})" if example else ""
    message = (
        f"{request.spec.name}: nothing is left beside BASELINE, since none of {len(others)} other candidates can be "
        f"used: {told}{more}{first}. Nothing was written"
    )
    log.journal.write(RunEnd(entry=None, file=None, message=message))
    raise NoCandidateError(f"{message}; {journal} says of each why")
