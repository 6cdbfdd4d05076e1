"""What the final of a sweep came to."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Decision
from fusetune.measure.paired import PairResult


class Final(msgspec.Struct, frozen=True):
    """Every pair that was compared and what follows from it.

    `best` and `conservative` may be the same config; `over_conservative` is None then. Where a library was chosen it is
    `best`, and `ours` is what would stay without it.
    """

    decision: Decision
    baseline: Config
    best: Config
    conservative: Config
    over_baseline: Mapping[Config, PairResult]
    over_conservative: PairResult | None
    ours: Final | None = None

    @property
    def chosen(self) -> Config:
        """The config that stays."""
        return {"conservative": self.conservative, "baseline": self.baseline}.get(self.decision.choice, self.best)
