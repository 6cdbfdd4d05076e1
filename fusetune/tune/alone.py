"""A sweep in which nothing is left beside what it compares with: it says so and why, and writes no entry."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fusetune.core.config import Config
from fusetune.errors import NoCandidateError
from fusetune.store.journal import RunEnd
from fusetune.tune.fallen import by_reason, last_words, tried_and_fallen
from fusetune.tune.log import RunLog, journal_path
from fusetune.tune.request import SweepRequest

_REASONS_TOLD: Final = 3


def end_if_alone(request: SweepRequest, log: RunLog, left: Collection[Config], asked: Collection[Config]) -> None:
    """Raise NoCandidateError where candidates were `asked` for beside the reference, and only that is `left` of them.

    The reference is Before, or BASELINE. The journal then ends with that, and says what became of each. A space that
    holds nothing else, as where the conditional rules propose nothing, is no such case: nothing was rejected, and the
    reference is the answer.
    """
    others = set(asked) - {log.reference}
    if not others or set(left) - {log.reference}:
        return
    journal = journal_path(request, log)
    last = {config: one for config, one in last_words(journal).items() if config in others}
    counts = by_reason(last.values()).most_common()
    told = ", ".join(f"{count} {reason}" for reason, count in counts[:_REASONS_TOLD])
    more = f" and {len(counts) - _REASONS_TOLD} other reasons" if len(counts) > _REASONS_TOLD else ""
    example = next((one for one in last.values() if one.detail and one.reason == counts[0][0]), None)
    first = f" (such as {example.config.label()}: {example.detail})" if example else ""
    message = (
        f"{request.spec.name}: nothing is left beside {log.reference_name}, since none of {len(others)} other "
        f"candidates can be used: {told}{more}{first}. Nothing was written"
    )
    log.journal.write(RunEnd(entry=None, file=None, message=message))
    tried, failures = tried_and_fallen(journal, (log.reference,))
    raise NoCandidateError(f"{message}; {journal} says of each why", tried=tried, failures=dict(failures))
