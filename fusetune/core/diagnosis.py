"""What limits a kernel, by a profiler's metrics and the facts of its compilation: one sentence, with its figures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fusetune.core.bound import Bound
from fusetune.core.resources import Occupancy
from fusetune.core.target import Target

SM: Final = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
DRAM: Final = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
WARPS: Final = "sm__warps_active.avg.pct_of_peak_sustained_active"
L2_HITS: Final = "lts__t_sector_hit_rate.pct"
L2: Final = "lts__throughput.avg.pct_of_peak_sustained_elapsed"
TENSOR: Final = "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active"
GRID: Final = "launch__grid_size"
REGISTERS: Final = "launch__registers_per_thread"
SHARED: Final = "launch__shared_mem_per_block_dynamic"
DURATION: Final = "gpu__time_duration.sum"

METRICS: Final = (SM, WARPS, DRAM, L2_HITS, L2, TENSOR, GRID, REGISTERS, SHARED, DURATION)
"""What `fusetune profile` asks Nsight Compute for: what limits a kernel by five metrics, and what checks these."""

ROUNDING_PERCENT: Final = 1.0
"""A busy unit may show as so much more than 100 %: Nsight Compute counts the parts of a ratio in several passes."""
MOST_CTAS: Final = 2**63
NEEDED: Final = (SM, DRAM)
"""Without these nothing can be said of what limits a kernel."""
_STALLED: Final = re.compile(r"issue_stalled_([a-z_]+?)(?:_per_(?:issue|warp)_active)?\.(ratio|pct)$")
"""Of `smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio`, and of the same as a share."""
_NO_STALL: Final = ("selected", "not_selected")
_STALLS: Final[Mapping[str, str]] = {
    "barrier": "for other warps of its CTA",
    "drain": "for stores to end",
    "gmma": "for the tensor cores",
    "lg_throttle": "for the queue of global memory",
    "long_scoreboard": "for global memory",
    "math_pipe_throttle": "for an arithmetic pipe",
    "membar": "for a memory barrier",
    "mio_throttle": "for the queue of shared memory",
    "no_instruction": "for instructions",
    "short_scoreboard": "for shared memory",
    "wait": "for the instruction before",
}
"""What a warp waits for (Nsight Compute, Kernel Profiling Guide, Warp Stall Reasons)."""
WALL_PERCENT: Final = 80.0
"""A unit this busy is a wall. Nsight Compute's own speed-of-light rule draws the same line (CUDA, Kernel Profiling
Guide)."""
HALF_RATE_CAPABILITIES: Final = frozenset({86, 89, 120})
OF_OCCUPANCY: Final = 0.9
"""Warps active from this share of the theoretical occupancy on are all that may be."""


class Diagnosis(msgspec.Struct, frozen=True):
    """What limits a kernel: a word for programs, a sentence for people, and what else is to be said.

    limit: compute, dram, l2, occupancy, latency, or unknown where the metrics that would say are missing. `bound` says
    on which side it is, by the busier of the two where no unit is near its peak; None where that is unknown.
    """

    kernel: str
    limit: str
    sentence: str
    notes: tuple[str, ...] = ()
    bound: Bound | None = None


def averaged(launches: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The mean of each metric over the launches that have it, and a sentence for each figure that cannot be."""
    seen = [believed(launch) for launch in launches if launch]
    doubts = tuple(dict.fromkeys(doubt for _, told in seen for doubt in told))
    every: dict[str, list[float]] = {}
    for launch, _ in seen:
        for name, value in launch.items():
            every.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in every.items()}, doubts


def believed(metrics: Mapping[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The metrics that can be, and a sentence for each that cannot and is left out.

    A share of a peak is 0 to 100 %, and up to ROUNDING_PERCENT more is taken for 100 %; a grid is a number of CTAs;
    nothing is negative or without end.
    """
    kept: dict[str, float] = {}
    doubts = []
    for name, value in metrics.items():
        percent = ".pct" in name
        most = 100.0 + ROUNDING_PERCENT if percent else MOST_CTAS if name == GRID else math.inf
        if not 0 <= value <= most or math.isinf(value) or (name == GRID and (value < 1 or value != int(value))):
            doubts.append(f"{name} is {value:.6g}{' %' if percent else ''}, which cannot be: it is left out.")
        else:
            kept[name] = min(value, 100.0) if percent else value
    return kept, tuple(doubts)


def products_at_half(kind: str | None, target: Target) -> bool:
    """Whether a full tensor pipe shows as half of the SM's peak throughput.

    GeForce cards multiply with FP32 accumulation at half the rate of the pipe, which the profiler measures against: at
    50 % SM throughput an RTX 4090 does all the TF32 products it can (benchmarks/data, kernel_ms_from_sm_throughput).
    Their tables state it: dense FP16 with FP32 accumulation is twice FP32's rate there, four times elsewhere.
    """
    if target.sm not in HALF_RATE_CAPABILITIES or kind in {None, "ieee"}:
        return False
    return bool(target.fp16_tflops and target.fp32_tflops and target.fp16_tflops < 3 * target.fp32_tflops)


def diagnose(
    kernel: str, metrics: Mapping[str, float], held: Occupancy, kind: str | None, target: Target, *, grid: int
) -> Diagnosis:
    """Join one kernel's metrics with its theoretical occupancy and say what limits it; see `believed`.

    `kind` says how its products are made (`peak_flops_per_ns`); None where it makes none.
    """
    metrics, doubts = believed(metrics)
    sm, dram, warps = metrics.get(SM), metrics.get(DRAM), metrics.get(WARPS)
    theory = held.fraction * 100
    told = _figures(metrics, theory)
    notes = [*doubts, *_notes(metrics, held, target, grid)]
    if sm is None or dram is None:
        missing = ", ".join(name for name in (SM, DRAM) if metrics.get(name) is None)
        return Diagnosis(
            kernel, "unknown", f"What limits {kernel} cannot be said without {missing}.{told}", tuple(notes)
        )
    half = products_at_half(kind, target)
    products = min(100.0, sm * 2) if half else sm
    if dram >= WALL_PERCENT and dram >= products:
        limit, why = "dram", f"Device memory limits {kernel}: it is {dram:.0f} % busy."
    elif products >= WALL_PERCENT:
        limit, why = "compute", f"Arithmetic limits {kernel}: its SMs are at {sm:.0f} % of their throughput"
        why += (
            f", and products with FP32 accumulation end at 50 % on this card: the tensor cores do {products:.0f} % of "
            "what they can."
            if half
            else "."
        )
    elif metrics.get(L2, 0.0) >= WALL_PERCENT:
        limit, why = "l2", f"L2 limits {kernel}: it is {metrics[L2]:.0f} % busy."
    elif warps is not None and warps >= OF_OCCUPANCY * theory and held.limiter != "warps":
        limit = "occupancy"
        keep = "keeps" if held.limiter == "shared memory" else "keep"
        why = (
            f"Latency limits {kernel}, and {held.limiter} {keep} more warps out: no unit is near its peak "
            f"(SM {sm:.0f} %, DRAM {dram:.0f} %)."
        )
    else:
        limit, why = "latency", f"Latency limits {kernel}: no unit is near its peak (SM {sm:.0f} %, DRAM {dram:.0f} %)."
    return Diagnosis(kernel, limit, why + told, tuple(notes), _bound(limit, products, dram))


def _bound(limit: str, products: float, dram: float) -> Bound:
    """Which side a kernel is on: that of its wall, or of the busier unit where it meets none."""
    told = f"the profile has arithmetic at {products:.0f} % and device memory at {dram:.0f} %"
    if limit in {"dram", "l2"}:
        return Bound(compute=False, why=told if limit == "dram" else f"{told}, and L2 limits it")
    if limit == "compute":
        return Bound(compute=True, why=told)
    return Bound(compute=products > dram, why=f"no unit is near its peak, but {told}")


def _figures(metrics: Mapping[str, float], theory: float) -> str:
    """All that is known, after the reason."""
    sm, dram, warps, hits = (metrics.get(name) for name in (SM, DRAM, WARPS, L2_HITS))
    parts = []
    if sm is not None:
        parts.append(f"SM throughput {sm:.0f} %")
    if warps is not None:
        equal = warps >= OF_OCCUPANCY * theory
        parts.append(
            f"{warps:.0f} % warps active, "
            + (
                f"equal to the occupancy limit of {theory:.0f} %"
                if equal
                else f"where occupancy would allow {theory:.0f} %"
            )
        )
    if dram is not None:
        parts.append(f"DRAM {dram:.0f} %")
    if hits is not None:
        parts.append(f"{hits:.0f} % L2 hits")
    if (registers := metrics.get(REGISTERS)) is not None:
        parts.append(f"{registers:.0f} registers a thread")
    parts += _stalled(metrics)
    return f" ({'; '.join(parts)})" if parts else ""


def _stalled(metrics: Mapping[str, float]) -> list[str]:
    """What warps wait for most, of the stall reasons that the metrics have."""
    found: dict[str, dict[str, float]] = {"ratio": {}, "pct": {}}
    for name, value in metrics.items():
        if (told := _STALLED.search(name)) is not None and told[1] not in _NO_STALL:
            found[told[2]][told[1]] = value
    form = "ratio" if found["ratio"] else "pct"
    if not any(found[form].values()):
        return []
    most = max(found[form], key=lambda reason: found[form][reason])
    amount = f"{found[form][most]:.1f}" + (" warps an issue" if form == "ratio" else " %")
    return [f"warps wait most {_STALLS.get(most, 'otherwise')} (stall {most}, {amount})"]


def _notes(metrics: Mapping[str, float], held: Occupancy, target: Target, grid: int) -> list[str]:
    notes = []
    warps = metrics.get(WARPS)
    if warps is not None and warps > held.fraction * 100 + 0.5:
        notes.append(
            f"More warps were active ({warps:.1f} %) than this config can hold ({held.fraction * 100:.1f} %): the "
            f"metrics are of another kernel, or of another GPU than {target.name}."
        )
    profiled = metrics.get(GRID)
    if profiled is not None and int(profiled) != grid:
        notes.append(
            f"The profiled launch has {int(profiled)} CTAs, this config launches {grid}: they are not the same."
        )
    waves = grid / max(1, held.ctas_per_sm * target.sms)
    if warps is not None and waves < 1 and warps < held.fraction * 90:
        notes.append(
            f"{grid} CTAs do not fill the GPU once ({waves:.2f} waves): smaller tiles or more CTAs a tile would."
        )
    return notes
