"""The bytes behind tensors, read without a trace: no gradient, no mode of the program's, no random number of its own.

Relies on `torch._C.DisableTorchFunction` and `torch.utils._python_dispatch._disable_current_modes` of 2.11 to 2.13.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

CHUNK: Final = 64 << 20
SAMPLED: Final = 65_536
"""Elements that stand for a large storage of floats."""
_UNITS: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


@contextlib.contextmanager
def undisturbed(device: Any) -> Iterator[None]:
    """Let what is asked of torch here be no part of what the program does; on its current stream of that device."""
    import torch
    from torch.utils._python_dispatch import _disable_current_modes

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C.DisableTorchFunction())
        stack.enter_context(_disable_current_modes())
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield


def raw_of(tensor: Any) -> Any:
    """The whole storage behind a tensor, as bytes: the same memory."""
    import torch

    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, 0, (storage.nbytes(),), (1,))


def chunks_of(raw: Any) -> Iterator[memoryview]:
    """The bytes of a storage, a part at a time; each is gone when the next one is asked for."""
    for start in range(0, raw.numel(), CHUNK):
        part = raw[start : start + CHUNK].cpu().contiguous()
        yield memoryview((ctypes.c_uint8 * part.numel()).from_address(part.data_ptr())).cast("B")


def elements_of(raw: Any, size: int) -> Any:
    """A storage as elements of `size` bytes that are equal where their bits are; None for one of another size."""
    import torch

    if size not in _UNITS or raw.numel() < size or raw.data_ptr() % size:
        return None
    return raw[: raw.numel() // size * size].view(getattr(torch, _UNITS[size]))


def is_constant(elements: Any) -> bool:
    """Whether all elements are equal, asked on their device."""
    step = CHUNK // elements.element_size()
    first = elements[:1]
    return all(bool((elements[at : at + step] == first).all()) for at in range(0, elements.numel(), step))


def sample_of(elements: Any, seed: int) -> Any:
    """Some of the elements, drawn at random."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, elements.numel(), (SAMPLED,), generator=generator, dtype=torch.int64, device="cpu")
    return elements[chosen.to(elements.device)]


def bytes_of(elements: Any) -> bytes:
    """The bytes of a few elements."""
    import torch

    return b"".join(bytes(one) for one in chunks_of(elements.contiguous().view(torch.uint8)))


def written(path: Path, parts: Iterator[memoryview] | list[bytes]) -> None:
    """Write a file of the owner's alone, that is not there yet."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for part in parts:
            file.write(part)


def differs(raw: Any, path: Path) -> bool:
    """Whether a storage has other bytes than a file."""
    with path.open("rb") as file:
        return any(part != file.read(len(part)) for part in chunks_of(raw))
