"""Space: the values that parameters of a launch may take; Rejection: why one of its configs is not tried."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from fusetune.core.config import BASELINE, Config

SpaceName = Literal["standard", "full", "seed"]
SPACE_NAMES: Final[tuple[SpaceName, ...]] = ("standard", "full", "seed")


class Space(msgspec.Struct, frozen=True):
    """Values of each tunable parameter, by name of a field of Config; the space is their product.

    `others` are spaces of other variants, whose parameters take other values.
    """

    values: Mapping[str, tuple[int, ...]]
    variants: tuple[str, ...] = ("tiled",)
    others: tuple[Space, ...] = ()

    def configs(self) -> tuple[Config, ...]:
        """All products, BASELINE first and once."""
        names = list(self.values)
        configs = [
            Config(variant=variant, **dict(zip(names, values, strict=True)))
            for variant in self.variants
            for values in itertools.product(*self.values.values())
        ]
        for other in self.others:
            configs += [config for config in other.configs() if config.variant in other.variants]
        return (BASELINE, *(config for config in dict.fromkeys(configs) if config != BASELINE))


class Rejection(msgspec.Struct, frozen=True):
    """Why a candidate is not tried: a code to count by, and the figures."""

    reason: str
    detail: str
