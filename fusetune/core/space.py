"""Space: the values that parameters of a launch may take; Rejection: why one of its configs is not tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from fusetune.core.config import NamedConfig
from fusetune.core.values import Value

SpaceName = Literal["standard", "full", "seed"]
SPACE_NAMES: Final[tuple[SpaceName, ...]] = ("standard", "full", "seed")
WARPS: Final = (1, 2, 4, 8, 16)
STAGES: Final = (1, 2, 3, 4, 5)


class Space(msgspec.Struct, frozen=True):
    """Values of each parameter that may vary, by name; the space is their product, and that of `others` beside it.

    A parameter is num_warps, num_stages, num_ctas, maxnreg, or a constant of the kernels.
    """

    values: Mapping[str, tuple[Value, ...]]
    others: tuple[Space, ...] = ()

    def products(self) -> Iterator[dict[str, Any]]:
        """Every combination of this space's own values, by name."""
        for values in itertools.product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))

    def configs(self) -> tuple[NamedConfig, ...]:
        """The products as configs, each once; warps and stages that are not named take WARPS and STAGES.

        Raises ValueError for a value that no launch can have.
        """
        products = [one for space in (self, *self.others) for one in space._with_options().products()]
        return tuple(dict.fromkeys(NamedConfig(**product) for product in products))

    def _with_options(self) -> Space:
        return Space({"num_warps": WARPS, "num_stages": STAGES, **self.values})


class Rejection(msgspec.Struct, frozen=True):
    """Why a candidate is not tried: a code to count by, and the figures."""

    reason: str
    detail: str
