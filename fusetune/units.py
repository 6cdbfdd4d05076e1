"""Microseconds, bytes and ratios as people read them: the one place that formats numbers."""

from __future__ import annotations

import math
import re

_BYTE_STEPS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_SIZE = re.compile(
    r"(?P<number>\d{1,15}(?:\.\d{1,9})?)\s*(?P<unit>(?P<letter>[kmgt]?)(?:(?P<binary>i)?b)?)", re.IGNORECASE | re.ASCII
)


def format_us(time_us: float | None) -> str:
    """A duration given in microseconds: `5.31 us`, `482 us`, `3.52 ms`; `-` where there is none."""
    if time_us is None or not math.isfinite(time_us):
        return "-"
    time_us = float(f"{time_us:.3g}")  # Rounded first: 999.6 us is 1.00 ms.
    if time_us >= 1e6:
        return f"{_significant(time_us / 1e6)} s"
    if time_us >= 1e3:
        return f"{_significant(time_us / 1e3)} ms"
    return f"{_significant(time_us)} us"


def format_bytes(size_bytes: int) -> str:
    """A size given in bytes: `48.0 KiB`, `232 B`."""
    for unit, step in _BYTE_STEPS:
        if abs(size_bytes) >= step:
            return f"{size_bytes / step:.1f} {unit}"
    return f"{size_bytes} B"


def parse_bytes(text: str) -> int:
    """A size that somebody wrote: `4GiB`, `500 MB`, `1.5g` or bytes alone. Raises ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write it as 4GiB or 500MB")
    step = 1 << 10 if found["binary"] or len(found["unit"]) < 2 else 1000
    return int(float(found["number"]) * step ** " kmgt".index((found["letter"] or " ").lower()))


def format_gain(gain: float | None) -> str:
    """A gain (0.02 means two percent less time) as a signed percentage; `-` where there is none."""
    if gain is None or not math.isfinite(gain):
        return "-"
    return f"{gain * 100:+.1f} %"


def format_interval(low: float | None, high: float | None) -> str:
    """The two ends of a gain's interval as percentages."""
    if low is None or high is None:
        return "-"
    return f"[{low * 100:+.1f}, {high * 100:+.1f}] %"


def format_speedup(gain: float | None) -> str:
    """A gain told as a ratio of times, baseline over candidate: `2.49x`."""
    if gain is None or not math.isfinite(gain) or gain >= 1:
        return "-"
    return f"{1 / (1 - gain):.2f}x"


def format_factor(ratio: float) -> str:
    """A time over another as a factor: `6.9x`, `1.54x`, `0.92x`, `26x`; `-` for what is none."""
    if not math.isfinite(ratio) or ratio <= 0:
        return "-"
    digits = 2 if ratio < 1.995 else 1 if ratio < 9.95 else 0
    return f"{ratio:.{digits}f}x"


def format_slower(ratio: float) -> str:
    """A time over another as words, two significant digits: `34 % slower`, `2.9 % faster`, `as fast`."""
    if not math.isfinite(ratio):
        return "not comparable"
    percent = abs(ratio - 1) * 100
    if percent < 0.05:
        return "as fast"
    told = f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"
    return f"{told} % {'slower' if ratio > 1 else 'faster'}"


def _significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
