"""Which tensors a config can take: where rows begin, and how far apart the elements of a tile lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fusetune.ops.gemm_scale.config import Config

_FURTHEST: Final = (1 << 31) - 1


def takes(config: Config, tensors: Mapping[str, Any]) -> bool:
    """Whether a config, tuned for contiguous tensors, can compute these very ones.

    The copy engine wants x, weight and y to begin on 16 bytes, as well as each of their rows, and rows without gaps; y
    only where it is to store it. A tile that goes by pointers wants what it reads and writes in reach of its corner.
    `padded` copies x and weight from wherever they lie.
    """
    if config.pads:
        return writes_near(config, tensors)
    if config.is_walking:
        moved = ("x", "weight") if config.masks else ("x", "weight", "y")
        return all(_copyable(tensors[name]) for name in moved) and (not config.masks or writes_near(config, tensors))
    return not out_of_reach(config, tensors) and writes_near(config, tensors)


def writes_near(config: Config, tensors: Mapping[str, Any]) -> bool:
    """Whether a tile of y lies in reach of its corner for an offset of 32 bits; a library needs none."""
    return config.is_library or _is_near(tensors["y"], config.BLOCK_M, tensors["y"].shape[1])


def out_of_reach(config: Config, tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs of which a tile by pointers holds elements too far from its corner for an offset of 32 bits.

    A library takes any, and so does the copy engine, whose rows lie without gaps.
    """
    if config.is_library or config.is_walking:
        return ()
    rows = {"x": config.BLOCK_M, "weight": config.BLOCK_N}
    return tuple(name for name, block in rows.items() if not _is_near(tensors[name], block, config.BLOCK_K, steps=True))


def _is_near(matrix: Any, rows: int, columns: int, *, steps: bool = False) -> bool:
    """Whether all offsets within a tile of so many rows and columns are of 32 bits; with `steps`, one to the next."""
    (height, width), (row, element) = matrix.shape, matrix.stride()
    furthest = (min(rows, height) - 1) * row + (min(columns, width) - 1) * element
    step = columns * element if steps and width > columns else 0
    return bool(max(furthest, step) <= _FURTHEST)


def _copyable(matrix: Any) -> bool:
    row, element = matrix.stride()
    aligned = matrix.data_ptr() % 16 == 0 and row * matrix.element_size() % 16 == 0
    return bool(aligned and element == 1 and row > 0)
