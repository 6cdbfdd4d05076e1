"""How a compiled config differs from its pin: what is worse, what is better, and what is only different."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from fusetune.compiler.record import KernelRecord
from fusetune.compiler.sass import InstructionCounts
from fusetune.units import format_bytes

INSTRUCTION_SLACK: Final = 0.02
"""A share of instructions more or less that no run time shows: a scheduler's choice, not a lost optimization."""

_COSTS: Final[dict[str, Callable[[KernelRecord], int]]] = {
    "registers": lambda record: record.registers,
    "stack_bytes": lambda record: record.stack_bytes,
    "spill_bytes": lambda record: record.spill_bytes,
    "shared_bytes": lambda record: record.shared_bytes,
    "instructions": lambda record: record.instructions.total,
}
"""What a kernel pays: more is worse."""
_MEANS: Final = ("mma", "wgmma", "tcgen05_mma", "ldmatrix", "stmatrix", "cp_async", "tma_load", "tma_store")
"""Hardware that a fast kernel goes through: to lose one altogether is worse, however many there were."""

METRICS: Final = (*_COSTS, *_MEANS)
"""What an override may accept."""


class Drift(msgspec.Struct, frozen=True):
    """What differs from a pin. `worse` and `better` name metrics; `told` has the figures of all that differs."""

    worse: tuple[str, ...] = ()
    better: tuple[str, ...] = ()
    told: str = ""

    @property
    def is_none(self) -> bool:
        """Whether the very same machine code came out."""
        return not self.told


def drift(pinned: Sequence[KernelRecord], made: Sequence[KernelRecord]) -> Drift:
    """What changed from `pinned` to `made`, kernel by kernel in the order of their launches."""
    names = [record.kernel for record in made]
    if [record.kernel for record in pinned] != names:
        others = ", ".join(record.kernel for record in pinned) or "no kernel"
        return Drift(worse=("instructions",), told=f"launches {', '.join(names) or 'no kernel'} instead of {others}")
    worse: dict[str, None] = {}
    better: dict[str, None] = {}
    told: list[str] = []
    for before, now in zip(pinned, made, strict=True):
        if before.cubin == now.cubin:
            continue
        figures = _figures(before, now, worse, better) or ["other machine code of the same size"]
        told.append(f"{f'{now.kernel}: ' if len(made) > 1 else ''}{', '.join(figures)}")
    return Drift(tuple(worse), tuple(better), "; ".join(told))


def _figures(before: KernelRecord, now: KernelRecord, worse: dict[str, None], better: dict[str, None]) -> list[str]:
    figures = []
    for metric, of in _COSTS.items():
        then, today = of(before), of(now)
        if then == today:
            continue
        slack = INSTRUCTION_SLACK * then if metric == "instructions" else 0
        if abs(today - then) > slack:
            (worse if today > then else better)[metric] = None
        figures.append(_told(metric, then, today))
    for metric in _MEANS:
        then, today = _count(before.instructions, metric), _count(now.instructions, metric)
        if then == today:
            continue
        if not today:
            worse[metric] = None
        elif not then:
            better[metric] = None
        figures.append(_told(metric, then, today))
    return figures


def _count(counts: InstructionCounts, kind: str) -> int:
    return int(getattr(counts, kind))


def _told(metric: str, then: int, today: int) -> str:
    if metric.endswith("_bytes"):
        return f"{metric.removesuffix('_bytes')} {format_bytes(then)} -> {format_bytes(today)}"
    return f"{metric} {then} -> {today}"
