"""Pins: what the compiler made of every shipped config, on record beside the configs, with the exceptions to it.

`configs/<gpu>/pins/<op>.yaml` belongs to `configs/<gpu>/<op>.yaml`. History of the format:
    1   first version
    2   `launch` and `before`, of kernels of a program: what it takes to compile one again, and what ran before
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import yaml

from fusetune.capture.pinned import LaunchPinned
from fusetune.compiler.record import KernelRecord
from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.environment import TargetIdentity
from fusetune.core.problem import Problem
from fusetune.core.trouble import why_not_written
from fusetune.core.values import to_builtins
from fusetune.errors import ConfigFileError
from fusetune.store.paths import PINS_FOLDER
from fusetune.store.regular import is_there, reason
from fusetune.store.yaml_files import replace_file
from fusetune.store.yaml_reader import parse_yaml_as, read_text

PINS_VERSION: Final = 2

_HEADER: Final = (
    "# Written by `fusetune gate --pin`: what the compiler made of each config. `overrides` are yours to write:\n"
    "#   overrides: [{problem: {...}, accepts: [registers], reason: why that is right}]\n"
)
_LINE_WIDTH: Final = 140


class Toolchain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a compilation's outcome depends on, beside the kernel's own source."""

    triton: str
    ptxas: str

    def describe(self) -> str:
        """For people: `triton 3.7.1, ptxas 12.9.86`."""
        return f"triton {self.triton}, ptxas {self.ptxas}"


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one toolchain made of one entry's config, from the kernels with `kernel_hash`.

    Of a kernel of a program, `launch` is what it was compiled for, None where that has no place in a file, and `before`
    what ran before anything was tuned.
    """

    problem: Problem
    config: Config
    kernel_hash: str
    toolchain: Toolchain
    kernels: tuple[KernelRecord, ...]
    before: Config | None = None
    launch: LaunchPinned | None = None


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics of a problem that may be worse than pinned, or spill, and the reason why that is right."""

    problem: Problem
    accepts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    reason: Annotated[str, msgspec.Meta(min_length=1)]


class PinFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pins of one op on one GPU."""

    pins: Annotated[int, msgspec.Meta(ge=1, le=PINS_VERSION)]
    op: str
    target: TargetIdentity
    entries: tuple[Pin, ...] = ()
    overrides: tuple[Override, ...] = ()

    def of(self, problem: Problem, config: Config) -> list[Pin]:
        """The pins of an entry by any toolchain."""
        return [pin for pin in self.entries if pin.problem == problem and pin.config == config]

    def override(self, problem: Problem) -> Override | None:
        """What is accepted of a problem."""
        return next((override for override in self.overrides if override.problem == problem), None)


def pins_path(configs: Path) -> Path:
    """Where the pins of a file of configs lie: not beside it, where they would be taken for configs."""
    return configs.parent / PINS_FOLDER / configs.name


def read_pins(path: Path, known_metrics: Iterable[str]) -> PinFile | None:
    """The pins at `path`; None where there is no such file.

    Raises ConfigFileError for a file that cannot be believed, or an override of a metric that there is not.
    """
    try:
        if not is_there(path):
            return None
    except OSError as error:
        raise ConfigFileError(f"cannot read {brief(path)}: {reason(error)}; see that its folder can be read") from error
    file = parse_yaml_as(read_text(path), path, PinFile)
    known = tuple(known_metrics)
    for override in file.overrides:
        unknown = [metric for metric in override.accepts if metric not in known]
        if unknown:
            raise ConfigFileError(
                f"{path}: the override of {override.problem.describe()} accepts {', '.join(unknown)}, which is not a "
                f"metric; use some of {', '.join(known)}"
            )
    return file


def write_pins(path: Path, file: PinFile) -> None:
    """Write the file whole or not at all; raises ConfigFileError where the file system refuses."""
    plain = msgspec.to_builtins(file, enc_hook=to_builtins)
    body = yaml.safe_dump(plain, default_flow_style=None, sort_keys=False, width=_LINE_WIDTH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path.resolve(), _HEADER + body)
    except OSError as error:
        raise ConfigFileError(
            f"cannot write {path}: {why_not_written(error, 'choose a folder that you may write to')}"
        ) from error


def merged(old: PinFile | None, new: PinFile, entries: Iterable[tuple[Problem, Config]]) -> PinFile:
    """`new` with what it does not replace of `old`: overrides, and the pins that there are of the file's `entries`."""
    if old is None:
        return new
    held = set(entries)
    replaced = {(pin.problem, pin.config, pin.toolchain) for pin in new.entries}
    others = [
        pin
        for pin in old.entries
        if (pin.problem, pin.config) in held and (pin.problem, pin.config, pin.toolchain) not in replaced
    ]
    return msgspec.structs.replace(new, entries=(*new.entries, *others), overrides=old.overrides)
