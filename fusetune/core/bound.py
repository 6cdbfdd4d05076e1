"""Whether arithmetic or memory limits a kernel, and what says so."""

from __future__ import annotations

import math

import msgspec

from fusetune.core.roofline import Roofline


class Bound(msgspec.Struct, frozen=True):
    """`compute` is true where arithmetic, not memory, limits a kernel; `why` is half a sentence with the figures."""

    compute: bool
    why: str

    @property
    def name(self) -> str:
        """`compute-bound` or `memory-bound`."""
        return "compute-bound" if self.compute else "memory-bound"


def bound_by(walls: Roofline) -> Bound:
    """The higher of the two walls of a roofline; without operations that anybody counted, that of the bytes."""
    if math.isinf(walls.ridge):
        return Bound(compute=False, why="its operations are not counted, so that its bytes alone speak")
    told = f"{walls.intensity:.3g} FLOP a byte, where the GPU's two walls meet at {walls.ridge:.3g}"
    return Bound(compute=walls.bound == "compute", why=told)
