"""Keep the cases of a program on disk, from within its process: what a launch is given before, what it wrote after."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fusetune.capture.captures import RUN_FILE, RunKept, make_private, write_private
from fusetune.capture.cases import Case
from fusetune.capture.exported import Exporter, NotExportedError, Place
from fusetune.capture.grids import GridRule
from fusetune.capture.kept import (
    KERNELS,
    MANIFEST,
    VERSION,
    ArgumentKept,
    FloatKept,
    FunctionKept,
    How,
    Kept,
    Placed,
    PlainKept,
    StorageKept,
    TensorKept,
    TupleKept,
    TypeKept,
)
from fusetune.capture.launches import tensor_of
from fusetune.capture.snapshot import (
    bytes_of,
    chunks_of,
    differs,
    elements_of,
    is_constant,
    raw_of,
    sample_of,
    undisturbed,
    written,
)
from fusetune.core.brief import brief, brief_error
from fusetune.core.text import file_part
from fusetune.ops.sources import jitted

WHOLE_BYTES: Final = 16 << 20
"""A storage of floats that is larger is kept by its distribution."""
MOST_CASES: Final = 200


class _CannotError(Exception):
    """Why a case cannot be launched again, as a sentence about it."""


class Pending:
    """A case between its launch and the next: what was written of it before."""

    def __init__(self, number: int, name: str, folder: Path) -> None:
        self.number, self.name, self.folder = number, name, folder
        self.part = folder.with_name(f".{folder.name}.part")
        self.exporter = Exporter()
        self.tensors: list[Any] = []
        self.dtypes: list[set[Any]] = []
        self.numbers: dict[Any, int] = {}
        self.arguments: dict[str, ArgumentKept] = {}
        self.storages: list[StorageKept] = []
        self.place = Place("", "")
        self.bytes = 0
        self.why: str | None = None
        self.notes: list[str] = []

    def cannot(self, why: str) -> None:
        """Note why it cannot be launched again; the first reason counts."""
        self.why = self.why or why


class Keeper:
    """Writes captures into `folder`, which is made with the first one: `before` a launch, `after` it, then `keep`.

    Nothing here fails a program: what goes wrong is the reason why a case was not kept. Without `reads` no storage is
    looked at, as where launches are compiled only. At most `quota_bytes` of storages are written, and `most` cases.
    """

    def __init__(
        self,
        folder: Path,
        *,
        exact: bool,
        quota_bytes: int,
        program: str,
        most: int = MOST_CASES,
        reads: bool = True,
    ) -> None:
        self.folder = folder
        self._exact, self._quota, self._program, self._most, self._reads = exact, quota_bytes, program, most, reads
        self._claimed: set[Any] = set()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._bytes = self._cases = self._forgotten = 0
        self._bytes_of: dict[str, int] = {}
        self.gpu: str | None = None

    def before(self, key: Any, kernel: Any, bound: Mapping[str, Any]) -> Pending | None:
        """Take what a launch is given, where none of this key was; None where it is known or cannot be written."""
        with self._lock:
            if os.getpid() != self._process or key in self._claimed or self._is_full():
                return None
            self._claimed.add(key)
            number = len(self._claimed)
        name = str(getattr(getattr(kernel, "fn", kernel), "__name__", "kernel"))
        pending = Pending(number, name, self.folder / f"{number:02d}-{file_part(name)[:60]}")
        try:
            make_private(pending.part)
            self._take(pending, kernel, bound)
        except _CannotError as error:
            pending.cannot(str(error))
        except Exception as error:  # noqa: BLE001 - the program goes on, and who reads the case is told
            pending.cannot(f"what it is launched with could not be kept: {brief_error(error)}")
        return pending

    def _is_full(self) -> bool:
        return len(self._claimed) - self._forgotten >= self._most

    def after(self, pending: Pending) -> None:
        """Take what the launch wrote into the storages that were kept with all their bytes."""
        for number, (tensor, kept) in enumerate(zip(pending.tensors, pending.storages, strict=False)):
            if pending.why is not None or kept.how != "exact" or kept.file is None:
                continue
            try:
                with undisturbed(tensor.device):
                    raw = raw_of(tensor)
                    if not differs(raw, pending.part / kept.file):
                        continue
                    if not self._reserve(pending, kept.size):
                        pending.notes.append("what it wrote does not fit into the quota; raise --quota")
                        continue
                    written(pending.part / f"after-{number}.bin", chunks_of(raw))
                pending.storages[number] = msgspec.structs.replace(kept, after=f"after-{number}.bin")
            except Exception as error:  # noqa: BLE001 - as in `before`
                pending.cannot(f"what it wrote could not be kept: {brief_error(error)}")

    def drop(self, pending: Pending) -> None:
        """Forget a launch that failed."""
        shutil.rmtree(pending.part, ignore_errors=True)
        self._give_back(pending)

    def _give_back(self, pending: Pending) -> None:
        with self._lock:
            self._bytes -= pending.bytes
        pending.bytes = 0

    def _empty(self, pending: Pending) -> None:
        """What cannot be launched needs no storages; its manifest says what they were."""
        for file in pending.part.glob("*.bin"):
            file.unlink(missing_ok=True)
        self._give_back(pending)
        pending.storages = [self._left_out(pending, number) for number in range(len(pending.tensors))]

    def keep(
        self,
        pending: Pending,
        case: Case,
        *,
        rule: GridRule | None = None,
        placed: Sequence[Placed] = (),
        proposals: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] = {},
    ) -> str | None:
        """Write a case down. Its folder; None where that failed, which `pending.why` then tells."""
        for name in case.tables:
            pending.cannot(f"{name} holds pointers")
        plain = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str | None)}
        for name in options.keys() - plain.keys():
            pending.cannot(f"it is launched with {name}, which cannot be kept")
        if pending.why is not None:
            self._empty(pending)
        case = msgspec.structs.replace(case, findings=(*case.findings, *pending.notes), kept=str(pending.folder))
        kept = Kept(
            version=VERSION,
            id=f"{self.folder.name}/{pending.folder.name}",
            made=self._made,
            program=self._program,
            case=case,
            module=pending.place.module,
            kernel=pending.place.name,
            arguments=pending.arguments,
            storages=tuple(pending.storages),
            options=plain,
            placed=tuple(placed),
            proposals=tuple(dict(one) for one in proposals),
            unlaunchable=pending.why,
            paths=tuple(sys.path),
            folder=os.getcwd(),  # noqa: PTH109
            torch=_version("torch"),
            triton=_version("triton"),
            gpu=self.gpu,
            **_of_rule(rule, case),
        )
        try:
            self._write(pending, kept)
        except (OSError, TypeError, ValueError, msgspec.EncodeError) as error:
            pending.cannot(f"it could not be written: {brief(getattr(error, 'strerror', None) or error)}")
            self.drop(pending)
            return None
        return str(pending.folder)

    def _write(self, pending: Pending, kept: Kept) -> None:
        kernels = pending.part / KERNELS
        make_private(kernels)
        texts = {"__init__.py": '"""What a capture keeps of a program: its kernels."""\n'}
        for name, text in {**texts, **pending.exporter.texts()}.items():
            write_private(kernels / name, text.encode())
        write_private(pending.part / MANIFEST, msgspec.json.format(msgspec.json.encode(kept), indent=1))
        pending.part.rename(pending.folder)
        with self._lock:
            self._cases += 1
            self._bytes_of[str(pending.folder)] = pending.bytes
            self._write_run()

    def forget(self, folder: str) -> None:
        """Remove a case that was kept, as it turned out to be another's."""
        with self._lock, contextlib.suppress(OSError):
            self._bytes -= self._bytes_of.pop(folder)
            self._cases -= 1
            self._forgotten += 1
            shutil.rmtree(folder, ignore_errors=True)
            self._write_run()

    def _write_run(self) -> None:
        run = RunKept(self.folder.name, self._program, self._made, self.gpu, self._bytes, self._cases)
        write_private(self.folder / RUN_FILE, msgspec.json.format(msgspec.json.encode(run), indent=1))

    def _take(self, pending: Pending, kernel: Any, bound: Mapping[str, Any]) -> None:
        try:
            pending.place = pending.exporter.function(kernel)
        except NotExportedError as error:
            pending.cannot(str(error))
        for name, value in bound.items():
            try:
                pending.arguments[name] = self._argument(pending, name, value)
            except (_CannotError, NotExportedError) as error:
                pending.cannot(str(error))
        for number, tensor in enumerate(pending.tensors):
            if pending.why is not None:
                return
            if self._reads and self.gpu is None and tensor.is_cuda:
                self.gpu = _gpu_name(tensor.device)
            with undisturbed(tensor.device):
                pending.storages.append(self._storage(pending, number, tensor))

    def _argument(self, pending: Pending, name: str, value: Any) -> ArgumentKept:
        value = value.value if _kind(value) == "triton.language.core.constexpr" else value
        if isinstance(value, float) and not math.isfinite(value):
            return FloatKept(str(float(value)))
        if isinstance(value, bool | int | float | str | None):
            return PlainKept(value)
        found: ArgumentKept | None
        if type(value) in {tuple, list}:
            parts = (self._argument(pending, f"{name}.{number}", one) for number, one in enumerate(value))
            found = TupleKept(tuple(parts))
        elif _kind(value) in {"torch.dtype", "triton.language.core.dtype"}:
            found = TypeKept(str(getattr(value, "name", value)))
        elif jitted(value) is not None:
            found = FunctionKept(*pending.exporter.function(value))
        else:
            found = self._tensor(pending, value)
        if found is None:
            raise _CannotError(f"{name} is of {_kind(value)}, which cannot be kept")
        return found

    def _tensor(self, pending: Pending, value: Any) -> TensorKept | None:
        tensor = tensor_of(value)
        holds = not hasattr(value, "untyped_storage")
        if tensor is None or (hasattr(value, "layout") and holds):
            return None
        # Numbered as in TensorSeen.
        number = pending.numbers.setdefault(tensor.untyped_storage().data_ptr(), len(pending.numbers))
        if number == len(pending.tensors):
            pending.tensors.append(tensor)
            pending.dtypes.append(set())
        pending.dtypes[number].add(tensor.dtype)
        described = hasattr(value, "block_shape")
        return TensorKept(
            storage=number,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(map(int, value.shape if described else tensor.shape)),
            stride=tuple(map(int, value.strides if described else tensor.stride())),
            offset=tensor.storage_offset(),
            block=tuple(map(int, value.block_shape)) if described else None,
            padding=str(getattr(value, "padding", "zero")),
            read_as=str(getattr(value.dtype, "name", value.dtype)) if holds and not described else None,
            rounds=bool(getattr(value, "round_f32_to_tf32", False)),
        )

    def _storage(self, pending: Pending, number: int, tensor: Any) -> StorageKept:
        """What is kept of one storage, written."""
        kept = self._left_out(pending, number)
        if not self._reads:
            return kept
        raw = raw_of(tensor)
        kept = msgspec.structs.replace(kept, misaligned=raw.data_ptr() % 16)
        if not kept.size:
            return msgspec.structs.replace(kept, how="exact")
        floats = all(dtype.is_floating_point or dtype.is_complex for dtype in pending.dtypes[number])
        floats = floats and len(pending.dtypes[number]) == 1
        elements = elements_of(raw, tensor.dtype.itemsize)
        file = f"storage-{number}.bin"

        def put(how: How, parts: Callable[[], Any], size: int) -> StorageKept | None:
            if not self._reserve(pending, size):
                return None
            written(pending.part / file, parts())
            return msgspec.structs.replace(kept, how=how, file=file)

        def small() -> StorageKept | None:
            if elements is None:
                return None
            if is_constant(elements):
                return put("constant", lambda: [bytes_of(elements[:1])], elements.element_size())
            if not floats:
                return None
            sample = sample_of(elements, number)
            return put("sampled", lambda: [bytes_of(sample)], sample.nbytes)

        found: StorageKept | None = None
        whole = self._exact or not floats or kept.size <= WHOLE_BYTES or elements is None
        if whole:
            found = put("exact", lambda: chunks_of(raw), kept.size)
        if found is None and not (self._exact and whole):
            found = small()
        if found is None:
            what = "" if self._exact else " of integers" if not floats else " of a sample"
            raise _CannotError(
                f"its {kept.size} bytes{what} do not fit into the quota of {self._quota} bytes; raise --quota"
            )
        return found

    def _left_out(self, pending: Pending, number: int) -> StorageKept:
        tensor = pending.tensors[number]
        return StorageKept(tensor.untyped_storage().nbytes(), "nothing", str(tensor.dtype).removeprefix("torch."))

    def _reserve(self, pending: Pending, size: int) -> bool:
        with self._lock:
            if self._bytes + size > self._quota:
                return False
            self._bytes += size
        pending.bytes += size
        return True


def _of_rule(rule: GridRule | None, case: Case) -> dict[str, Any]:
    """What a Kept says of a grid; where nothing is known, it may follow any constant."""
    if rule is None:
        return {"suspects": frozenset(case.constants)}
    return {
        "grid_text": rule.text,
        "grid_reads": rule.reads,
        "suspects": rule.suspects,
        "tied": dict(rule.tied),
        "derived_texts": {name: (one.text, one.reads) for name, one in rule.derived.items()},
    }


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__version__", ""))


def _gpu_name(device: Any) -> str:
    import torch

    return str(torch.cuda.get_device_name(device))
