"""An autotuner that chooses as ever, and instead of timing says what it would have begun with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from fusetune.capture.given import copy_of


class WouldTimeError(Exception):
    """An autotuner is about to time its configs, of which this is the first."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


def untimed(tuner: Any, left_out: Sequence[Any]) -> Any:
    """A copy of an autotuner that raises WouldTimeError with the first config that is none of `left_out`."""
    held = copy_of(tuner, tuner.configs)
    held._bench = partial(_would_time, left_out)
    if left_out:  # What is of no use here is no answer to keep, here or on a disk.
        held.cache, held.cache_results = dict(tuner.cache), False
    return held


def _would_time(left_out: Sequence[Any], *_: Any, config: Any, **__: Any) -> list[float]:
    if config in left_out:
        return [math.inf] * 3
    raise WouldTimeError(config)
