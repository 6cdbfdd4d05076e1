"""Config: how to launch."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

BlockSize = Annotated[int, msgspec.Meta(ge=16, le=1024)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Warps = Annotated[int, msgspec.Meta(ge=1, le=32)]
Stages = Annotated[int, msgspec.Meta(ge=1, le=16)]

LIBRARY: Final = "library"
"""The variant, or how it begins, of configs that leave the products to a library: `library`, `library_folded`."""


WALKING: Final = ("persistent", "reread", "owner", "deferred")
"""The variants whose CTAs walk through all tiles, with the copy engine (TMA) loading and storing them."""
REREADING: Final = ("reread", "owner", "deferred")
"""Those of them that in training store products as they are, and read them again for the moments of their columns."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """One way to launch a kernel.

    BLOCK_M x BLOCK_N is the tile of y that one CTA computes, BLOCK_K the depth of one step along K,
    GROUP_M the number of tile rows that are walked together so that they share W in L2, SPLIT_K the number of
    CTAs that share one tile along K. num_warps and num_stages are Triton's.
    """

    variant: str = "tiled"
    BLOCK_M: BlockSize = 64
    BLOCK_N: BlockSize = 64
    BLOCK_K: BlockSize = 32
    GROUP_M: Positive = 1
    SPLIT_K: Positive = 1
    num_warps: Warps = 4
    num_stages: Stages = 2

    def __post_init__(self) -> None:
        for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")

    @property
    def is_library(self) -> bool:
        """Whether a library multiplies, and BLOCK_N, BLOCK_K, num_warps and num_stages mean nothing."""
        return self.variant.startswith(LIBRARY)

    @property
    def is_walking(self) -> bool:
        """Whether CTAs walk through all tiles by the copy engine."""
        return self.variant in WALKING

    @property
    def rereads(self) -> bool:
        """Whether in training it stores products as they are, and later kernels read y again."""
        return self.variant in REREADING

    @property
    def is_conservative(self) -> bool:
        """Whether it runs with the safe 4 warps and 2 stages, which are nothing of a library's."""
        return self.num_warps == 4 and self.num_stages == 2 and not self.is_library

    def label(self) -> str:
        """The config in one short word for tables: `64x16x128 w4 s3`, with what differs from the defaults.

        A library's is its variant alone: `library`.
        """
        if self.is_library:
            return self.variant
        parts = [f"{self.BLOCK_M}x{self.BLOCK_N}x{self.BLOCK_K}", f"w{self.num_warps}", f"s{self.num_stages}"]
        if self.GROUP_M != 1:
            parts.append(f"g{self.GROUP_M}")
        if self.SPLIT_K != 1:
            parts.append(f"k{self.SPLIT_K}")
        if self.variant != "tiled":
            parts.insert(0, self.variant)
        return " ".join(parts)


BASELINE: Final = Config()
"""The seed's own tile at 4 warps and 2 stages: always measured, always the fallback."""
