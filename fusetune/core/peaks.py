"""The rates that the table of targets states, in units of the cost models: a nanosecond's worth."""

from __future__ import annotations

from fusetune.core.target import Target
from fusetune.errors import UsageError


def peak_flops_per_ns(kind: str, target: Target) -> float:
    """The GPU's dense rate for products of a kind, FLOP a nanosecond; emulated precisions multiply three times.

    Raises UsageError where the table of targets has no peak for it.
    """
    peaks = {
        "tf32": (target.tf32_tflops, 1),
        "tf32x3": (target.tf32_tflops, 3),
        "bf16x3": (target.bf16_tflops, 3),
        "ieee": (target.fp32_tflops, 1),
        "float16": (target.fp16_tflops, 1),
        "bfloat16": (target.bf16_tflops, 1),
    }
    peak, times = peaks[kind]
    if peak is None:
        raise UsageError(
            f"the table of targets has no {kind} peak for {target.name}, so nothing can be predicted for it"
        )
    return peak * 1e3 / times


def dram_bytes_per_ns(target: Target) -> float:
    """Bytes a nanosecond of device memory, as its document states it. Raises UsageError where none does."""
    if target.dram_gb_s is None:
        raise UsageError(f"the table of targets has no bandwidth for {target.name}, so nothing can be predicted for it")
    return target.dram_gb_s
