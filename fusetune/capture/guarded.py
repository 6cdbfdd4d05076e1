"""Storages between guard bytes, so that a write beside one is seen, and what tells that one has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusetune.capture.kept import Kept

if TYPE_CHECKING:
    import torch

GUARD: Final = 1 << 20
"""Bytes before and behind each storage of the set that is checked, which nothing may write to: a tile or two."""
_ALIGNED: Final = 512
"""What torch aligns its allocations to, and so what a pointer's alignment is counted from."""
_GUARD_BYTE: Final = 0xA5
_WORDS: Final = 1 << 24
"""That are summed up at a time."""


class StorageSet:
    """The storages of one set, each between guard bytes in memory of its own."""

    def __init__(self, kept: Kept, device: torch.device, guard: int, bytes_of: Callable[[int], torch.Tensor]) -> None:
        import torch

        self.memory: list[torch.Tensor] = []
        self.storages: list[torch.Tensor] = []
        for number, storage in enumerate(kept.storages):
            whole = torch.empty(2 * guard + storage.size + 2 * _ALIGNED, dtype=torch.uint8, device=device)
            begin = guard + (-(whole.data_ptr() + guard)) % _ALIGNED + storage.misaligned
            inside = whole[begin : begin + storage.size]
            inside.copy_(bytes_of(number))
            self.memory.append(whole)
            self.storages.append(inside)
        self.guard()

    def guard(self) -> None:
        """Fill the guard bytes."""
        for before, behind in self._guards():
            before.fill_(_GUARD_BYTE)
            behind.fill_(_GUARD_BYTE)

    def guards_are_whole(self) -> bool:
        """Whether nothing wrote outside of a storage."""
        return self.broken_guard(str) is None

    def broken_guard(self, name: Callable[[int], str]) -> str | None:
        """Which storage something wrote outside of."""
        for number, guards in enumerate(self._guards()):
            if any(bool((guard != _GUARD_BYTE).any()) for guard in guards):
                return name(number)
        return None

    def _guards(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for whole, inside in zip(self.memory, self.storages, strict=True):
            begin = inside.storage_offset()
            yield whole[:begin], whole[begin + inside.numel() :]


def checksum(storage: torch.Tensor) -> int:
    """A number that another content would hardly have: weighted sums of its words, which wrap around."""
    import torch

    total = 0
    whole = storage.numel() // 4 * 4
    words = (
        storage[:whole].view(torch.int32) if storage.data_ptr() % 4 == 0 else storage[:whole].clone().view(torch.int32)
    )
    for at in range(0, words.numel(), _WORDS):
        part = words[at : at + _WORDS].long()
        weights = torch.arange(1, part.numel() + 1, device=part.device)
        total = (total * 1_000_003 + int((part * weights).sum()) + int(part.sum()) * 31) % (1 << 63)
    return total * 257 + int(storage[whole:].long().sum())


def bytes_of(path: Path, device: torch.device) -> torch.Tensor:
    """A file's bytes on a device."""
    import numpy
    import torch

    return torch.from_numpy(numpy.fromfile(path, dtype=numpy.uint8)).to(device)
