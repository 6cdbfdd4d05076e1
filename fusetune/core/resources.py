"""Resources: what the compiler made of a config, and how many copies of it fit on one SM."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fusetune.core.target import Target

WARP_SIZE = 32
_REGISTER_UNIT = 256
_SHARED_UNIT_BYTES = 128
_RESERVED_SHARED_BYTES = 1024


_Count = Annotated[int, msgspec.Meta(ge=0)]


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one compiled kernel uses.

    registers: 32-bit registers a thread. stack_bytes: local memory a thread; above 0 the kernel spills, whatever
    cuobjdump's LOCAL says. shared_bytes: dynamic shared memory a CTA.
    """

    registers: _Count
    stack_bytes: _Count
    shared_bytes: _Count

    @property
    def spills(self) -> bool:
        """Whether registers go to local memory."""
        return self.stack_bytes > 0


class Occupancy(msgspec.Struct, frozen=True):
    """How many CTAs of a kernel one SM holds, and what stops more of them.

    fraction: resident warps by the SM's warp slots, 0 to 1. limiter: "warps", "CTAs", "registers" or "shared memory";
    where not even one CTA fits, what keeps it out.
    """

    ctas_per_sm: int
    warps_per_sm: int
    fraction: float
    limiter: str


def occupancy(registers: int, shared_bytes: int, num_warps: int, target: Target) -> Occupancy:
    """Theoretical occupancy of a CTA with `num_warps` warps on one SM of `target`.

    Registers are given out a warp in units of 256, warps in multiples of the SM's four partitions, shared memory
    in units of 128 bytes plus 1 KiB that the driver reserves for each CTA (CUDA occupancy calculator rules for
    compute capability 8.0 and later).
    """
    registers_per_warp = _round_up(max(registers, 1) * WARP_SIZE, _REGISTER_UNIT)
    warps_by_registers = target.registers_per_sm // registers_per_warp // 4 * 4
    shared_per_cta = _round_up(shared_bytes, _SHARED_UNIT_BYTES) + _RESERVED_SHARED_BYTES
    # The order settles ties: where the SM's own slots are full, fewer registers or bytes would not add a CTA.
    limits = {
        "warps": target.max_warps_per_sm // num_warps,
        "CTAs": target.max_ctas_per_sm,
        "registers": warps_by_registers // num_warps,
        "shared memory": target.shared_bytes_per_sm // shared_per_cta,
    }
    limiter = min(limits, key=lambda name: limits[name])
    ctas = limits[limiter]
    warps = ctas * num_warps
    return Occupancy(ctas_per_sm=ctas, warps_per_sm=warps, fraction=warps / target.max_warps_per_sm, limiter=limiter)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
