"""`fusetune targets`: the GPUs that can be compiled and predicted for, with their limits and where those come from."""

from __future__ import annotations

import json

import click
import msgspec

from fusetune.cli.completing import TARGETS
from fusetune.cli.helped import Helped
from fusetune.cli.shown import echo, echo_json, json_option
from fusetune.core.target import Target, find_target, known_targets
from fusetune.units import format_bytes

_FIGURES = (
    ("sms", "SMs"),
    ("registers_per_sm", "32-bit registers an SM"),
    ("max_warps_per_sm", "warps an SM"),
    ("max_ctas_per_sm", "CTAs an SM"),
    ("shared_bytes_per_sm", "bytes of shared memory an SM"),
    ("shared_bytes_per_cta", "bytes of shared memory a CTA"),
    ("l2_bytes", "bytes of L2"),
    ("dram_gb_s", "GB/s of device memory"),
    ("boost_mhz", "MHz boost clock"),
    ("tf32_tflops", "TFLOP/s TF32, dense"),
    ("fp16_tflops", "TFLOP/s FP16 with FP32 accumulation, dense"),
    ("bf16_tflops", "TFLOP/s BF16, dense"),
    ("fp32_tflops", "TFLOP/s FP32"),
    ("memory_gib", "GiB of device memory"),
)


@click.command("targets", cls=Helped)
@click.argument("name", required=False, shell_complete=TARGETS)
@json_option
def targets(name: str | None, as_json: bool) -> None:
    """The GPUs that fusetune knows; with a NAME, that one's figures and the document behind each.

    Peaks are dense, with FP32 accumulation. A figure that no document states is left out, never guessed.
    """
    chosen = [find_target(name)] if name else list(known_targets())
    if as_json:
        echo_json(json.dumps([_builtins(target) for target in chosen], indent=1))
    elif name:
        echo(_details(chosen[0]))
    else:
        echo(_table(chosen))


def _builtins(target: Target) -> dict[str, object]:
    return {**msgspec.to_builtins(target), "sm": target.sm, "slug": target.slug}


def _table(chosen: list[Target]) -> str:
    header: tuple[str, ...] = (
        "--target",
        "name",
        "capability",
        "SMs",
        "warps/SM",
        "shared/CTA",
        "L2",
        "GB/s",
        "TF32",
        "FP16",
        "FP32",
    )
    rows = [header, *(_cells(target) for target in chosen)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append(
        "TFLOP/s are dense, with FP32 accumulation. `fusetune targets NAME` says where each figure comes from."
    )
    return "\n".join(lines)


def _cells(target: Target) -> tuple[str, ...]:
    rates = (target.dram_gb_s, target.tf32_tflops, target.fp16_tflops, target.fp32_tflops)
    return (
        target.aliases[0],
        target.name,
        target.capability,
        str(target.sms),
        str(target.max_warps_per_sm),
        format_bytes(target.shared_bytes_per_cta),
        format_bytes(target.l2_bytes) if target.l2_bytes else "-",
        *("-" if figure is None else f"{figure:g}" for figure in rates),
    )


def _details(target: Target) -> str:
    also = f" (also {', '.join(target.aliases[1:])})" if len(target.aliases) > 1 else ""
    lines = [f"{target.name}, compute capability {target.capability}: --target {target.aliases[0]}{also}"]
    for field, meaning in _FIGURES:
        figure = getattr(target, field)
        told = "-" if figure is None else f"{figure:,g}" if isinstance(figure, float) else f"{figure:,}"
        source = target.sources.get(field, "no document states it")
        lines.append(f"  {told:>11} {meaning:<44} {source}")
    return "\n".join(lines)
