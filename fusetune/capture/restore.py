"""A capture's arguments again: storages with the bytes that were kept, or with others of the same distribution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fusetune.capture.exported import load_kernel
from fusetune.capture.kept import (
    ArgumentKept,
    FloatKept,
    FunctionKept,
    Kept,
    StorageKept,
    TensorKept,
    TupleKept,
    TypeKept,
)
from fusetune.core.brief import brief
from fusetune.errors import CaptureError
from fusetune.ops.spec import TileDescriptor

_CHUNK: Final = 32 << 20
_UNITS: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


class PaddedDescriptor(TileDescriptor):
    """A TileDescriptor that reads NaN beside its tensor."""

    def made(self) -> Any:
        """Triton's own."""
        made = super().made()
        made.padding = "nan"
        return made


def load_kept_kernel(kept: Kept, folder: Path) -> Any:
    """The kernel of a capture. Raises CaptureError where it cannot be launched again, with the reason."""
    if kept.unlaunchable is not None or not kept.kernel:
        raise CaptureError(f"{brief(folder)} cannot be launched: {kept.unlaunchable or 'it has no kernel'}")
    return load_kernel(folder, kept.module, kept.kernel)


def make_storage(kept: StorageKept, folder: Path, device: Any, generator: Any) -> Any:
    """A storage's bytes in a new tensor of uint8. What was sampled is drawn with the generator, of that device."""
    import torch

    storage = torch.empty(kept.size, dtype=torch.uint8, device=device)
    fill_storage(storage, kept, folder, generator)
    return storage


def fill_storage(storage: Any, kept: StorageKept, folder: Path, generator: Any, *, after: bool = False) -> None:
    """Write a kept storage's bytes into a tensor of uint8 of its size; with `after`, those after the launch.

    Raises CaptureError where a file lacks some.
    """
    file = kept.after if after and kept.after is not None else kept.file
    if file is None:
        storage.zero_()
        return
    if "/" in file or file.startswith("."):
        raise CaptureError(f"{brief(folder)} is damaged: it names the file {brief(file)}; capture the program again")
    try:
        if kept.how == "exact":
            _read(storage, folder / file)
        else:
            _drawn(storage, (folder / file).read_bytes(), kept, generator)
    except OSError as error:
        raise CaptureError(f"{brief(folder / file)} cannot be read ({error.strerror}); capture again") from error
    except ValueError as error:
        raise CaptureError(f"{brief(folder / file)} is damaged ({brief(error)}); capture again") from error


def _read(storage: Any, path: Path) -> None:
    import torch

    size = storage.numel()
    with path.open("rb") as file:
        for start in range(0, size, _CHUNK):
            part = bytearray(file.read(min(_CHUNK, size - start)))
            if len(part) != min(_CHUNK, size - start):
                raise ValueError("it ends too early")
            storage[start : start + len(part)].copy_(torch.frombuffer(part, dtype=torch.uint8))


def _drawn(storage: Any, data: bytes, kept: StorageKept, generator: Any) -> None:
    """Fill with elements drawn from some. What is behind the last whole element is zero."""
    import torch

    size = getattr(torch, kept.dtype).itemsize
    if size not in _UNITS or not data or len(data) % size:
        raise ValueError(f"it has {len(data)} bytes of elements of {size}")
    unit = getattr(torch, _UNITS[size])
    some = torch.frombuffer(bytearray(data), dtype=unit).to(storage.device)
    count = storage.numel() // size
    storage[count * size :].zero_()
    if storage.data_ptr() % size:
        raise ValueError("the storage does not begin at an element")
    elements = storage[: count * size].view(unit)
    if kept.how == "constant":
        elements.fill_(some[0])
        return
    step = _CHUNK // 8
    for start in range(0, count, step):
        part = elements[start : start + step]
        chosen = torch.randint(0, some.numel(), (part.numel(),), generator=generator, device=storage.device)
        torch.index_select(some, 0, chosen, out=part)


def tensor_of(kept: TensorKept, storage: Any) -> Any:
    """The tensor on a storage's bytes, which begin where `storage` does, a tensor of uint8; not yet a descriptor."""
    import torch

    dtype = getattr(torch, kept.dtype)
    first = storage.storage_offset()
    if first % dtype.itemsize:
        raise CaptureError(f"a storage begins at byte {first}, where no {kept.dtype} can; give it another place")
    made = torch.empty(0, dtype=dtype, device=storage.device)
    return made.set_(storage.untyped_storage(), first // dtype.itemsize + kept.offset, kept.shape, kept.stride)


def type_of(kept: TypeKept) -> Any:
    """The dtype that an argument was."""
    if kept.name.startswith("torch."):
        import torch

        return getattr(torch, kept.name.removeprefix("torch."))
    import triton.language as tl

    return tl.dtype(kept.name)


def argument_of(kept: ArgumentKept, folder: Path, storages: Sequence[Any]) -> Any:
    """One argument of a launch; a TileDescriptor for a descriptor, whose caller makes it."""
    if isinstance(kept, TensorKept):
        return _tensor_argument(kept, storages)
    if isinstance(kept, TupleKept):
        return tuple(argument_of(one, folder, storages) for one in kept.items)
    if isinstance(kept, FunctionKept):
        return load_kernel(folder, kept.module, kept.name)
    if isinstance(kept, TypeKept):
        return type_of(kept)
    return float(kept.text) if isinstance(kept, FloatKept) else kept.value


def _tensor_argument(kept: TensorKept, storages: Sequence[Any]) -> Any:
    tensor = tensor_of(kept, storages[kept.storage])
    if kept.block is not None:
        kind = PaddedDescriptor if kept.padding == "nan" else TileDescriptor
        return kind(tensor, kept.block, kept.rounds)
    if kept.read_as is not None:
        from triton import reinterpret

        return reinterpret(tensor, type_of(TypeKept(kept.read_as)))
    return tensor


def arguments_of(kept: Kept, folder: Path, storages: Sequence[Any]) -> dict[str, Any]:
    """All arguments of a launch by name, its constants too, on storages that `make_storage` or others made."""
    return {name: argument_of(one, folder, storages) for name, one in kept.arguments.items()}
