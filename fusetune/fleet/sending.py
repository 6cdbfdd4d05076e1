"""How a problem travels: its op by name, by the place of its spec, or as a capture, and its request without folders.

The source of the kernel goes along as a hash. Who receives it compares, so that no result is of another source.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import structs

from fusetune.capture.spec import CapturedSpec
from fusetune.core.problem import Problem
from fusetune.errors import CaptureError, UsageError
from fusetune.fleet.words import Seen, Work
from fusetune.ops.loading import load_spec, place_of, spec_named
from fusetune.ops.spec import KernelSpec
from fusetune.store.paths import config_path
from fusetune.store.schema import ConfigFile
from fusetune.store.yaml_files import dump_config_file, read_config_file
from fusetune.tune.plan import check_output
from fusetune.tune.request import SweepRequest

_STAYS: Final = frozenset({"spec", "output", "runs", "processes", "workers", "since"})
"""What of a request is the worker's own."""


class NamedOp(msgspec.Struct, frozen=True):
    """An op by its name or, where a user named its place, by that. `text` is the file's, where the disk is another."""

    name: str
    place: str | None
    source_hash: str
    text: bytes | None = None


class CapturedOp(msgspec.Struct, frozen=True):
    """A capture: its pickled spec, and its files where the disk is another, with the hash of all of them."""

    spec: bytes
    files: Mapping[str, bytes] | None = None
    digest: str | None = None


class UnlikeError(Exception):
    """What a worker has is not what the client sent, or cannot be loaded there."""


class Files:
    """What the client's files say of single problems, each file read once in a run.

    A worker is sent no more of a file than the entry that it may replace: others grow while it works, and are the
    client's to write.
    """

    def __init__(self) -> None:
        self._read: dict[Path, ConfigFile | None] = {}

    def of(self, path: Path, problem: Problem) -> bytes | None:
        """The file with the entry for this problem alone; None where there is none. Raises ConfigFileError."""
        if path not in self._read:
            check_output(path)
            self._read[path] = read_config_file(path) if path.is_file() else None
        file = self._read[path]
        entries = () if file is None else tuple(entry for entry in file.entries if entry.problem == problem)
        if file is None or not entries:
            return None
        return dump_config_file(structs.replace(file, entries=entries)).encode()


def work_of(item: int, request: SweepRequest, seen: Seen, files: Files, *, limit_s: float, same_disk: bool) -> Work:
    """A request as one worker can be given it. Raises UsageError where a file of it cannot be read or written."""
    spec = request.spec
    values = {name: getattr(request, name) for name in request.__struct_fields__ if name not in _STAYS}
    path = config_path(request.output, seen.gpu, spec.name)
    existing = files.of(path, request.problem)
    try:
        return Work(
            item=item,
            op=_captured(spec, same_disk) if isinstance(spec, CapturedSpec) else _named(spec, same_disk),
            payload=pickle.dumps({"request": values, "limit_s": limit_s}),
            gpu=seen.gpu,
            existing=existing,
            workers=request.workers or 1,
            since=request.since,
        )
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; it is sent to the worker {seen.worker}") from error


def _named(spec: KernelSpec, same_disk: bool) -> NamedOp:
    place = place_of(spec.name)
    file = None if place is None else place.rpartition(":")[0]
    text = None if same_disk or file is None or not file.endswith(".py") else Path(file).read_bytes()
    return NamedOp(spec.name, place, spec.source_hash(), text)


def _captured(spec: CapturedSpec, same_disk: bool) -> CapturedOp:
    if same_disk:
        return CapturedOp(pickle.dumps(spec))
    files = {str(path.relative_to(spec.folder)): path.read_bytes() for path in sorted(_files_in(spec.folder))}
    return CapturedOp(pickle.dumps(spec), files, _digest_of(files))


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _digest_of(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{len(name)} {name} {len(data)} ".encode() + data)
    return digest.hexdigest()


# What follows runs where it is received.


def received_spec(op: NamedOp | CapturedOp, folder: Path) -> KernelSpec:
    """The op that was sent; what travelled of it is put into `folder`, once. Raises UnlikeError."""
    if isinstance(op, CapturedOp):
        return _received_capture(op, folder)
    try:
        spec = spec_named(op.name) if op.place is None else load_spec(_placed(op, folder))
        found = spec.source_hash()
    except UsageError as error:
        raise UnlikeError(f"{op.name} cannot be loaded here: {error}") from error
    if found != op.source_hash:
        raise UnlikeError(f"another source of {op.name} is here: its hash is {found}, the client's is {op.source_hash}")
    return spec


def received_request(work: Work, spec: KernelSpec) -> tuple[dict[str, Any], float]:
    """The fields of the request but for folders, and the seconds for one candidate.

    Not before the op is loaded: a problem may be of a type of its module.
    """
    sent = pickle.loads(work.payload)
    return {**sent["request"], "spec": spec}, sent["limit_s"]


def _placed(op: NamedOp, folder: Path) -> str:
    """The place of the spec here: as it was named, or the file that came along."""
    assert op.place is not None, "asked of an op that has one"
    if op.text is None:
        return op.place
    file, _, attribute = op.place.rpartition(":")
    path = folder / "ops" / hashlib.sha256(op.text).hexdigest()[:16] / Path(file).name
    _write(path, op.text)
    return f"{path}:{attribute}"


def _received_capture(op: CapturedOp, folder: Path) -> KernelSpec:
    spec: CapturedSpec = pickle.loads(op.spec)
    if op.files is None:
        return spec
    if _digest_of(op.files) != op.digest:
        raise UnlikeError(f"the capture of {spec.name} came here with other bytes than it was sent with")
    placed = folder / "captures" / str(op.digest)
    for name, data in op.files.items():
        _write(placed / name, data)
    spec.folder = placed
    try:
        spec.kept  # noqa: B018 - it is read now, so that what cannot be read is told as such
    except CaptureError as error:
        raise UnlikeError(f"the capture of {spec.name} cannot be read here: {error}") from error
    return spec


def _write(path: Path, data: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(data):
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
