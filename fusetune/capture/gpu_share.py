"""How much of a program's GPU time its Triton kernels are: all kernels of a run, by PyTorch's profiler.

A run of its own: the profiler slows launches down, and a program that profiles itself fails under it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

_COPIES: Final = ("Memcpy", "Memset")
"""How CUPTI calls what is no kernel."""


class GpuTime(msgspec.Struct, frozen=True):
    """Microseconds of all kernels that ran on the GPU, copies left out, and of those that Triton launched."""

    all_us: float
    triton_us: float

    @property
    def triton_share(self) -> float | None:
        """Of Triton's kernels, from 0 to 1; None where no kernel was seen, as without CUPTI."""
        return self.triton_us / self.all_us if self.all_us > 0 and self.triton_us > 0 else None


def profiled(run: Callable[[], None], names: Callable[[], Collection[str]]) -> GpuTime:
    """Run under the profiler; `names` gives those of the Triton kernels once it ran."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return time_of(us_by_name(seen.events() or ()), names())


def us_by_name(events: Iterable[Any]) -> dict[str, float]:
    """The microseconds of the GPU's kernels among a profiler's events, by their names."""
    found: dict[str, float] = {}
    for event in events:
        on_gpu = getattr(event.device_type, "name", "") == "CUDA"
        if on_gpu and not event.name.startswith(_COPIES) and not getattr(event, "is_user_annotation", False):
            found[event.name] = found.get(event.name, 0.0) + event.time_range.elapsed_us()
    return found


def time_of(us: Mapping[str, float], names: Collection[str]) -> GpuTime:
    """The sums, `names` being those of Triton's kernels."""
    return GpuTime(sum(us.values()), sum(value for name, value in us.items() if name in names))
