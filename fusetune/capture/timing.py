"""How long single launches of a program take on the GPU, without the host's time between them."""

from __future__ import annotations

from typing import Any, Final

MOST_TIMED: Final = 20_000
"""Launches that are timed at most; what comes later is counted."""
_BUSY_CYCLES: Final = 400_000
"""Of the GPU's clock, some 200 us: longer than the host takes for a launch."""
_FIRST: Final = 20
"""So many times as long at a kernel's first launch."""


class LaunchTimer:
    """Gives events for launches, and counts those that were timed in `timings`."""

    def __init__(self) -> None:
        self.timings = 0
        self._launched: set[int] = set()

    def events(
        self,
        run: Any,
        kernel: Any,
        args: tuple[Any, ...],
        grid: Any,
        named: dict[str, Any],
        *,
        busy: bool = True,
    ) -> tuple[Any, Any] | None:
        """Events for a launch, with the GPU kept busy until both are queued: no time of the host's is between them.

        A kernel is compiled and loaded before. Its first launch takes the host longer than others. Without `busy` the
        GPU is not kept so, as where a program times the launch itself.
        """
        import torch

        from fusetune.ops.direct import load

        if self.timings >= MOST_TIMED:
            return None
        self.timings += 1
        compiled = run(kernel, *args, grid=grid, warmup=True, **named)
        if compiled is not None:
            load(compiled)
        is_first = id(kernel) not in self._launched
        self._launched.add(id(kernel))
        if busy:
            torch.cuda._sleep(_BUSY_CYCLES * (_FIRST if is_first else 1))
        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
