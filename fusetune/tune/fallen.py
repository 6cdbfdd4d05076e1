"""What became of a run's candidates, read from its journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from fusetune.core.config import Config
from fusetune.store.journal import Candidate, read_run


def last_words(journal: Path) -> dict[Config, Candidate]:
    """The last record of each candidate, in the order of their numbers' first mention."""
    return {record.config: record for record in read_run(journal) if isinstance(record, Candidate)}


def by_reason(records: Iterable[Candidate]) -> Counter[str]:
    """How many there are of each reason; of each status, where a record gives none."""
    return Counter(record.reason or record.status for record in records)


def tried_and_fallen(journal: Path, apart: Collection[Config]) -> tuple[int, Mapping[str, int]]:
    """How many candidates a run tried, and how many of them were rejected or failed, by reason, the commonest first.

    Without those `apart`: what all are held against, and a library's. What was skipped was not tried.
    """
    last = [record for config, record in last_words(journal).items() if config not in apart]
    tried = [record for record in last if record.status != "skipped"]
    fallen = by_reason(record for record in tried if record.status in {"rejected", "failed"})
    return len(tried), dict(fallen.most_common())


def why_fallen(journal: Path, config: Config) -> str:
    """Why a candidate is not among those that came through, in half a sentence."""
    record = last_words(journal).get(config)
    if record is None:
        return "it is none of the candidates"
    told = record.reason or record.status
    return f"{told}: {record.detail}" if record.detail else told
