"""A capture on disk: one case of a program, whole, so that any process can launch it again without the program.

A folder of the owner's alone: `capture.json` holds a Kept, `kernels/` the source of the kernel and of what it calls,
and the other files the bytes of storages, as they lay in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from fusetune.capture.cases import Case
from fusetune.capture.expressions import NotPureError, evaluated
from fusetune.core.brief import brief
from fusetune.errors import CaptureError

VERSION: Final = 1
MANIFEST: Final = "capture.json"
KERNELS: Final = "kernels"
"""The folder of sources in a capture's."""
How = Literal["exact", "sampled", "constant", "nothing"]


class StorageKept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The memory behind tensors, `size` bytes of it.

    `how` it was kept: `exact` has all bytes in `file`; `sampled` has some elements of `dtype` there, of which others of
    the same distribution are drawn; `constant` repeats the bytes of one element, which `file` has; `nothing` was kept
    where there was none to read. `after` has the bytes after the launch, for an exact one that the launch changed.
    `misaligned` is by how many bytes it began behind a multiple of 16.
    """

    size: int
    how: How
    dtype: str
    file: str | None = None
    after: str | None = None
    misaligned: int = 0


class TensorKept(msgspec.Struct, frozen=True, tag="tensor", omit_defaults=True):
    """A tensor of a storage by its number; strides and `offset` in elements. `block` is a host descriptor's tile.

    `read_as` is the dtype that the launch saw it as, where that is another (triton.reinterpret). `rounds`: a
    descriptor that rounds float32 to TF32.
    """

    storage: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    block: tuple[int, ...] | None = None
    padding: str = "zero"
    read_as: str | None = None
    rounds: bool = False


class PlainKept(msgspec.Struct, frozen=True, tag="plain"):
    """A number, a flag, a word or None."""

    value: bool | int | float | str | None


class FloatKept(msgspec.Struct, frozen=True, tag="float"):
    """A float that JSON has no number for: `inf`, `-inf` or `nan`."""

    text: str


class TypeKept(msgspec.Struct, frozen=True, tag="type"):
    """A dtype of Triton by its name, as `fp16`, or of torch, as `torch.float16`."""

    name: str


class FunctionKept(msgspec.Struct, frozen=True, tag="function"):
    """A Triton function by its module and name in `kernels/`."""

    module: str
    name: str


class TupleKept(msgspec.Struct, frozen=True, tag="tuple"):
    """A tuple of arguments."""

    items: tuple[ArgumentKept, ...]


ArgumentKept = TensorKept | PlainKept | FloatKept | TypeKept | FunctionKept | TupleKept


class Placed(msgspec.Struct, frozen=True):
    """A launch with other constants: its grid, and the other arguments and constants that the program then gives."""

    constants: dict[str, Any]
    grid: tuple[int, ...] | None
    arguments: dict[str, Any] = {}


class Kept(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One case of a program.

    `module` and `kernel` name the kernel in `kernels/`. `arguments` are all of a launch by name, constants too.
    `options` are those that the launch was given beside. `placed` says for other constants what the program would have
    launched, asked while it lived; `grid_text` and `derived_texts` say it as source over the constants, where that is
    known, of those that `grid_reads` names. `proposals` are the configs of the program's own list. `quota` tells why
    something was left out. `paths` and `folder` are where the program's imports came from.
    """

    version: int
    id: str
    made: str
    program: str
    case: Case
    module: str
    kernel: str
    arguments: dict[str, ArgumentKept]
    storages: tuple[StorageKept, ...]
    options: dict[str, Any] = {}
    grid_text: str = ""
    grid_reads: frozenset[str] = frozenset()
    suspects: frozenset[str] = frozenset()
    tied: dict[str, tuple[str, ...]] = {}
    derived_texts: dict[str, tuple[str, frozenset[str]]] = {}
    placed: tuple[Placed, ...] = ()
    proposals: tuple[dict[str, Any], ...] = ()
    unlaunchable: str | None = None
    paths: tuple[str, ...] = ()
    folder: str = ""
    torch: str = ""
    triton: str = ""
    gpu: str | None = None

    def constants(self) -> dict[str, Any]:
        """The constants that are whole numbers, by name: what knobs are among."""
        names = self.case.constants
        return {
            name: one.value
            for name, one in self.arguments.items()
            if name in names and isinstance(one, PlainKept) and type(one.value) is int
        }

    def following(self, knobs: Set[str]) -> frozenset[str]:
        """The constants that the program computes from knobs, or gives the value of one."""
        return frozenset(
            name for name, (_, reads) in self.derived_texts.items() if name in self.case.constants and reads & knobs
        )

    def at(self, constants: Mapping[str, Any]) -> Placed | None:
        """The launch with these constants, and its own for those left out; None where it is not known."""
        own = self.constants()
        changed = {name: value for name, value in constants.items() if own.get(name) != value}
        if not changed:
            return Placed({}, self.case.grid)
        for one in self.placed:
            if {name: value for name, value in one.constants.items() if own.get(name) != value} == changed:
                return one if one.grid is not None else None
        return self._computed(changed, {**own, **changed})

    def _computed(self, changed: Mapping[str, Any], merged: Mapping[str, Any]) -> Placed | None:
        """The launch by the source of its grid and arguments, for constants that were not asked for."""
        if changed.keys() & self.suspects:
            return None
        follow = {name: one for name, one in self.derived_texts.items() if one[1] & changed.keys()}
        try:
            arguments = {name: evaluated(text, merged) for name, (text, _) in follow.items() if name not in changed}
            merged = {**merged, **arguments}
            if any(merged[one] != merged[other] for one, group in self.tied.items() for other in group):
                return None
            moves = bool(changed.keys() & self.grid_reads)
            grid = _as_grid(evaluated(self.grid_text, merged)) if moves else self.case.grid
        except (NotPureError, SyntaxError, ValueError, ZeroDivisionError):
            return None
        return None if grid is None else Placed(dict(changed), grid, arguments)


def named_tensors(kept: Kept) -> dict[str, TensorKept]:
    """The tensors of a launch by the names of its arguments; those in a tuple as `name.0`."""
    found: dict[str, TensorKept] = {}

    def put(name: str, one: ArgumentKept) -> None:
        if isinstance(one, TensorKept):
            found[name] = one
        elif isinstance(one, TupleKept):
            for number, item in enumerate(one.items):
                put(f"{name}.{number}", item)

    for name, one in kept.arguments.items():
        put(name, one)
    return found


def _as_grid(found: Any) -> tuple[int, ...] | None:
    axes = found if isinstance(found, tuple | list) else (found,)
    return tuple(axes) if axes and all(type(one) is int and one > 0 for one in axes) else None


def read_kept(folder: Path) -> Kept:
    """The capture in a folder. Raises CaptureError where there is none, or one of a later version."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CaptureError(f"{brief(folder)} holds no capture ({error.strerror}); capture the program again") from error
    try:
        version = msgspec.json.decode(raw, type=_Version).version
        if version > VERSION:
            raise CaptureError(f"{brief(path)} is of a later fusetune (version {version}); update, or capture again")
        return msgspec.json.decode(raw, type=Kept)
    except msgspec.DecodeError as error:
        raise CaptureError(
            f"{brief(path)} is damaged ({brief(error)}); remove it and capture the program again"
        ) from error


class _Version(msgspec.Struct):
    version: int
