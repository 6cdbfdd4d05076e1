"""The roofline of a problem: what its arithmetic and its bytes alone would take on a Target."""

from __future__ import annotations

import math

import msgspec

from fusetune.core.peaks import dram_bytes_per_ns, peak_flops_per_ns
from fusetune.core.target import Target


class Roofline(msgspec.Struct, frozen=True):
    """FLOP for each byte of device memory, of the problem and where the target's two walls meet, and the higher wall.

    compute_us and memory_us: at the dense peak, and at the whole bandwidth; bound: "compute" or "memory".
    """

    intensity: float
    ridge: float
    compute_us: float
    memory_us: float

    @property
    def bound(self) -> str:
        """Which wall is the higher one."""
        return "compute" if self.compute_us >= self.memory_us else "memory"

    @property
    def time_us(self) -> float:
        """No launch can take less."""
        return max(self.compute_us, self.memory_us)


def roofline(flops: float, moved_bytes: float, kind: str | None, target: Target) -> Roofline:
    """The walls for an op of so many floating-point operations and so many bytes, each read or written once.

    `kind` names the peak that the operations go by (`peak_flops_per_ns`); without it, or without operations, the wall
    is that of the bytes alone.

    Source of the model: Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009. Raises UsageError where the table
    of targets lacks the peak or the bandwidth.
    """
    bandwidth = dram_bytes_per_ns(target)
    if kind is None or not flops:
        return Roofline(intensity=0.0, ridge=math.inf, compute_us=0.0, memory_us=moved_bytes / bandwidth / 1e3)
    peak = peak_flops_per_ns(kind, target)
    return Roofline(
        intensity=flops / moved_bytes,
        ridge=peak / bandwidth,
        compute_us=flops / peak / 1e3,
        memory_us=moved_bytes / bandwidth / 1e3,
    )
