"""The roofline of a problem: what its arithmetic and its bytes alone would take on a Target."""

from __future__ import annotations

import msgspec

from fusetune.core.peaks import dram_bytes_per_ns, kind_of, peak_flops_per_ns
from fusetune.core.problem import Problem
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


def roofline(flops: float, moved_bytes: float, problem: Problem, target: Target) -> Roofline:
    """The walls for an op of so many floating-point operations and so many bytes, each read or written once.

    Source of the model: Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009. Raises UsageError where the table
    of targets lacks the peak or the bandwidth.
    """
    peak, bandwidth = peak_flops_per_ns(kind_of(problem), target), dram_bytes_per_ns(target)
    return Roofline(
        intensity=flops / moved_bytes,
        ridge=peak / bandwidth,
        compute_us=flops / peak / 1e3,
        memory_us=moved_bytes / bandwidth / 1e3,
    )
