"""Estimate: what a cost model predicts of one launch. An op that has a model says what its parts are."""

from __future__ import annotations

import msgspec


class Estimate(msgspec.Struct, frozen=True):
    """Predicted microseconds of one launch. An op's own type adds the parts that they are made of."""

    time_us: float

    def lines(self, floor_us: float) -> tuple[tuple[str, str], ...]:
        """Rows of a label and a text for people; no launch can take less than `floor_us`."""
        return ()
