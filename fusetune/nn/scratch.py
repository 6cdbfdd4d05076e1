"""Scratch that outlives a call: where CTAs that share a tile leave their summands, and count themselves.

Counts must be zero before a launch and are again after it, so that they are made once. Launches that share scratch must
not run at once: eager calls on one stream do not, and each captured call has counts of its own.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

import torch

from fusetune.ops.spec import Operand

MOST_STREAMS: Final = 64
"""Streams of a device for which scratch is kept; with more, all of it is given back and made anew."""
CAPTURED_COUNTS: Final = 1 << 16
"""Counts of a device for captured calls, 256 KiB; the call that finds none left has its graph zero some."""
_COUNTS: Final = 2048
"""Counts of a stream, or as many as its largest call has tiles."""


class Kept:
    """A stream's scratch: room for `elements` summands and `tiles` counts, and where both lie."""

    __slots__ = ("addresses", "elements", "tensors", "tiles")

    def __init__(self, partial: torch.Tensor, arrivals: torch.Tensor) -> None:
        self.tensors = partial, arrivals
        self.elements, self.tiles = partial.numel(), arrivals.numel()
        self.addresses = partial.data_ptr(), arrivals.data_ptr()


class KeptScratch:
    """The scratch of one device, by stream."""

    def __init__(self, device: int) -> None:
        self.device = device
        self._by_stream: dict[int, Kept] = {}
        self._making = threading.Lock()
        self._captured: torch.Tensor | None = None
        self._given = 0

    def __len__(self) -> int:
        return len(self._by_stream)

    def prepare(self) -> None:
        """Have counts for calls that a CUDA graph captures, where these could not be made any more."""
        with self._making:
            if self._captured is None and not torch.cuda.is_current_stream_capturing():
                self._captured = self._zeros(CAPTURED_COUNTS)
                torch.cuda.current_stream(self.device).synchronize()

    def get(self, stream: int, elements: int, tiles: int) -> Kept:
        """Scratch for a launch on the current stream, given as the driver's handle too."""
        if torch._C._cuda_isCurrentStreamCapturing():
            return Kept(self._summands(elements), self._counts_of_a_capture(tiles))
        kept = self._by_stream.get(stream)
        if kept is None or kept.elements < elements or kept.tiles < tiles:
            kept = self._grow(stream, elements, tiles)
        return kept

    def _grow(self, stream: int, elements: int, tiles: int) -> Kept:
        # Made by the stream that uses it: PyTorch hands memory that is given back to later work of that stream alone.
        with self._making:
            before = self._by_stream.get(stream)
            if before is not None:
                elements, tiles = max(elements, before.elements), max(tiles, before.tiles)
            if len(self._by_stream) >= MOST_STREAMS:
                self._by_stream.clear()
            kept = Kept(self._summands(elements), self._zeros(max(tiles, _COUNTS)))
            self._by_stream[stream] = kept
        return kept

    def _counts_of_a_capture(self, tiles: int) -> torch.Tensor:
        with self._making:
            start, end = self._given, self._given + -(-tiles // 4) * 4  # each on 16 bytes
            if self._captured is None or end > CAPTURED_COUNTS:
                return self._zeros(tiles)
            self._given = end
            return self._captured[start:end]

    def _summands(self, elements: int) -> torch.Tensor:
        return torch.empty(elements, dtype=torch.float32, device=self._torch_device)

    def _zeros(self, tiles: int) -> torch.Tensor:
        return torch.zeros(tiles, dtype=torch.int32, device=self._torch_device)

    @property
    def _torch_device(self) -> torch.device:
        return torch.device("cuda", self.device)


_OF_DEVICES: Final[dict[int, KeptScratch]] = {}


def shared_scratch(scratch: Sequence[Operand]) -> tuple[Operand, ...]:
    """Of a workspace, the summands and their counts, which calls of a stream may share; nothing where none are counted.

    Summands without counts are added up by a second kernel, and another call could come between the two.
    """
    named = {operand.name: operand for operand in scratch}
    return (named["partial"], named["arrivals"]) if "arrivals" in named else ()


def kept_for(device: int, scratch: Sequence[Operand]) -> Callable[[int], Kept] | None:
    """What gives a plan its scratch by stream, on a CUDA device; None where a call needs none, or its own.

    Summands and counts may be another call's as soon as one launch has ended, which both writes and reads them.
    """
    shared = shared_scratch(scratch)
    if not shared:
        return None
    partial, arrivals = shared
    of_device = _OF_DEVICES.setdefault(device, KeptScratch(device))
    of_device.prepare()
    return functools.partial(of_device.get, elements=partial.numel, tiles=arrivals.numel)


os.register_at_fork(after_in_child=_OF_DEVICES.clear)  # it belongs to the parent's CUDA context
