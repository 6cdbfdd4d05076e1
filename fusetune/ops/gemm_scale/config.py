"""Config of a GEMM: tiles, their order, splitting along K, and the variant of kernels that computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from fusetune.core.config import Config as AnyConfig
from fusetune.core.config import VllmRow

if TYPE_CHECKING:
    from fusetune.ops.gemm_scale.problem import Problem

BlockSize = Annotated[int, msgspec.Meta(ge=16, le=1024)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Warps = Annotated[int, msgspec.Meta(ge=1, le=32)]
Stages = Annotated[int, msgspec.Meta(ge=1, le=16)]

LIBRARY: Final = "library"
"""The variant, or how it begins, of configs that leave the products to a library: `library`, `library_folded`."""

OTHER: Final = "other:"
"""How the variant of a config begins that another revision launches."""
LIBRARY_NAMES: Final[dict[str, str]] = {
    "library": "cuBLAS and a finishing kernel",
    "library_folded": "cuBLAS with folded weights",
}

WALKING: Final = ("persistent", "masked", "padded", "reread", "owner", "deferred")
"""The variants whose CTAs walk through all tiles, with the copy engine (TMA) loading and, but for MASKING, storing."""
MASKING: Final = ("masked", "padded")
"""Those of them whose tiles of y threads store, behind masks."""
REREADING: Final = ("reread", "owner", "deferred")
"""Those of them that in training store products as they are, and read them again for the moments of their columns."""


class Config(msgspec.Struct, AnyConfig, frozen=True, forbid_unknown_fields=True, order=True):
    """One way to launch a kernel.

    BLOCK_M x BLOCK_N is the tile of y that one CTA computes, BLOCK_K the depth of one step along K,
    GROUP_M the number of tile rows that are walked together so that they share W in L2, SPLIT_K the number of
    CTAs that share one tile along K. num_warps and num_stages are Triton's.
    """

    legend: ClassVar[str | None] = "BLOCK_M x BLOCK_N x BLOCK_K, w num_warps, s num_stages, g GROUP_M, k SPLIT_K"

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
    def masks(self) -> bool:
        """Whether threads store what the copy engine loaded, since rows of y need not begin on 16 bytes."""
        return self.variant in MASKING

    @property
    def pads(self) -> bool:
        """Whether the copy engine loads from copies of x and W, whose rows begin on lines of L2."""
        return self.variant == "padded"

    @property
    def rereads(self) -> bool:
        """Whether in training it stores products as they are, and later kernels read y again."""
        return self.variant in REREADING

    @property
    def is_elsewhere(self) -> bool:
        """Whether another revision's kernels are meant."""
        return self.variant.startswith(OTHER)

    def elsewhere(self) -> Config:
        """The same config for another revision's kernels."""
        return msgspec.structs.replace(self, variant=OTHER + self.variant)

    def here(self) -> Config:
        """What `elsewhere` was called on."""
        return msgspec.structs.replace(self, variant=self.variant.removeprefix(OTHER))

    @property
    def library_name(self) -> str:
        """What a library's config does, for people."""
        return LIBRARY_NAMES.get(self.variant, self.label())

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

    def vllm_row(self, problem: Problem) -> VllmRow | None:
        """By M, in a table for N, K and the form of a problem; vLLM's keys tell tiles alone, and no other variant."""
        if self.variant != "tiled":
            return None
        values = {
            "BLOCK_SIZE_M": self.BLOCK_M,
            "BLOCK_SIZE_N": self.BLOCK_N,
            "BLOCK_SIZE_K": self.BLOCK_K,
            "GROUP_SIZE_M": self.GROUP_M,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }
        forms = {"dtype": problem.dtype, "precision": problem.precision, "mode": problem.mode}
        return VllmRow({"N": problem.N, "K": problem.K}, forms, problem.M, values)


BASELINE: Final = Config()
"""The seed's own tile at 4 warps and 2 stages: always measured, always the fallback."""
