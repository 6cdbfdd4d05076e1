"""Tensors that are not there, for Triton's compiler on a GPU that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class StandIn:
    """An aligned, contiguous tensor that is not there, for Triton's compiler and for what describes launches."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.is_cuda, self.is_cpu = device.type == "cuda", device.type == "cpu"

    def stride(self) -> tuple[int, ...]:
        """Strides in elements, innermost last."""
        return contiguous_strides(self.shape)

    def data_ptr(self) -> int:
        """An aligned address that nobody follows."""
        return 0

    def element_size(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides[: len(shape)]))
